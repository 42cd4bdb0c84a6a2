"""A plan's file: what its header tells, the graph that it was built from, the command that builds it again."""

from __future__ import annotations

import contextlib
import shlex
from dataclasses import dataclass
from pathlib import Path

from deploy.artifacts import ArtifactNames, sha256_file
from deploy.engine.flavours import FLAVOURS, capabilities
from deploy.errors import InputError
from deploy.manifest import EngineInfo, Manifest, read_plan_manifest
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
    head = plan_head(path, _HEADER)
    flavour = next((name for name, can in FLAVOURS.items() if head.startswith(can.plan_magic)), None)
    if flavour is None or len(head) < _HEADER:
        raise InputError(
            f"{path} is not a TensorRT plan",
            got=f"{path.stat().st_size} bytes that start with {head[:4]!r}",
            expected="a file that build_engine.py or trtexec wrote",
            fix=build_again(path),
        )
    _check_length(path, head, flavour)
    return PlanKind(flavour, ".".join(map(str, head[_VERSION])))


def plan_head(path: Path, size: int) -> bytes:
    """The first ``size`` bytes, or all where there are fewer. Raises :class:`InputError` where it cannot be read."""
    try:
        with path.open("rb") as stream:
            return stream.read(size)
    except OSError as error:
        raise InputError(f"cannot read the plan {path}", got=(error.strerror or str(error)).lower()) from error


def check_hash(plan: Path, manifest: Manifest) -> None:
    """Raise :class:`InputError` unless ``plan`` is the one that its manifest describes."""
    assert manifest.engine is not None
    found, wanted = sha256_file(plan), manifest.engine.plan_sha256
    if found != wanted:
        raise InputError(
            f"the plan {plan} is not the one that its manifest describes: it is damaged, or another was put there",
            got=f"SHA-256 {found[:12]}…",
            expected=f"{wanted[:12]}…",
            fix=_copy("both files", plan, manifest),
        )


def _check_length(path: Path, head: bytes, flavour: str) -> None:
    size, length = path.stat().st_size, int.from_bytes(head[_LENGTH], "little")
    if FLAVOURS[flavour].sized_plan and size != length:
        raise InputError(
            f"the plan {path} is damaged",
            got=f"{size} bytes",
            expected=f"{length} bytes, as its header says",
            fix=_copy("it", path),
        )


def graph_of(plan: Path, engine: EngineInfo | None) -> Path:
    """The graph a plan was built from, by its manifest or else its name: ``net.int8.rtx.plan`` → ``net.int8.onnx``."""
    if engine is not None:
        return plan.parent / engine.onnx_file
    return plan.with_name(plan.name.removesuffix(".plan").removesuffix(".rtx") + ".onnx")


def unchanged_graph(plan: Path, engine: EngineInfo) -> Path:
    """The graph that a plan was built from, as it was then.

    Raises:
        InputError: it is not there, or was changed.
    """
    graph = graph_of(plan, engine)
    if not graph.is_file():
        raise InputError(
            f"the graph that {plan} was built from is not there",
            got=f"no file {graph}",
            expected=f"the graph of SHA-256 {engine.onnx_sha256[:12]}…",
            fix="Copy it beside the plan.",
        )
    found = sha256_file(graph)
    if found != engine.onnx_sha256:
        raise InputError(
            f"{graph} is not the graph that {plan} was built from: it was changed, or another was put there",
            got=f"SHA-256 {found[:12]}…",
            expected=f"{engine.onnx_sha256[:12]}…",
            fix="Copy that graph beside the plan, or build from this one under another name: "
            f"python build_engine.py {quoted(graph)} --precision {_precision(plan)} -o NEW.plan.",
        )
    return graph


def _copy(what: str, plan: Path, manifest: Manifest | None = None) -> str:
    again = build_again(plan, manifest)
    return f"Copy {what} again, or {again[0].lower()}{again[1:]}"


def build_again(plan: Path, manifest: Manifest | None = None) -> str:
    """The sentence with the command that builds a plan again where it is to run.

    ``manifest``: None is the one beside the plan, if it can be read.
    """
    with contextlib.suppress(InputError):
        manifest = manifest or read_plan_manifest(plan)
    engine = manifest.engine if manifest is not None else None
    graph = graph_of(plan, engine)
    if manifest is None or engine is None or not graph.is_file():
        onnx = ArtifactNames.of(plan).onnx(Precision.FP32)
        command = f"python build_engine.py {quoted(onnx)} --precision {_precision(plan)}"
        return f"Build it again where it is to run: {command}."
    command = f"python build_engine.py {quoted(graph)} --precision {manifest.precision} --batch {engine.batch}"
    return f"Build it again where it is to run: add --rebuild, or {command} -o {quoted(plan)}."


def quoted(path: Path) -> str:
    """As a shell takes it."""
    return shlex.quote(str(path))


def _precision(plan: Path) -> Precision:
    return next((each for each in Precision if f".{each}." in plan.name), Precision.FP32)
