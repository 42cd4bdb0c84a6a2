"""A precise graph, or an engine, against the graph it was made from: the gate before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import islice

from deploy.data import CalibrationData
from deploy.errors import CheckFailed
from deploy.graph import files
from deploy.graph.twin import twin
from deploy.parity.compare import Comparison
from deploy.parity.inputs import synthetic_batches
from deploy.parity.judge import compare_runners
from deploy.parity.limits import DEFAULT_LIMITS
from deploy.runtime.base import Array, Runner
from deploy.runtime.onnxrt import OnnxRunner
from deploy.specs import Precision
from deploy.workflows.source import Source

# 128 images where data is given.
BATCH, BATCHES = 8, 16


class Judge:
    """Compares runners with ``source`` in ONNX Runtime on the CPU.

    Attributes:
        inputs: in words, what both are fed.
        able: whether that tells anything: INT8 is judged on real images only.
    """

    def __init__(
        self, source: Source, precision: Precision, data: CalibrationData | None, warn: Callable[[str], None]
    ) -> None:
        self._source, self._precision, self._data, self._warn = source, precision, data, warn
        self.reference = "the FP32 graph" if source.precision is Precision.FP32 else "its ONNX graph"
        self.inputs = _describe(data)
        self.able = data is not None or precision is not Precision.INT8

    def compare(self, runner: Runner, what: str) -> Comparison:
        """The comparison of the output that is furthest off.

        Raises:
            CheckFailed: an output is too far off. Random weights only cause a warning.
        """
        with OnnxRunner(files.to_bytes(twin(self._source.graph)), device="cpu") as reference:
            (outputs,) = compare_runners(reference, [runner], self._batches())
        failures = {name: DEFAULT_LIMITS[self._precision].failures(c) for name, c in outputs.items()}
        if any(failures.values()):
            self._refuse(what, "; ".join(f"{name}: {', '.join(why)}" for name, why in failures.items() if why))
        return min(outputs.values(), key=lambda comparison: comparison.sqnr_db)

    def _refuse(self, what: str, reasons: str) -> None:
        if self._source.manifest.weights.source == "random":
            self._warn(f"{what} is far from {self.reference}, as random weights can be: not judged ({reasons})")
            return
        images = "Try another --calibration-method or more images."
        raise CheckFailed(
            f"{what} is too far from {self.reference}; no graph or engine was written",
            got=reasons,
            fix=images if self._data else "Give real images: --calibration-data.",
        )

    def _batches(self) -> Iterable[Mapping[str, Array]]:
        if self._data is not None:
            return islice(self._data.batches(BATCH), BATCHES)
        manifest = self._source.manifest
        return synthetic_batches(manifest.inputs, manifest.preprocessing, [BATCH, 1, BATCH])


def _describe(data: CalibrationData | None) -> str:
    if data is None:
        return "synthetic images"
    return data.describe() if len(data) <= BATCH * BATCHES else f"the first {BATCH * BATCHES} of {data.describe()}"
