"""Detections are matched by class and overlap, and judged by the limits of their precision."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from deploy.errors import CheckFailed, InputError
from deploy.parity.detections import DETECTION_LIMITS, Agreement, compare_detections
from deploy.runtime.base import Array, Runner
from deploy.specs import NmsSettings, Precision, TensorSpec

HOW = NmsSettings()
GRID = [(x, y, x + 8, y + 8) for y in range(0, 60, 10) for x in range(0, 60, 10)]


class Detector(Runner):
    """Answers ``boxes`` and ``scores``, the same for every image."""

    def __init__(self, boxes: object = GRID, scores: object = None, classes: int = 2) -> None:
        self.inputs = (TensorSpec("input", "float32", ("batch", 1)),)
        self._boxes = np.array(boxes, np.float32).reshape(-1, 4)
        self._scores = np.full((len(self._boxes), classes), 0.1, np.float32)
        self._scores[:, 0] = np.linspace(0.9, 0.5, len(self._boxes)) if scores is None else scores
        self.outputs = (
            TensorSpec("boxes", "float32", ("batch", len(self._boxes), 4)),
            TensorSpec("scores", "float32", ("batch", len(self._boxes), classes)),
        )

    def infer(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        rows = len(feeds["input"])
        return {"boxes": np.stack([self._boxes] * rows), "scores": np.stack([self._scores] * rows)}

    def close(self) -> None:
        pass


class Ending(Runner):
    """Answers ``detections``."""

    def __init__(self, rows: object) -> None:
        self._rows = np.array(rows, np.float32).reshape(-1, 6)
        self.inputs = (TensorSpec("input", "float32", ("batch", 1)),)
        self.outputs = (TensorSpec("detections", "float32", ("batch", len(self._rows), 6)),)

    def infer(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return {"detections": np.stack([self._rows] * len(feeds["input"]))}

    def close(self) -> None:
        pass


def rows(moved: float = 0, worse: float = 0, index: int = 0, keep: int = len(GRID)) -> np.ndarray:
    scores = np.linspace(0.9, 0.5, len(GRID))
    return np.column_stack([np.array(GRID) + moved, scores - worse, np.full(len(GRID), index)])[:keep]


def agreement(found: np.ndarray) -> Agreement:
    return compare_detections(Detector(), Ending(found), HOW, [{"input": np.zeros((3, 1), np.float32)}])


def test_the_same_detections_agree() -> None:
    same = agreement(np.concatenate([rows(), np.zeros((4, 6))]))
    assert (same.images, same.reference, same.found) == (3, 3 * 36, 3 * 36)
    assert same.matched == {0.5: 1, 0.75: 1, 0.9: 1}
    assert same.score_difference == pytest.approx(0, abs=1e-6)
    assert all(limits.failures(same) == [] for limits in DETECTION_LIMITS.values())


def test_moved_boxes_match_less_well() -> None:
    moved = agreement(rows(moved=1))  # 49 of 79
    assert moved.matched == {0.5: 1, 0.75: 0, 0.9: 0}
    assert agreement(rows(moved=4)).matched[0.5] == 0


def test_another_class_is_no_partner() -> None:
    assert agreement(rows(index=1)).matched[0.5] == 0


@pytest.mark.parametrize("keep", [18, 0])
def test_what_is_missing_counts(keep: int) -> None:
    few = agreement(rows(keep=keep) if keep else np.zeros((1, 6)))
    assert few.matched[0.5] == keep / 36
    assert "of the detections matched, under 70 %" in DETECTION_LIMITS[Precision.INT8].failures(few)[0]


def test_what_is_too_much_counts() -> None:
    extra = rows()
    extra[:, :4] += 200
    many = agreement(np.concatenate([rows(), extra]))
    assert (many.found, many.matched[0.5]) == (2 * many.reference, 0.5)


def test_scores_are_compared() -> None:
    worse = agreement(rows(worse=0.05))
    assert worse.score_difference == pytest.approx(0.05, abs=1e-6)
    assert DETECTION_LIMITS[Precision.FP16].failures(worse) == ["scores differ by 0.0500, over 0.01"]
    assert DETECTION_LIMITS[Precision.INT8].failures(worse) == []


def test_one_partner_each() -> None:
    twice = np.repeat(rows(), 2, axis=0)
    assert agreement(twice).matched[0.5] == 0.5


def test_a_reference_that_finds_nothing_proves_nothing() -> None:
    nothing = compare_detections(
        Detector(scores=0.1), Ending(np.zeros((1, 6))), HOW, [{"input": np.zeros((1, 1), np.float32)}]
    )
    assert DETECTION_LIMITS[Precision.FP32].failures(nothing) == [
        "the reference detects nothing in these images: proves nothing"
    ]


def test_what_is_not_finite_fails() -> None:
    broken = rows()
    broken[3, 2] = np.nan
    with pytest.raises(CheckFailed, match="numbers in 'detections' are NaN or infinite"):
        agreement(broken)


def test_the_reference_has_boxes_and_scores() -> None:
    with pytest.raises(InputError, match="compared with a detector's boxes and scores .*Give the ONNX graph"):
        compare_detections(Ending(rows()), Ending(rows()), HOW, [])


def test_no_batch() -> None:
    with pytest.raises(InputError, match="no samples"):
        compare_detections(Detector(), Ending(rows()), HOW, [])


def test_in_words_and_for_programs() -> None:
    same = agreement(rows())
    assert str(same) == (
        "108 detections for 108 of the reference in 3 images; matched 100.0 % at IoU 0.5, 100.0 % at IoU 0.75, "
        "100.0 % at IoU 0.9; scores differ by 0.0000 on average"
    )
    assert same.to_dict()["matched"] == {"0.50": 1.0, "0.75": 1.0, "0.90": 1.0}
