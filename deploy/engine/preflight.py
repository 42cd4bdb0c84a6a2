"""Why a plan cannot run here, said before TensorRT's own words for it: what it needs, what is missing, what to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deploy import hardware
from deploy.engine.compatible import Compatible, compatible_of, runs_in, runs_on
from deploy.engine.flavours import Flavour, capabilities, cuda_major, load_flavour
from deploy.engine.plan import PlanKind, build_again, check_hash, graph_of, plan_kind, quoted
from deploy.engine.validity import invalidity
from deploy.errors import MachineError
from deploy.hardware import GpuInfo
from deploy.manifest import EngineInfo, Manifest
from deploy.specs import ShapeProfile


@dataclass(frozen=True)
class Misfit:
    """What this machine has or lacks. ``mended``: by building the plan again here."""

    got: str
    mended: bool


@dataclass(frozen=True)
class Findings:
    """Why a plan cannot run here, and what is worth knowing of one that can."""

    misfits: tuple[Misfit, ...] = ()
    remarks: tuple[str, ...] = ()


def preflight(plan: Path, manifest: Manifest | None) -> tuple[str, ...]:
    """Return if the plan can be loaded here, as far as can be told without loading it, with what is worth knowing.

    Raises:
        InputError: the file is no plan, is truncated, or is not the plan that ``manifest`` describes.
        MachineError: this machine lacks what it needs; names all that is missing and the command to type instead.
    """
    findings = examine(plan, manifest)
    if findings.misfits:
        raise unfit(plan, manifest, findings)
    return findings.remarks


def examine(plan: Path, manifest: Manifest | None) -> Findings:
    """All that can be told from the plan's header, its manifest, the driver and the installed packages.

    Raises:
        InputError: as :func:`preflight`.
    """
    kind = plan_kind(plan)
    engine = manifest.engine if manifest is not None else None
    if manifest is not None and engine is not None:
        check_hash(plan, manifest)
    gpu = next(iter(hardware.devices()), None)
    try:
        here = load_flavour(kind.flavour)
    except MachineError as error:
        return Findings((Misfit(f"{error.what} ({error.fix})", False), *_hardware(gpu, engine)))
    misfits = [*_software(here, kind, engine), *_hardware(gpu, engine)]
    remarks = _remarks(here, gpu, engine)
    if gpu is not None and not misfits and here.can.validity:
        invalid, said = invalidity(plan, here)
        misfits += [Misfit(*reason) for reason in invalid]
        remarks += said
    return Findings(tuple(misfits), tuple(remarks))


def unfit(plan: Path, manifest: Manifest | None, findings: Findings) -> MachineError:
    """The error of a plan that cannot run here."""
    engine = manifest.engine if manifest is not None else None
    return MachineError(
        f"{plan} cannot run on this machine",
        got="; ".join(misfit.got for misfit in findings.misfits),
        expected=_needs(plan_kind(plan), engine),
        fix=_next_step(plan, manifest, findings),
    )


def batch_remark(batch: ShapeProfile, size: int) -> str | None:
    """What becomes of batches of ``size`` in an engine that takes ``batch``; None where it runs them as they are."""
    takes = f"{batch.min}" if batch.min == batch.max else f"{batch.min} to {batch.max}"
    if size > batch.max:
        return f"the engine takes batches of {takes}: {size} run in pieces of at most {batch.max}"
    if size < batch.min:
        filled = f"{size} are filled up to {batch.min} with copies of the last, whose results are dropped"
        return f"the engine takes batches of {takes}: {filled}"
    return None


def _software(here: Flavour, kind: PlanKind, engine: EngineInfo | None) -> list[Misfit]:
    misfits = []
    if not runs_in(here.version, kind.version, _compatible(engine)):
        misfits.append(Misfit(f"{here} is installed", True))
    driver, needed = hardware.driver_cuda(), cuda_major(here.name)
    if driver is not None and needed is not None and driver[0] < needed:
        supported = f"the driver supports CUDA {driver[0]}.{driver[1]}"
        misfits.append(Misfit(f"{supported}, and the {here.can.title} that is installed needs CUDA {needed}", False))
    return misfits


def _hardware(gpu: GpuInfo | None, engine: EngineInfo | None) -> list[Misfit]:
    if gpu is None:
        return [Misfit("no NVIDIA GPU", False)]
    if engine is None:
        return []
    misfits = []
    if not runs_on(gpu.compute_capability, engine.compute_capability, _compatible(engine)):
        misfits.append(Misfit(f"this GPU is {gpu.name} of compute capability {gpu.compute_capability}", True))
    free = hardware.free_memory() if engine.device_memory is not None else None
    if free is not None and engine.device_memory is not None and free < engine.device_memory:
        there = f"{_size(free)} of the {_size(gpu.memory)} of {gpu.name} are free"
        misfits.append(Misfit(f"{there}, and the engine takes {_size(engine.device_memory)}", False))
    return misfits


def _remarks(here: Flavour, gpu: GpuInfo | None, engine: EngineInfo | None) -> list[str]:
    """TensorRT runs a plan on another model of the same compute capability, and promises nothing."""
    if gpu is None or engine is None or engine.gpu in (None, gpu.name) or not here.can.compatible:
        return []
    if {Compatible.SAME_CC, Compatible.AMPERE_PLUS} & set(_compatible(engine)):
        return []
    return [f"built on {engine.gpu} without --compatible same-cc: it may be slower here, or fail"]


def _needs(kind: PlanKind, engine: EngineInfo | None) -> str:
    """``TensorRT 10.13.0.35 and a GPU of compute capability 8.9 (NVIDIA L4), batch 1:8:32``."""
    compatible, gpu = _compatible(engine), "an NVIDIA GPU"
    if Compatible.AMPERE_PLUS in compatible:
        gpu = "a GPU of compute capability 8.0 or more"
    elif engine is not None and engine.compute_capability is not None:
        gpu = f"a GPU of compute capability {engine.compute_capability}"
        gpu += f" ({engine.gpu})" if engine.gpu else ""
    newer = " or newer" if Compatible.VERSION in compatible else ""
    batch = f", batch {engine.batch}" if engine is not None else ""
    return f"{capabilities(kind.flavour).title} {kind.version}{newer} and {gpu}{batch}"


def _next_step(plan: Path, manifest: Manifest | None, findings: Findings) -> str:
    graph = graph_of(plan, manifest.engine if manifest is not None else None)
    mended = all(misfit.mended for misfit in findings.misfits)
    steps = (
        []
        if mended or not graph.is_file()
        else [f"Run its graph here: python infer.py --engine {quoted(graph)} IMAGE."]
    )
    if not steps or hardware.devices():
        steps.append(build_again(plan, manifest))
    return " ".join(steps)


def _compatible(engine: EngineInfo | None) -> tuple[Compatible, ...]:
    return compatible_of(engine.options) if engine is not None else ()


def _size(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
