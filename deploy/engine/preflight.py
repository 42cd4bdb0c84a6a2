"""Why a plan cannot run here, said before TensorRT's own words for it: what it needs, what is missing, what to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deploy import hardware
from deploy.artifacts import ArtifactNames, sha256_file
from deploy.engine.flavours import FLAVOURS, capabilities, load_flavour, same_release
from deploy.errors import InputError, MachineError
from deploy.manifest import EngineInfo, Manifest
from deploy.specs import Precision

# A plan starts with its magic, a serialisation version of 0, and at 24 the library's version, a number a byte (as
# trtexec --getPlanVersionOnly reads it). TensorRT-RTX holds the plan's length at 16, which its runtime checks.
_HEADER, _LENGTH, _VERSION = 28, slice(16, 24), slice(24, 28)


@dataclass(frozen=True)
class PlanKind:
    """What a plan's header tells: which flavour and version wrote it."""

    flavour: str
    version: str

    def __str__(self) -> str:
        return f"{capabilities(self.flavour).title} {self.version} plan"


def plan_kind(path: Path) -> PlanKind:
    """Read a plan's header.

    Raises:
        InputError: the file is missing, no plan, or truncated.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEADER)
    except OSError as error:
        raise InputError(f"cannot read the plan {path}", got=(error.strerror or str(error)).lower()) from error
    flavour = next((name for name, can in FLAVOURS.items() if head.startswith(can.plan_magic)), None)
    if flavour is None or len(head) < _HEADER:
        raise InputError(
            f"{path} is not a TensorRT plan",
            got=f"{path.stat().st_size} bytes that start with {head[:4]!r}",
            expected="a file that build_engine.py or trtexec wrote",
            fix=_rebuild(path),
        )
    _check_length(path, head, flavour)
    return PlanKind(flavour, ".".join(map(str, head[_VERSION])))


def preflight(plan: Path, manifest: Manifest | None) -> None:
    """Return if the plan can be loaded here, as far as can be told without loading it.

    Raises:
        InputError: the file is no plan, is truncated, or is not the plan that ``manifest`` describes.
        MachineError: this machine lacks what it needs; names all that is missing and the command to type instead.
    """
    kind = plan_kind(plan)
    engine = manifest.engine if manifest is not None else None
    if engine is not None:
        _check_hash(plan, engine)
    if missing := [*_software(kind), *_hardware(engine)]:
        raise MachineError(
            f"{plan} cannot run on this machine",
            got="; ".join(missing),
            expected=_needs(kind, engine),
            fix=_next_step(plan, engine),
        )


def _check_length(path: Path, head: bytes, flavour: str) -> None:
    size, length = path.stat().st_size, int.from_bytes(head[_LENGTH], "little")
    if FLAVOURS[flavour].sized_plan and size != length:
        raise InputError(
            f"the plan {path} is damaged",
            got=f"{size} bytes",
            expected=f"{length} bytes, as its header says",
            fix=f"Copy it again. {_rebuild(path)}",
        )


def _check_hash(plan: Path, engine: EngineInfo) -> None:
    found = sha256_file(plan)
    if found != engine.plan_sha256:
        raise InputError(
            f"the plan {plan} is not the one that its manifest describes: it is damaged, or another was put there",
            got=f"SHA-256 {found[:12]}…",
            expected=f"{engine.plan_sha256[:12]}…",
            fix=f"Copy both files again. {_rebuild(plan)}",
        )


def _software(kind: PlanKind) -> list[str]:
    try:
        here = load_flavour(kind.flavour)
    except MachineError as error:
        return [f"{error.what} ({error.fix})"]
    return [] if same_release(here.version, kind.version) else [f"{here} is installed"]


def _hardware(engine: EngineInfo | None) -> list[str]:
    gpus = hardware.devices()
    if not gpus:
        return ["no NVIDIA GPU"]
    wanted = engine.compute_capability if engine is not None else None
    if wanted in (None, gpus[0].compute_capability):
        return []
    return [f"this GPU is {gpus[0].name} of compute capability {gpus[0].compute_capability}"]


def _needs(kind: PlanKind, engine: EngineInfo | None) -> str:
    """``TensorRT 10.13.0.35 and a GPU of compute capability 8.9 (NVIDIA L4), batch 1:8:32``."""
    gpu = "an NVIDIA GPU"
    if engine is not None and engine.compute_capability is not None:
        gpu = f"a GPU of compute capability {engine.compute_capability}"
        gpu += f" ({engine.gpu})" if engine.gpu else ""
    batch = f", batch {engine.batch}" if engine is not None else ""
    return f"{capabilities(kind.flavour).title} {kind.version} and {gpu}{batch}"


def _next_step(plan: Path, engine: EngineInfo | None) -> str:
    graph = graph_of(plan, engine)
    if graph.is_file():
        run = f"Run its graph here: python infer.py --engine {graph} IMAGE."
        return f"{run} {_rebuild(plan)}" if hardware.devices() else run
    return _rebuild(plan)


def graph_of(plan: Path, engine: EngineInfo | None) -> Path:
    """The graph a plan was built from, by its manifest or else its name: ``net.int8.rtx.plan`` → ``net.int8.onnx``."""
    if engine is not None:
        return plan.parent / engine.onnx_file
    return plan.with_name(plan.name.removesuffix(".plan").removesuffix(".rtx") + ".onnx")


def _rebuild(plan: Path) -> str:
    onnx = ArtifactNames.of(plan).onnx(Precision.FP32)
    precision = next((p for p in Precision if f".{p}." in plan.name), Precision.FP32)
    return f"Build it again where it is to run: python build_engine.py {onnx} --precision {precision}."
