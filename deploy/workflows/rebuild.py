"""A plan that does not fit this machine is built again from its graph, as its manifest says it was built."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from deploy import hardware
from deploy.artifacts import check_writable, locked, plan_manifest_path
from deploy.engine.build import BuiltEngine, build_engine
from deploy.engine.compatible import compatible_of
from deploy.engine.flavours import Flavour, choose_flavour
from deploy.engine.loading import stripped
from deploy.engine.options import BuildOptions
from deploy.engine.plan import build_again, quoted, unchanged_graph
from deploy.engine.preflight import examine, unfit
from deploy.errors import InputError
from deploy.graph import files
from deploy.manifest import EngineInfo, Manifest, read_plan_manifest
from deploy.specs import Precision
from deploy.workflows.inspection import inspect_engine
from deploy.workflows.quantize import Quantized
from deploy.workflows.refused import as_given, built_without_refused, rebuilt_graph
from deploy.workflows.request import Reporter
from deploy.workflows.source import Source, load_source
from deploy.workflows.staging import stage, stage_graph

_KEPT = ("workspace_gib", "tactic_memory_gib", "optimization_level", "aux_streams")


def rebuild_unfit(plan: Path, report: Reporter) -> bool:
    """Build a plan again where it is damaged or another release's or GPU's; whether that was done.

    Plan and manifest are replaced together once the build has succeeded; until then, or if it fails, the old ones stay.
    Of several processes that find the plan unfit one builds it; the others wait for that, and take what it built.

    Raises:
        InputError: it has no manifest, or its graph is not there or was changed; or the build fails.
        MachineError: no plan could run here, or none can be built.
    """
    if _find(plan) is None:
        return False
    with locked(plan):
        found = _find(plan)  # anew: another process may have built it while this one waited
        if found is None:
            return False
        report.note(f"{plan} does not fit this machine: {found.reason}")
        source = load_source(found.graph, report.note, report.warn, _opened_size(found.graph, found.manifest))
        _replace(plan, found.manifest, found.engine, source, report)
    return True


@dataclass(frozen=True)
class _Unfit:
    """A plan that has to be built again, and why; ``graph`` is what it was built from, unchanged."""

    reason: str
    manifest: Manifest
    engine: EngineInfo
    graph: Path


def _find(plan: Path) -> _Unfit | None:
    """None where the plan fits. Raises where it cannot be built again."""
    manifest = read_plan_manifest(plan)
    reason = _reason(plan, manifest)
    if reason is None:
        return None
    if manifest is None or manifest.engine is None:
        raise InputError(
            f"{plan} does not fit this machine, and cannot be built again without its manifest",
            got=f"no file {plan_manifest_path(plan)}; {reason}",
            fix=build_again(plan),
        )
    for path in (plan, plan_manifest_path(plan)):
        check_writable(path)
    return _Unfit(reason, manifest, manifest.engine, unchanged_graph(plan, manifest.engine))


def _reason(plan: Path, manifest: Manifest | None) -> str | None:
    """Why the plan has to be built again; None where it fits. Raises where a new one would not run here either."""
    try:
        findings = examine(plan, manifest)
    except InputError as error:
        if not hardware.devices():
            raise
        return error.what
    if not all(misfit.mended for misfit in findings.misfits):
        raise unfit(plan, manifest, findings)
    return "; ".join(misfit.got for misfit in findings.misfits) or None


def _replace(plan: Path, manifest: Manifest, engine: EngineInfo, source: Source, report: Reporter) -> None:
    flavour = choose_flavour(engine.flavour)
    report.note(f"building it again from {source.path} with {flavour}")

    def attempt(made: Quantized, changed: bool) -> tuple[Path, BuiltEngine]:
        # What was measured of the old plan or of another graph says nothing of this one.
        facts = manifest.evolve(parity=() if changed else source.manifest.parity)
        if not changed:
            return source.path, _build(plan, facts, engine, flavour, source, report)
        graph = rebuilt_graph(plan, source.precision)
        facts = facts.evolve(quantization=made.facts)
        described = source.manifest.evolve(quantization=made.facts, parity=())
        new = replace(source, path=graph, graph=made.graph, manifest=described)
        return graph, _build(plan, facts, engine, flavour, new, report, keep=True)

    given = as_given(source.graph, source.manifest.quantization)
    graph, built = built_without_refused(given, attempt, report)
    for warning in built.warnings:
        report.warn(f"builder: {warning}")
    data = " --data DIR" if manifest.precision is Precision.INT8 else ""
    compare = f"python -m deploy verify {quoted(graph)} {quoted(plan)}{data}"
    report.note(f"replaced {plan} and its manifest; the new engine was not compared with its graph: {compare}")


def _build(
    plan: Path,
    manifest: Manifest,
    engine: EngineInfo,
    flavour: Flavour,
    source: Source,
    report: Reporter,
    *,
    keep: bool = False,
) -> BuiltEngine:
    """Build and replace. ``keep``: the source is a graph of its own, and its file is written too."""
    # The graph is moved first, as the manifest refers to it.
    with ExitStack() as staged, ExitStack() as staged_graph:
        onnx, place = _graph(staged_graph, source, keep=keep)
        built = build_engine(
            onnx, flavour=flavour, batch=engine.batch, options=_options(engine), path=place, progress=report.phases
        )
        inspection = inspect_engine(built.plan, flavour, source.graph, built.loading(onnx, place))
        filed = onnx if keep else source.path.read_bytes()
        info = built.info(os.path.relpath(source.path, plan.parent), filed)
        new = manifest.evolve(engine=replace(info, inspection=inspection.to_dict()))
        stage(staged, plan, built.plan)
        # Moved before the plan: between the two moves the manifest does not fit the plan, which every command sees.
        stage(staged, plan_manifest_path(plan), new.to_json(indent=2).encode())
    return built


def _graph(staged: ExitStack, source: Source, *, keep: bool) -> tuple[bytes, Path | None]:
    """What the builder is given: the file as it is, or in the form that ``build`` made of it."""
    if source.as_filed and not keep:
        return source.path.read_bytes(), source.path
    graph, manifest = source.finished(source.graph, source.manifest)
    return stage_graph(staged, source.path, graph, manifest, keep=keep)


def _options(engine: EngineInfo) -> BuildOptions:
    """Those of the manifest; a compute capability that was asked for becomes that of the GPU here."""
    given = engine.options
    gpu = hardware.devices()[0] if given.get("compute_capability") else None
    try:
        return BuildOptions(
            **{name: given[name] for name in _KEPT if name in given},
            compute_capability=gpu.compute_capability if gpu else None,
            compatible=compatible_of(given),
            strip_weights=stripped(given),
        )
    except TypeError as error:
        raise InputError("the manifest's options are damaged", got=str(error)) from error


def _opened_size(graph: Path, manifest: Manifest) -> tuple[int, int] | None:
    """Height and width that the engine was built for, where its graph leaves them open."""
    shapes = [value.shape for value in files.load(graph).graph.inputs]
    if all(isinstance(dim, int) for shape in shapes if shape is not None for dim in shape[1:]):
        return None
    images = [spec.shape for spec in manifest.inputs if len(spec.shape) == 4]
    for _, *rest in images:
        height, width = rest[:2] if rest[2] == 3 and rest[0] != 3 else rest[1:]
        if isinstance(height, int) and isinstance(width, int):
            return height, width
    return None
