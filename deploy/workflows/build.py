"""FP32 graph → precise graph → engine: quantize, verify, build, each artefact written when it is sound."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from deploy.artifacts import plan_manifest_path
from deploy.data.calibration import CalibrationData, open_calibration_data
from deploy.data.loading import tell_once
from deploy.engine.build import BuiltEngine, build_engine
from deploy.engine.flavours import Flavour, choose_flavour
from deploy.engine.loading import Loading
from deploy.engine.log import LogLine, write_log
from deploy.errors import InputError
from deploy.graph import files
from deploy.hardware import devices
from deploy.manifest import Manifest
from deploy.quantize.measured import Measured
from deploy.specs import Precision, ShapeProfile, batch_of
from deploy.tools import tool_versions
from deploy.workflows.budget import check_budget, open_budget
from deploy.workflows.checks import check_options, check_outputs, check_source
from deploy.workflows.evidence import Evidence
from deploy.workflows.fp16_range import NOT_AUDITED, audit_facts
from deploy.workflows.implicit import written_ranges
from deploy.workflows.inspection import inspect_engine
from deploy.workflows.judge import Judge
from deploy.workflows.precise import Maker
from deploy.workflows.quantize import Quantized
from deploy.workflows.refused import as_given, built_without_refused, rebuilt_graph
from deploy.workflows.request import BuildReport, BuildRequest, Reporter
from deploy.workflows.source import Source, load_source
from deploy.workflows.staging import outdated_engines, stage, stage_graph

DEFAULT_BATCH = ShapeProfile(1, 8, 32)
DEFAULT_IMAGES = 512


def build(request: BuildRequest, report: Reporter) -> BuildReport:
    """Run the whole job. Without a GPU the precise graph is simulated by its twin; with one the engine is run too.

    Graph, engine and manifest are written together at the end, or not at all. Only ranges are kept as soon as they are
    calibrated, for the next try.

    Raises:
        InputError: the graph, the data or an option is wrong.
        CheckFailed: the precise graph or the engine is not close enough to the FP32 graph.
        MachineError: no builder works here.
    """
    flavour = None if request.backend == "none" else choose_flavour(request.backend)
    check_options(request, flavour)
    check_budget(request)
    source = load_source(request.onnx, report.note, report.warn, request.image_size, request.calibration_data)
    check_source(source, request)
    if source.nms is not None and flavour is not None and not flavour.can.nms:
        fix = "Build with --backend tensorrt or none, or export without --nms."
        raise InputError(f"{flavour} has no non-maximum suppression, and {source.path} ends in it", fix=fix)
    job = _Job(request, report, source, flavour)
    check_outputs(job.outputs, source)
    if source.manifest.weights.warning:
        report.warn(source.manifest.weights.warning)
    return job.run()


class _Job:
    """One build: the request, what it resolves to, and what is known of it so far."""

    def __init__(self, request: BuildRequest, report: Reporter, source: Source, flavour: Flavour | None) -> None:
        self._request, self._report, self._source, self._flavour = request, report, source, flavour
        names = request.names()
        self._as_it_is = source.precision is request.precision  # nothing to convert: the graph that was given is built
        given, rtx = request.file, flavour is not None and flavour.can.rtx
        self._onnx = (given if flavour is None else None) or names.onnx(request.precision)
        self._plan = given or names.plan(request.precision, rtx=rtx)
        if self._as_it_is:
            self._onnx = source.path
        self._cache, self._new_cache = request.cache_to_read or names.calibration(), request.cache_to_write
        self._data = self._open_data()
        self._budget = open_budget(request, source, self._data, report.warn)
        calibrated = request.precision is Precision.INT8 and not (self._as_it_is or request.cache_to_read)
        self._judge = Judge(source, request.precision, self._data, report.warn, calibrated=calibrated)
        self._seconds: dict[str, float] = {}
        self._log: list[LogLine] = []

    @property
    def outputs(self) -> list[Path]:
        """The files this build will write."""
        # Whether the weights will need a file of their own shows only when they are converted.
        graph = [] if self._as_it_is else [self._onnx, files.data_path(self._onnx)]
        request = self._request
        calibrates = request.precision is Precision.INT8 and graph and request.cache_to_read is None
        ranges = [self._cache, *filter(None, [self._new_cache])] if calibrates else []
        beside = filter(None, [request.log, request.options.timing_cache])
        engine = [self._plan, plan_manifest_path(self._plan), *beside] if self._flavour else []
        return [*graph, *ranges, *engine]

    def run(self) -> BuildReport:
        with self._timed("quantize"):
            made = self._precise()
            if not made.peaks and not self._as_it_is:
                self._report.warn(NOT_AUDITED)
        return built_without_refused(made, self._finish, self._report)

    def _finish(self, made: Quantized, changed: bool) -> BuildReport:
        """Judge, write and build a graph: all of it, or nothing."""
        if changed and self._as_it_is:
            # The graph that was given is no longer what is built: that has a file of its own beside the engine.
            self._as_it_is, self._onnx = False, rebuilt_graph(self._plan, self._request.precision)
        evidence = Evidence(self._source, self._judge, self._report, real=self._data is not None)
        self._judge_graph(made, evidence)
        graph, manifest = self._source.finished(made.graph, self._manifest(made, evidence))
        made = replace(made, graph=graph)
        with contextlib.ExitStack() as staged:
            onnx, place = self._write(staged, made, manifest)
            if self._new_cache is not None:
                cache = written_ranges(self._source.graph, made.amax, self._report.note)
                stage(staged, self._new_cache, cache)
            built = self._compile(onnx, place, self._flavour) if self._flavour else None
            if built is not None and self._flavour is not None:
                plan = stage(staged, self._plan, built.plan)
                loading = built.loading(onnx, place)
                self._judge_plan(plan, self._flavour, loading, evidence)
                filed = self._onnx.read_bytes() if self._as_it_is else onnx
                info = built.info(os.path.relpath(self._onnx, self._plan.parent), filed)
                inspection = inspect_engine(built.plan, self._flavour, made.graph, loading)
                info = replace(info, inspection=inspection.to_dict(), device_memory=evidence.device_memory)
                manifest = manifest.evolve(engine=info, parity=evidence.parity)
                stage(staged, plan_manifest_path(self._plan), manifest.to_json(indent=2).encode())
        for engine in [] if built else outdated_engines(self._onnx, self._request.precision):
            self._report.warn(f"{engine} was built from an earlier {self._onnx.name}: build it again")
        return BuildReport(
            onnx=self._onnx,
            plan=self._plan if built else None,
            manifest=manifest,
            verdicts=evidence.verdicts,
            evidence=tuple(evidence.lines),
            builder_warnings=built.warnings if built else (),
            seconds=self._seconds,
            calibration_cache=self._new_cache,
        )

    def _open_data(self) -> CalibrationData | None:
        path, manifest = self._request.calibration_data, self._source.manifest
        if path is None:
            return None
        limit = self._request.calibration_images or DEFAULT_IMAGES
        skipped = tell_once(self._report.warn)
        return open_calibration_data(path, manifest.inputs, manifest.preprocessing, limit, on_error=skipped)

    def _precise(self) -> Quantized:
        if self._as_it_is:
            return as_given(self._source.graph, self._source.manifest.quantization)
        maker = Maker(self._request, self._source, self._data, self._cache, self._report, self._timed)
        if self._request.precision is Precision.FP16:
            return maker.half()
        return maker.int8(self._measured(), self._budget, self._batch())

    def _measured(self) -> Measured | None:
        """Latency on the GPU, where the engine is built for one that is here."""
        gpu = next(iter(devices()), None)
        if gpu is None or self._flavour is None or not self._flavour.can.timed:
            return None
        request, report = self._request, self._report
        return Measured(self._flavour, self._batch(), gpu.name, request.options, report.phases, report.warn)

    def _judge_graph(self, made: Quantized, evidence: Evidence) -> None:
        name, precision = self._onnx.name, self._request.precision
        if self._as_it_is:
            evidence.lines.append(f"{name}: built as it is" if self._source.as_filed else f"{name}: built simplified")
        elif self._judge.able:
            with self._timed("verify"):
                evidence.simulate(name, made, precision)
        else:
            ranges = "" if self._source.precision is precision else f"ranges from {self._cache.name}, "
            evidence.lines.append(f"{name}: {ranges}not compared: no --calibration-data")
            self._report.warn("the INT8 graph was not compared with the FP32 graph: that takes --calibration-data")

    def _judge_plan(self, plan: Path, flavour: Flavour, loading: Loading, evidence: Evidence) -> None:
        """Run the engine where it lies before it takes its place."""
        compiled = f"{self._plan.name}: parsed and compiled by {flavour}"
        if not devices() or not self._judge.able:
            reason = "no --calibration-data to compare on" if devices() else "no GPU here"
            evidence.lines.append(f"{compiled}, not executed: {reason}")
            return
        with self._timed("run"):
            evidence.execute(plan, self._plan.name, compiled, loading, elsewhere=flavour.can.compute_capabilities)

    def _manifest(self, made: Quantized, evidence: Evidence) -> Manifest:
        if self._as_it_is:
            return self._source.manifest
        audit = audit_facts(made.graph, made.peaks, self._source.manifest.weights.source)
        return self._source.manifest.evolve(
            precision=self._request.precision,
            quantization={**audit, **(made.facts or {})},
            parity=evidence.parity,
            tools={**self._source.manifest.tools, **tool_versions("onnx", "onnx-ir", "onnxruntime")},
        )

    def _write(self, staged: contextlib.ExitStack, made: Quantized, manifest: Manifest) -> tuple[bytes, Path | None]:
        """Stage the graph. Returns what its file holds, and where that lies if weights may lie beside it."""
        if self._as_it_is and self._source.as_filed:
            return self._onnx.read_bytes(), self._onnx
        return stage_graph(staged, self._onnx, made.graph, manifest, keep=not self._as_it_is)

    def _batch(self) -> ShapeProfile:
        return self._request.batch or self._default_batch()

    def _default_batch(self) -> ShapeProfile:
        axis = batch_of(self._source.manifest.inputs)
        return DEFAULT_BATCH if isinstance(axis, str) else ShapeProfile(axis or 1, axis or 1, axis or 1)

    def _compile(self, onnx: bytes, place: Path | None, flavour: Flavour) -> BuiltEngine:
        request, lines = self._request, self._log
        self._report.note(f"building with {flavour}")
        try:
            with self._timed("build"):
                return build_engine(
                    onnx,
                    flavour=flavour,
                    batch=self._batch(),
                    options=request.options,
                    path=place,
                    progress=self._report.phases,
                    log=lines,
                )
        finally:
            if request.log is not None:
                write_log(request.log, lines)

    @contextlib.contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._seconds[step] = self._seconds.get(step, 0.0) + time.perf_counter() - start
