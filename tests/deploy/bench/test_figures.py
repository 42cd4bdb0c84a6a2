from __future__ import annotations

import numpy as np
import pytest

from deploy.bench.figures import Figures, Ratio, curve, drift_percent, percentile


def test_figures_of_known_times():
    figures = Figures.of([4.0, 1.0, 3.0, 2.0])
    assert (figures.min, figures.max, figures.mean, figures.median) == (1, 4, 2.5, 2.5)
    assert figures.cv_percent == pytest.approx(100 * np.std([1, 2, 3, 4]) / 2.5)  # of the population, as trtexec's
    assert figures.iqr_percent == pytest.approx(100 * 1.5 / 2.5)


def test_one_time_is_all_its_figures():
    figures = Figures.of([7.0])
    assert {figures.min, figures.max, figures.mean, figures.median, figures.p90, figures.p99} == {7.0}
    assert figures.cv_percent == figures.iqr_percent == 0


@pytest.mark.parametrize(
    ("count", "percent", "index"),
    # int((1.0f - p / 100.0f) * n) worked out in FP32: 0.1f * 10 is 1.0000002 after the rounding of 0.9f, where FP64
    # has 0.9999999999999998; 1 - 0.99f is 0.00999999, so that nothing is excluded of 100.
    [
        (10, 90, 8),
        (100, 90, 89),
        (1000, 90, 899),
        (100, 99, 99),
        (101, 99, 99),
        (1000, 99, 990),
        (1, 99, 0),
        (3, 50, 1),
    ],
)
def test_percentiles_are_those_of_trtexec(count, percent, index):
    assert percentile(np.arange(count, dtype=np.float64), percent) == index


def test_the_curve_goes_from_the_fastest_to_the_slowest():
    points = curve([3.0, 1.0, 2.0])
    assert points[0] == [0.0, 1.0]
    assert points[25] == [50.0, 2.0]
    assert points[-1] == [100.0, 3.0]


def test_drift_compares_the_halves():
    assert drift_percent([[1.0, 1.0], [1.0], [9.0], [1.2], [1.2, 50.0, 1.2]]) == pytest.approx(20)
    assert drift_percent([[2.0], [1.0]]) == pytest.approx(-50)
    assert drift_percent([[1.0, 2.0]]) is None


def test_the_ratio_is_taken_turn_by_turn():
    """A turn in which everything takes ten times as long changes nothing."""
    ratio = Ratio.of([[2.0], [20.0], [2.0], [2.2]], [[1.0], [10.0], [1.0], [1.0]])
    assert ratio.median == pytest.approx(2.0)
    assert ratio.low == pytest.approx(2.0)
    assert 2.0 < ratio.high < 2.2
