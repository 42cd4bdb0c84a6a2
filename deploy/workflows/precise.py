"""The precise graph that a build is asked for: FP16, or INT8 with what a GPU and an accuracy budget say of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from deploy.data.calibration import CalibrationData
from deploy.quantize.latency import Estimated
from deploy.quantize.measured import Measured
from deploy.quantize.recipe import EQUALIZATION, Recipe
from deploy.specs import ShapeProfile
from deploy.workflows.budget import AccuracyBudget
from deploy.workflows.quantize import Calibration, Quantized, prepare_int8, to_half
from deploy.workflows.request import BuildRequest, Reporter
from deploy.workflows.search import search_int8
from deploy.workflows.source import Source
from deploy.workflows.speed import faster_layers


@dataclass(frozen=True)
class Maker:
    """Makes it of ``source`` on ``data``. ``cache`` keeps ranges; ``timed`` clocks a step that has a name."""

    request: BuildRequest
    source: Source
    data: CalibrationData | None
    cache: Path
    report: Reporter
    timed: Callable[[str], AbstractContextManager[None]]

    def half(self) -> Quantized:
        """FP16; see :func:`deploy.workflows.quantize.to_half`."""
        self.report.note("converting to FP16")
        return to_half(self.source, self.data, self.report.note)

    def int8(self, measured: Measured | None, budget: AccuracyBudget | None, batch: ShapeProfile) -> Quantized:
        """INT8, less the layers that ``measured`` finds no faster, less those that ``budget`` does not bear.

        Raises:
            InputError: see :func:`deploy.workflows.quantize.prepare_int8`.
            CheckFailed: see :func:`deploy.workflows.search.search_int8`.
        """
        int8 = prepare_int8(self.source, self._calibration())
        if measured is not None and not self.request.keep_int8:
            with self.timed("profile"):
                int8 = faster_layers(int8, measured, self.report)
        if budget is None or self.data is None:
            return int8.quantized({})
        with self.timed("search"):
            latency = measured or Estimated(batch.opt)
            return search_int8(self.source, int8, self.data, budget, latency, self.report)

    def _calibration(self) -> Calibration:
        request, report = self.request, self.report
        return Calibration(
            self.data,
            self.cache,
            request.calibration_method,
            self._recipe(),
            report.note,
            report.counter,
            request.calibration_cache,
        )

    def _recipe(self) -> Recipe:
        """A calibration cache of TensorRT's speaks of the FP32 graph as it is: nothing is equalized beside one."""
        recipe = self.request.recipe or Recipe()
        if self.request.calibration_cache is None:
            return recipe
        if self.request.cache_to_write is not None and recipe.corrects:
            self.report.note("the calibration cache holds ranges: the corrected weights are in the ONNX file alone")
        if not recipe.equalizes:
            return recipe
        self.report.note(f"leaving out {EQUALIZATION}: a calibration cache is about the graph as it was exported")
        return recipe.without(EQUALIZATION)
