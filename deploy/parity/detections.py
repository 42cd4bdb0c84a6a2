"""How far a file that ends in NMS agrees with a reference's boxes and scores, put through the same NMS.

Numbers cannot be compared one by one there: a score that moves by a rounding over the threshold, or past another's,
changes every row behind it. So detections are matched, by class and by overlap.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from deploy.errors import InputError
from deploy.images.detect import BOXES, SCORES, check_finite, selected
from deploy.images.nms import Selected, iou
from deploy.runtime.base import Array, Runner
from deploy.runtime.rows import infer_rows
from deploy.specs import NmsSettings, Precision

# As boxes are judged everywhere: roughly there, well there, exactly there.
OVERLAPS = (0.5, 0.75, 0.9)


@dataclass(frozen=True)
class Agreement:
    """Detections of all images, matched.

    Attributes:
        images: compared.
        reference, found: detections of the reference, and of what is judged.
        matched: least IoU → share of detections that have a partner of their class, of the side that has more of them.
        score_difference: mean absolute difference of the scores of partners.
    """

    images: int
    reference: int
    found: int
    matched: Mapping[float, float]
    score_difference: float

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "matched": {f"{overlap:.2f}": share for overlap, share in self.matched.items()}}

    def __str__(self) -> str:
        shares = ", ".join(f"{100 * share:.1f} % at IoU {overlap}" for overlap, share in self.matched.items())
        counts = f"{self.found} detections for {self.reference} of the reference in {self.images} images"
        return f"{counts}; matched {shares}; scores differ by {self.score_difference:.4f} on average"


@dataclass(frozen=True)
class DetectionLimits:
    """What must be kept: the share matched at IoU 0.5, and the mean difference of scores."""

    matched: float
    score_difference: float

    def failures(self, agreement: Agreement) -> list[str]:
        """Why ``agreement`` misses these limits, in words; empty means it keeps them."""
        if not agreement.reference:
            return ["the reference detects nothing in these images: proves nothing"]
        reasons = []
        share = agreement.matched[OVERLAPS[0]]
        if not share >= self.matched:
            reasons.append(f"{100 * share:.1f} % of the detections matched, under {100 * self.matched:.0f} %")
        if not agreement.score_difference <= self.score_difference:
            reasons.append(f"scores differ by {agreement.score_difference:.4f}, over {self.score_difference}")
        return reasons


# FP32: what swaps are scores that differ in the last bits. FP16 rounds scores by up to 5e-4, and boxes by a pixel where
# they are computed in it. INT8 moves scores by several hundredths; below these numbers it finds other things.
DETECTION_LIMITS = {
    Precision.FP32: DetectionLimits(0.99, 1e-3),
    Precision.FP16: DetectionLimits(0.95, 1e-2),
    Precision.INT8: DetectionLimits(0.70, 1e-1),
}


def compare_detections(
    reference: Runner, other: Runner, settings: NmsSettings, batches: Iterable[Mapping[str, Array]]
) -> Agreement:
    """Run every batch through ``reference``, a detector without NMS, and ``other``, which ends in it.

    Raises:
        InputError: ``reference`` is no detector without NMS, or there was no batch.
        CheckFailed: an output is NaN or infinite.
    """
    if {spec.name for spec in reference.outputs} != {BOXES, SCORES}:
        got = ", ".join(map(str, reference.outputs))
        fix = "Give the ONNX graph as the reference."
        raise InputError("a file with NMS is compared with a detector's boxes and scores", got=got, fix=fix)
    counts = _Counts()
    for feeds in batches:
        wanted, found = infer_rows(reference, feeds), infer_rows(other, feeds)
        check_finite(found)
        for image in zip(selected(wanted, settings), selected(found, settings)):
            counts.add(*image)
    return counts.result()


class _Counts:
    def __init__(self) -> None:
        self._images = self._reference = self._found = 0
        self._overlaps: list[float] = []
        self._differences: list[float] = []

    def add(self, reference: Selected, found: Selected) -> None:
        self._images += 1
        self._reference += len(reference[2])
        self._found += len(found[2])
        for overlap, difference in _partners(reference, found):
            self._overlaps.append(overlap)
            self._differences.append(difference)

    def result(self) -> Agreement:
        if not self._images:
            raise InputError("nothing to compare: no samples")
        overlaps, most = np.array(self._overlaps), max(self._reference, self._found)
        shares = {least: float((overlaps >= least).sum() / most) if most else 1.0 for least in OVERLAPS}
        difference = float(np.mean(self._differences)) if self._differences else 0.0
        return Agreement(self._images, self._reference, self._found, shares, difference)


def _partners(reference: Selected, found: Selected) -> Iterable[tuple[float, float]]:
    """The overlap and the difference of scores of each pair, the reference's best choosing first."""
    boxes, classes, scores = found
    free = np.ones(len(scores), bool)
    for box, index, score in zip(*reference):
        overlaps = np.where(free & (classes == index), iou(box, boxes), 0)
        if len(overlaps) and overlaps.max() >= OVERLAPS[0]:
            best = int(overlaps.argmax())
            free[best] = False
            yield float(overlaps[best]), abs(float(score - scores[best]))
