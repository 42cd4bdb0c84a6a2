"""Non-maximum suppression: of boxes that show the same thing, the best."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from deploy.specs import NmsSettings

FloatArray = npt.NDArray[np.float32]
Selected = tuple[FloatArray, npt.NDArray[np.intp], FloatArray]


def select(boxes: FloatArray, scores: FloatArray, settings: NmsSettings) -> Selected:
    """The boxes of one image that count, each with its best class and score, best first.

    Of equal scores the lower index comes first. All arithmetic is that of ONNX NonMaxSuppression, in FP32, so that the
    operator (:mod:`deploy.graph.nms`) selects the same.

    Args:
        boxes: ``[boxes, 4]``: x1, y1, x2, y2.
        scores: ``[boxes, classes]``.
        settings: what counts.

    Returns:
        Boxes ``[n, 4]``, classes ``[n]`` and scores ``[n]``.
    """
    kept = _above(scores, np.float32(settings.score_threshold))
    best = scores[kept].max(axis=1)
    order = np.argsort(-best, kind="stable")
    kept, best = kept[order], best[order]
    classes = scores[kept].argmax(axis=1)
    chosen = suppress(boxes[kept], classes, settings)
    return boxes[kept[chosen]], classes[chosen], best[chosen]


def _above(scores: FloatArray, threshold: np.float32) -> npt.NDArray[np.intp]:
    """The rows with a number above ``threshold``. Their maxima would say it too, ten times as slowly."""
    rows = np.flatnonzero(scores > threshold) // scores.shape[1]
    distinct: npt.NDArray[np.intp] = rows[np.diff(rows, prepend=-1) > 0]
    return distinct


def suppress(boxes: FloatArray, classes: npt.NDArray[np.intp], settings: NmsSettings) -> list[int]:
    """Indices of those left of ``boxes[n, 4]``, which come best first, with a class each."""
    chosen: list[int] = []
    left = {index: np.flatnonzero(classes == index) for index in np.unique(classes).tolist()}
    for box, index in enumerate(classes.tolist()):
        if len(chosen) == settings.max_detections:
            break
        rivals = left[index]
        if len(rivals) and rivals[0] == box:  # nothing better took its place
            chosen.append(box)
            overlapping = iou(boxes[box], boxes[rivals[1:]]) > np.float32(settings.iou_threshold)
            left[index] = rivals[1:][~overlapping]
    return chosen


def iou(box: FloatArray, others: FloatArray) -> FloatArray:
    """Intersection over union of ``box[4]`` with each of ``others[n, 4]``; 0 where there is no intersection."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    np.maximum(sides, 0, out=sides)
    with np.errstate(over="ignore", invalid="ignore"):  # boxes of any size that FP32 holds may come here
        shared = sides[:, 0] * sides[:, 1]
        union = _area(box) + _area(others) - shared
        share: FloatArray = np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)
    return share


def _area(boxes: FloatArray) -> FloatArray:
    area: FloatArray = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    return area
