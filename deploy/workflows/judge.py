"""A precise graph, or an engine, against the graph it was made from: the gate before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import onnx_ir as ir

from deploy.data.calibration import CalibrationData
from deploy.errors import CheckFailed
from deploy.graph.indices import index_limits
from deploy.graph.twin import twin
from deploy.parity.compare import Comparison
from deploy.parity.detections import DETECTION_LIMITS, Agreement, compare_detections
from deploy.parity.inputs import synthetic_batches
from deploy.parity.judge import compare_runners
from deploy.parity.limits import DEFAULT_LIMITS, NOT_FINITE
from deploy.runtime.base import Array, Runner
from deploy.runtime.graphs import run_graph
from deploy.specs import Precision
from deploy.workflows.local import local_failures
from deploy.workflows.source import Source

BATCH, MOST_IMAGES = 8, 128
# INT8 is compared on images that its ranges and corrections come from: of fewer than these it knows little else.
FEW_IMAGES = 64


class Judge:
    """Compares runners with ``source`` in ONNX Runtime on the CPU.

    Attributes:
        inputs: in words, what both are fed.
        able: whether that tells anything: INT8 is judged on real images only.
    """

    def __init__(
        self,
        source: Source,
        precision: Precision,
        data: CalibrationData | None,
        warn: Callable[[str], None],
        *,
        calibrated: bool = False,
    ) -> None:
        """``calibrated``: INT8's ranges come from ``data``: on other images it may be further off."""
        self._source, self._precision, self._warn = source, precision, warn
        self._data = data.sample(MOST_IMAGES) if data else None
        self.reference = "the FP32 graph" if source.precision is Precision.FP32 else "its ONNX graph"
        self.inputs = self._data.describe() if self._data else "synthetic images"
        if self._data and calibrated:
            self.inputs += ", which it was calibrated on"
        self.able = data is not None or precision is not Precision.INT8

    def compare(self, runner: Runner, what: str) -> Comparison:
        """The comparison of the output that is furthest off.

        Raises:
            CheckFailed: an output is too far off. Random weights only cause a warning.
        """
        with self._reference_runner() as reference:
            (outputs,) = compare_runners(reference, [runner], self._batches())
        failures = DEFAULT_LIMITS[self._precision].all_failures(outputs)
        if any(failures.values()):
            self._refuse(what, "; ".join(f"{name}: {', '.join(why)}" for name, why in failures.items() if why))
        # Numbers tell more than integers, whose distances mean nothing.
        return min(outputs.values(), key=lambda found: (found.agreement is not None, found.sqnr_db))

    def compare_detections(self, runner: Runner, what: str) -> Agreement:
        """How far the detections of ``runner``, which ends in NMS, are the source's. Raises as :meth:`compare`."""
        assert self._source.nms is not None
        with self._reference_runner() as reference:
            agreement = compare_detections(reference, runner, self._source.nms, self._batches())
        if failures := DETECTION_LIMITS[self._precision].failures(agreement):
            self._refuse(what, "; ".join(failures))
        return agreement

    def _reference_runner(self) -> Runner:
        source = self._source
        return run_graph(source.graph if source.precision is Precision.FP32 else twin(source.graph))

    def compare_graph(self, precise: ir.Model, what: str, facts: Mapping[str, Any] | None) -> Comparison:
        """The twin's comparison, after its weights were looked at one by one. ``facts`` are of its making.

        Raises:
            CheckFailed: as :meth:`compare`, or a weight is not what it should be, random or not.
        """
        if reasons := local_failures(self._source.graph, precise, None, facts):
            raise CheckFailed(f"{what} is damaged; no graph or engine was written", got="; ".join(reasons))
        with run_graph(twin(precise)) as runner:
            found = self.compare(runner, what)
        if self._precision is Precision.INT8 and found.samples < FEW_IMAGES:
            self._warn(_too_few(found.samples))
        return found

    def _refuse(self, what: str, reasons: str) -> None:
        # Random layers amplify every rounding, so that distances say little; infinity is wrong with any weights.
        if self._source.manifest.weights.source == "random" and NOT_FINITE not in reasons:
            self._warn(f"{what} is far from {self.reference}, as random weights can be: not judged ({reasons})")
            return
        images = "Try more images."
        if self._precision is Precision.INT8:
            images = "Try another --calibration-method or more images."
        raise CheckFailed(
            f"{what} is too far from {self.reference}; no graph or engine was written",
            got=reasons,
            fix=images if self._data else "Give real images: --calibration-data.",
        )

    def _batches(self) -> Iterable[Mapping[str, Array]]:
        if self._data is not None:
            return self._data.batches(BATCH)
        manifest = self._source.manifest
        limits = index_limits(self._source.graph)
        return synthetic_batches(manifest.inputs, manifest.preprocessing, [BATCH, 1, BATCH], below=limits)


def _too_few(images: int) -> str:
    """The fewer the images, the better the figures on them look, and the worse those on others."""
    plural = "" if images == 1 else "s"
    return f"only {images} image{plural}: figures on so few say little of others. Give some hundred typical ones"
