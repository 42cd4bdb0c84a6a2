"""A detector's outputs → labelled boxes in the pixels of the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deploy.errors import CheckFailed, InputError
from deploy.images.fit import Fit
from deploy.images.nms import FloatArray, Selected, select
from deploy.specs import NmsSettings

# The outputs of a detector, and the one output that takes their place where NMS is in the graph.
BOXES, SCORES, DETECTIONS = "boxes", "scores", "detections"

Outputs = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Detection:
    """One thing in an image.

    Attributes:
        box: x1, y1, x2, y2 in pixels of the image.
        index: of its class.
        label: of its class, where the model has labels.
        score: 0 to 1.
    """

    box: tuple[float, float, float, float]
    index: int
    label: str | None
    score: float


def detect(
    outputs: Outputs, fits: Sequence[Fit], settings: NmsSettings, labels: Sequence[str] | None = None
) -> list[list[Detection]]:
    """The detections in each image of a batch, best first; those that lie in the border alone are dropped.

    Args:
        outputs: ``boxes[images, boxes, 4]`` (x1, y1, x2, y2 in pixels of the network's input) and
            ``scores[images, boxes, classes]``, or ``detections[images, boxes, 6]``, suppressed already: box, score and
            class, where a score of 0 means nothing.
        fits: where each image lies in the input.
        settings: which boxes count.
        labels: class names by index.

    Raises:
        InputError: the outputs are not a detector's, or ``labels`` are not one for each class.
        CheckFailed: an output is NaN or infinite.
    """
    check_finite(outputs)
    return [_labelled(image, fit, labels) for image, fit in zip(selected(outputs, settings, labels), fits)]


def selected(outputs: Outputs, settings: NmsSettings, labels: Sequence[str] | None = None) -> list[Selected]:
    """What counts of each image, boxes in pixels of the network's input."""
    if DETECTIONS in outputs:
        return [_above(rows, settings) for rows in outputs[DETECTIONS]]
    _check_shapes(outputs, labels)
    return [select(*image, settings) for image in zip(outputs[BOXES], outputs[SCORES])]


def check_finite(outputs: Outputs) -> None:
    """Raise :class:`CheckFailed` for NaN or infinity in any output."""
    for name, array in outputs.items():
        with np.errstate(over="ignore", invalid="ignore"):
            total = array.sum()
        if np.isfinite(total):  # one pass that keeps no array; it can overflow too, so it is not the last word
            continue
        bad = int(array.size - np.isfinite(array).sum())
        if bad:
            raise CheckFailed(
                "the model's output is not finite",
                got=f"{bad} of {array.size} numbers in '{name}' are NaN or infinite",
                expected="numbers",
                fix="An FP16 overflow does this: compare with the FP32 model by `python -m deploy verify`.",
            )


def _above(rows: FloatArray, settings: NmsSettings) -> Selected:
    # The graph ordered them; those below the threshold come last.
    rows = rows[rows[:, 4] > np.float32(settings.score_threshold)][: settings.max_detections]
    return rows[:, :4], rows[:, 5].astype(np.intp), rows[:, 4]


def _check_shapes(outputs: Outputs, labels: Sequence[str] | None) -> None:
    boxes, scores = outputs.get(BOXES), outputs.get(SCORES)
    if boxes is None or scores is None or boxes.shape != (*scores.shape[:2], 4) or scores.ndim != 3:
        got = ", ".join(f"{name}{list(array.shape)}" for name, array in outputs.items())
        expected = f"{BOXES}[images, n, 4] and {SCORES}[images, n, classes]"
        raise InputError("the outputs are not those of a detector", got=got, expected=expected)
    if labels and len(labels) != scores.shape[2]:
        raise InputError("the labels are not this model's", got=f"{len(labels)} labels", expected=scores.shape[2])


def _labelled(image: Selected, fit: Fit, labels: Sequence[str] | None) -> list[Detection]:
    boxes, classes, scores = image
    inside = fit.to_original(boxes)
    seen = (inside[:, 2] > inside[:, 0]) & (inside[:, 3] > inside[:, 1])
    return [
        Detection((box[0], box[1], box[2], box[3]), index, _label(labels, index), score)
        for box, index, score in zip(inside[seen].tolist(), classes[seen].tolist(), scores[seen].tolist())
    ]


def _label(labels: Sequence[str] | None, index: int) -> str | None:
    if not labels:
        return None
    if index >= len(labels):
        raise InputError("the labels are not this model's", got=f"{len(labels)} labels", expected=f"one for {index}")
    return labels[index]
