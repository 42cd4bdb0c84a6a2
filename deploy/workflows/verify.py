"""Several artefacts against one reference on the same inputs, each judged by the limits of its precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deploy.data.calibration import CalibrationData, open_calibration_data
from deploy.errors import InputError
from deploy.graph.indices import index_limits
from deploy.parity.compare import Comparison
from deploy.parity.detections import DETECTION_LIMITS, Agreement, compare_detections
from deploy.parity.inputs import synthetic_batches
from deploy.parity.judge import compare_runners
from deploy.parity.layers import LayerReport
from deploy.parity.limits import DEFAULT_LIMITS, coarser
from deploy.quantize.equalize import fits
from deploy.runtime.base import Array
from deploy.runtime.rows import fixed_batch, rows_of
from deploy.specs import NetworkOptions, Precision
from deploy.workflows.layers import check_layers, explain
from deploy.workflows.local import local_failures
from deploy.workflows.source import load_source
from deploy.workflows.subjects import Subject, open_subject

SYNTHETIC_BATCHES = (1, 7, 8)
BATCH, MOST_IMAGES = 8, 256

Warn = Callable[[str], None]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class VerifyRequest:
    """What to compare: ``others`` with ``reference``, on ``data`` (a folder or .npz) or on synthetic images.

    With ``layers`` the one other is an FP16 or INT8 graph, and what each of its layers loses is told too.
    """

    reference: str
    others: tuple[str, ...]
    data: Path | None = None
    images: int = MOST_IMAGES
    tolerance: float | None = None
    layers: bool = False
    device: str = "auto"
    network: NetworkOptions = NetworkOptions()


@dataclass(frozen=True)
class Verdict:
    """One artefact's result. ``failures`` are empty where outputs, weights and scales keep the limits.

    An engine that ends in NMS has ``detections`` in place of ``outputs``.
    """

    name: str
    precision: Precision
    execution: str
    outputs: Mapping[str, Comparison]
    failures: tuple[str, ...]
    detections: Agreement | None = None

    @property
    def passed(self) -> bool:
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "precision": str(self.precision),
            "execution": self.execution,
            "outputs": {name: comparison.to_dict() for name, comparison in self.outputs.items()},
            **({"detections": self.detections.to_dict()} if self.detections else {}),
            "failures": list(self.failures),
            "passed": self.passed,
        }


@dataclass(frozen=True)
class VerifyReport:
    """All verdicts, what the reference was and what it was fed."""

    reference: str
    reference_execution: str
    inputs: str
    verdicts: tuple[Verdict, ...]
    layers: LayerReport | None = None

    @property
    def passed(self) -> bool:
        return all(verdict.passed for verdict in self.verdicts)

    def to_dict(self) -> dict[str, Any]:
        return {
            "reference": self.reference,
            "reference_execution": self.reference_execution,
            "inputs": self.inputs,
            "verdicts": [verdict.to_dict() for verdict in self.verdicts],
            "passed": self.passed,
            **({"layers": self.layers.to_dict()} if self.layers else {}),
        }


def verify(request: VerifyRequest, warn: Warn, progress: Progress, explaining: Progress | None = None) -> VerifyReport:
    """Compare in one pass over the inputs; ``explaining`` is the progress through those that follow for layers.

    Raises:
        InputError: a file is unreadable, the tensors do not correspond, or INT8 or layers are to be judged without real
            images; see also :func:`deploy.workflows.layers.explain`.
        MachineError: an engine cannot run here.
    """
    if request.layers:
        check_layers(request.reference, request.others, request.data)
    with ExitStack() as opened:
        reference, *others = [_open(name, request, opened, warn) for name in (request.reference, *request.others)]
        _check_preprocessing(reference, others)
        data = _data(request, reference, others, warn)
        plain = [other for other in others if other.nms is None]
        ending = [other for other in others if other.nms is not None]
        outputs = _compared(reference, plain, data, progress)
        agreements = [_agreement(reference, other, data, progress) for other in ending]
        built_from = {id(other): _built_from(reference, other) for other in others}
        local = [
            local_failures(built_from[id(other)].graph, other.graph, data, _facts(other)) if other.graph else []
            for other in plain
        ]
        first = others[0]
        layers = explain(built_from[id(first)], first, data, explaining) if request.layers and data else None
    described = data.describe() if data else f"{sum(SYNTHETIC_BATCHES)} synthetic images"
    verdicts = {
        **{id(o): _verdict(reference, o, figures, why, request) for o, figures, why in zip(plain, outputs, local)},
        **{id(other): _matched(reference, other, agreement) for other, agreement in zip(ending, agreements)},
    }
    return VerifyReport(
        reference.name, reference.runner.execution, described, tuple(verdicts[id(other)] for other in others), layers
    )


def _facts(subject: Subject) -> Mapping[str, Any] | None:
    """How the graph was quantized, as its manifest says."""
    return subject.runner.manifest.quantization if subject.runner.manifest else None


def _built_from(reference: Subject, other: Subject) -> Subject:
    """``reference`` with the graph whose channels ``other`` equalizes: build simplifies one that others made first."""
    text = (_facts(other) or {}).get("equalization")
    if not text or reference.graph is None or fits(reference.graph, text):
        return reference
    try:
        graph = load_source(Path(reference.name), _untold, _untold).graph
    except InputError:
        return reference
    return replace(reference, graph=graph) if fits(graph, text) else reference


def _untold(text: str) -> None:
    """What build has said already."""


def _compared(
    reference: Subject, others: Sequence[Subject], data: CalibrationData | None, progress: Progress
) -> list[dict[str, Comparison]]:
    if not others:
        return []
    runners = [other.runner for other in others]
    return compare_runners(reference.runner, runners, _batches(data, reference, progress))


def _agreement(reference: Subject, other: Subject, data: CalibrationData | None, progress: Progress) -> Agreement:
    assert other.nms is not None
    return compare_detections(reference.runner, other.runner, other.nms, _batches(data, reference, progress))


def _open(name: str, request: VerifyRequest, opened: ExitStack, warn: Warn) -> Subject:
    subject = open_subject(name, request.device, request.network, warn)
    opened.enter_context(subject.runner)
    return subject


def _check_preprocessing(reference: Subject, others: list[Subject]) -> None:
    """Two artefacts that prepare images differently are not the same deployment, whatever their logits say."""
    for other in others:
        if (
            None not in (reference.preprocessing, other.preprocessing)
            and reference.preprocessing != other.preprocessing
        ):
            raise InputError(
                f"{other.name} prepares images differently from {reference.name}",
                got=other.preprocessing,
                expected=reference.preprocessing,
                fix="Export both with the same --image-size and weights.",
            )


def _data(request: VerifyRequest, reference: Subject, others: list[Subject], warn: Warn) -> CalibrationData | None:
    if request.data is None:
        if any(other.precision is Precision.INT8 for other in others):
            raise InputError("INT8 is judged on real images only", got="no --data", fix="Give some: --data DIR.")
        return None
    preprocessing = reference.preprocessing or next((o.preprocessing for o in others if o.preprocessing), None)
    return open_calibration_data(
        request.data,
        reference.runner.inputs,
        preprocessing,
        request.images,
        on_error=lambda path, error: warn(f"skipped: {error.headline}"),
    )


def _batches(data: CalibrationData | None, reference: Subject, progress: Progress) -> Iterator[Mapping[str, Array]]:
    if data is None:
        fixed = fixed_batch(reference.runner)
        sizes = (fixed,) if fixed else SYNTHETIC_BATCHES
        limits = index_limits(reference.graph) if reference.graph else None
        yield from synthetic_batches(reference.runner.inputs, reference.preprocessing, sizes, below=limits)
        return
    done = 0
    for feeds in data.batches(BATCH):
        yield feeds
        done += rows_of(reference.runner.inputs, feeds)
        progress(done, len(data))


def _verdict(
    reference: Subject,
    subject: Subject,
    outputs: Mapping[str, Comparison],
    local: Sequence[str],
    request: VerifyRequest,
) -> Verdict:
    limits = DEFAULT_LIMITS[coarser(subject.precision, reference.precision)].tightened(request.tolerance)
    failures = [f"{name}: {why}" for name, reasons in limits.all_failures(outputs).items() for why in reasons]
    return Verdict(subject.name, subject.precision, subject.runner.execution, outputs, (*failures, *local))


def _matched(reference: Subject, subject: Subject, agreement: Agreement) -> Verdict:
    failures = DETECTION_LIMITS[coarser(subject.precision, reference.precision)].failures(agreement)
    return Verdict(subject.name, subject.precision, subject.runner.execution, {}, tuple(failures), agreement)
