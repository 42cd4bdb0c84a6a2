"""FP32 graph → precise graph → engine: quantize, verify, build, each artefact written when it is sound."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

from deploy.artifacts import ArtifactNames, check_writable, write_bytes
from deploy.data import CalibrationData, open_calibration_data
from deploy.engine.build import BuiltEngine, build_engine
from deploy.engine.flavours import Flavour, choose_flavour
from deploy.engine.log import LogLine, write_log
from deploy.engine.progress import Progress as BuildProgress
from deploy.errors import CheckFailed, InputError
from deploy.graph import files
from deploy.graph.twin import twin
from deploy.hardware import devices
from deploy.manifest import Manifest, write_plan_manifest
from deploy.parity.compare import Comparison
from deploy.parity.inputs import synthetic_batches
from deploy.parity.judge import compare_runners
from deploy.parity.limits import DEFAULT_LIMITS
from deploy.runtime.base import Array, Runner
from deploy.runtime.onnxrt import OnnxRunner
from deploy.specs import Precision, ShapeProfile
from deploy.tools import tool_versions
from deploy.workflows.quantize import Calibration, Quantized, to_half, to_int8
from deploy.workflows.source import Source, load_source

DEFAULT_BATCH = ShapeProfile(1, 8, 32)
DEFAULT_IMAGES = 512
# Rows that compare the precise graph with the FP32 one: 128 images where data is given.
VERIFY_BATCH, VERIFY_BATCHES = 8, 16


class Reporter(Protocol):
    """Where a build says what it is doing."""

    def note(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...

    def calibrating(self, done: int, total: int) -> None: ...

    @property
    def phases(self) -> BuildProgress: ...


@dataclass(frozen=True)
class BuildRequest:
    """What to build. Backend ``none`` stops at the precise graph; ``output`` None or a folder names artefacts after the graph."""

    onnx: Path
    precision: Precision
    calibration_data: Path | None = None
    calibration_method: str | None = None
    calibration_images: int | None = None
    batch: ShapeProfile | None = None
    backend: str = "auto"
    timing_cache: Path | None = None
    workspace_gib: float | None = None
    compute_capability: str | None = None
    output: Path | None = None
    log: Path | None = None


@dataclass(frozen=True)
class BuildReport:
    """What was built. ``verdicts`` compare the precise graph, and an engine that ran, with the FP32 graph.

    ``evidence`` says for each artefact what was really done with it: parsed, compiled, simulated, executed.
    """

    onnx: Path
    plan: Path | None
    manifest: Manifest
    verdicts: Mapping[str, Comparison]
    evidence: tuple[str, ...]
    builder_warnings: tuple[str, ...]
    seconds: Mapping[str, float]


def build(request: BuildRequest, report: Reporter) -> BuildReport:
    """Run the whole job. Without a GPU the precise graph is simulated by its twin; with one the engine is run too.

    Raises:
        InputError: the graph, the data or an option is wrong.
        CheckFailed: the precise graph or the engine is not close enough to the FP32 graph; it is not written.
        MachineError: no builder works here.
    """
    flavour = None if request.backend == "none" else choose_flavour(request.backend)
    source = load_source(request.onnx, report.warn)
    _check_source(source, request)
    job = _Job(request, report, source, flavour)
    for path in job.outputs:
        check_writable(path)
    if source.manifest.weights.warning:
        report.warn(source.manifest.weights.warning)
    return job.run()


def _check_source(source: Source, request: BuildRequest) -> None:
    if source.precision not in (Precision.FP32, request.precision):
        raise InputError(
            f"{source.path} is an {str(source.precision).upper()} graph already",
            expected=f"the FP32 graph, or --precision {source.precision}",
        )


class _Job:
    """One build: the request, what it resolves to, and the seconds of each step."""

    def __init__(self, request: BuildRequest, report: Reporter, source: Source, flavour: Flavour | None) -> None:
        self._request, self._report, self._source, self._flavour = request, report, source, flavour
        into = request.output if request.output and request.output.is_dir() else None
        output = None if into else request.output
        names = ArtifactNames.of(output or (into or Path()) / request.onnx.name)
        self._as_it_is = source.precision is request.precision  # nothing to convert: the graph that was given is built
        self._onnx = source.path if self._as_it_is else names.onnx(request.precision)
        rtx = flavour is not None and flavour.can.rtx
        self._plan = output if output and flavour else names.plan(request.precision, rtx=rtx)
        self._cache = names.calibration()
        self._seconds: dict[str, float] = {}
        self._data = self._open_data()
        if self._plan.suffix == ".onnx":
            raise InputError(f"an engine is not an .onnx file: {self._plan}", expected="-o FILE.plan")

    @property
    def outputs(self) -> list[Path]:
        """The files this build will write."""
        return [*([] if self._as_it_is else [self._onnx]), *([self._plan] if self._flavour else [])]

    def run(self) -> BuildReport:
        with self._timed("quantize"):
            made = self._precise()
        with self._timed("verify"):
            verdicts, evidence = self._judge_graph(made)
        manifest = self._manifest(made, verdicts)
        data = self._store(made, manifest)
        if self._flavour is None:
            return BuildReport(self._onnx, None, manifest, verdicts, tuple(evidence), (), self._seconds)
        with self._timed("build"):
            built = self._compile(data, self._flavour)
        manifest = manifest.evolve(engine=built.info(os.path.relpath(self._onnx, self._plan.parent), data))
        write_bytes(self._plan, built.plan)
        write_plan_manifest(self._plan, manifest)
        evidence.append(f"{self._plan.name}: parsed and compiled by {self._flavour}")
        if devices():
            with self._timed("run"):
                verdicts["plan"] = self._judge_plan(evidence)
        else:
            evidence[-1] += ", not executed: no GPU here"
        return BuildReport(self._onnx, self._plan, manifest, verdicts, tuple(evidence), built.warnings, self._seconds)

    def _open_data(self) -> CalibrationData | None:
        path, manifest = self._request.calibration_data, self._source.manifest
        if path is None:
            return None
        limit = self._request.calibration_images or DEFAULT_IMAGES
        skipped = lambda file, error: self._report.warn(f"skipped: {error.headline}")  # noqa: E731
        return open_calibration_data(path, manifest.inputs, manifest.preprocessing, limit, on_error=skipped)

    def _precise(self) -> Quantized:
        if self._as_it_is:
            return Quantized(self._source.graph, self._source.manifest.quantization)
        if self._request.precision is Precision.FP16:
            self._report.note("converting to FP16")
            return to_half(self._source, self._data, self._report.note)
        calibration = Calibration(
            self._data, self._cache, self._request.calibration_method, self._report.note, self._report.calibrating
        )
        return to_int8(self._source, calibration)

    def _judge_graph(self, made: Quantized) -> tuple[dict[str, Comparison], list[str]]:
        if self._as_it_is:
            return {}, [f"{self._onnx.name}: built as it is"]
        self._report.note(
            f"comparing the {self._request.precision} graph with the FP32 graph on {self._describe_inputs()}"
        )
        with OnnxRunner(files.to_bytes(twin(made.graph)), device="cpu") as runner:
            comparison = self._judge(runner, f"the {self._request.precision} graph")
        return {"graph": comparison}, [f"{self._onnx.name}: simulated on CPU by its twin, on {self._describe_inputs()}"]

    def _judge_plan(self, evidence: list[str]) -> Comparison:
        from deploy.runtime.trt import open_plan

        with open_plan(self._plan) as runner:
            comparison = self._judge(runner, f"the engine {self._plan}")
            evidence.append(f"{self._plan.name}: {runner.execution}, on {self._describe_inputs()}")
        return comparison

    def _judge(self, runner: Runner, what: str) -> Comparison:
        """Compare with the FP32 graph in ONNX Runtime on the CPU.

        Raises:
            CheckFailed: it is too far off.
        """
        with OnnxRunner(files.to_bytes(self._source.graph), device="cpu") as reference:
            (outputs,) = compare_runners(reference, [runner], self._verify_batches())
        failures = {name: DEFAULT_LIMITS[self._request.precision].failures(c) for name, c in outputs.items()}
        if any(failures.values()) and self._source.manifest.weights.source == "random":
            self._report.warn(f"{what} is far from the FP32 graph, as random weights on real images can be: not judged")
        elif any(failures.values()):
            raise CheckFailed(
                f"{what} is too far from the FP32 graph",
                got="; ".join(f"{name}: {', '.join(reasons)}" for name, reasons in failures.items() if reasons),
                fix="Try another --calibration-method or more images."
                if self._data
                else "Give real images: --calibration-data.",
            )
        return min(outputs.values(), key=lambda comparison: comparison.sqnr_db)

    def _verify_batches(self) -> Iterable[Mapping[str, Array]]:
        if self._data is not None:
            return islice(self._data.batches(VERIFY_BATCH), VERIFY_BATCHES)
        manifest = self._source.manifest
        return synthetic_batches(manifest.inputs, manifest.preprocessing, [VERIFY_BATCH, 1, VERIFY_BATCH])

    def _describe_inputs(self) -> str:
        if self._data is None:
            return "synthetic images"
        return f"{min(len(self._data), VERIFY_BATCH * VERIFY_BATCHES)} of {self._data.describe()}"

    def _manifest(self, made: Quantized, verdicts: Mapping[str, Comparison]) -> Manifest:
        if self._as_it_is:
            return self._source.manifest
        figures = [
            {"against": "the FP32 graph", "how": "simulated", "input": self._describe_inputs(), **comparison.to_dict()}
            for comparison in verdicts.values()
        ]
        return self._source.manifest.evolve(
            precision=self._request.precision,
            quantization=made.facts,
            parity=(*self._source.manifest.parity, *figures),
            tools={**self._source.manifest.tools, **tool_versions("onnx", "onnx-ir", "onnxruntime")},
        )

    def _store(self, made: Quantized, manifest: Manifest) -> bytes:
        """The bytes of the graph to build, on disk by now."""
        if self._as_it_is:
            return self._onnx.read_bytes()
        return files.save(self._onnx, made.graph, manifest)

    def _default_batch(self) -> ShapeProfile:
        axis = self._source.manifest.inputs[0].shape[0]
        return ShapeProfile(axis, axis, axis) if isinstance(axis, int) else DEFAULT_BATCH

    def _compile(self, onnx: bytes, flavour: Flavour) -> BuiltEngine:
        request, lines = self._request, list[LogLine]()
        self._report.note(f"building with {flavour}")
        try:
            return build_engine(
                onnx,
                flavour=flavour,
                batch=request.batch or self._default_batch(),
                workspace_gib=request.workspace_gib,
                compute_capability=request.compute_capability,
                timing_cache=request.timing_cache,
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
        self._seconds[step] = time.perf_counter() - start
