from __future__ import annotations

import numpy as np
import pytest

from deploy.quantize.observers import HistogramObserver
from deploy.quantize.ranges import METHODS, by_percentile

RNG = np.random.default_rng(0)
NORMAL = RNG.standard_normal(400_000).astype(np.float32)
OUTLIER = np.append(NORMAL, np.float32(60))


def _range(method, values):
    observer = HistogramObserver()
    observer.observe(values)
    return METHODS[method](observer.histogram)


def _mse(values, amax):
    scale = amax / 127
    return np.mean((np.clip(np.rint(values / scale), -128, 127) * scale - values) ** 2)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("values", [NORMAL, OUTLIER, np.maximum(NORMAL, 0), np.float32([3]), np.full(9, -0.5, "f4")])
def test_ranges_are_positive_and_within_what_was_seen(method, values):
    assert 0 < _range(method, values) <= np.abs(values).max()


def test_max_is_exact():
    assert _range("max", OUTLIER) == 60.0
    assert _range("max", NORMAL) == np.abs(NORMAL).max()


def test_percentile_is_numpys_within_a_bin():
    for percent in (50, 99, 99.99):
        observer = HistogramObserver()
        observer.observe(NORMAL)
        expected = np.percentile(np.abs(NORMAL), percent)
        assert by_percentile(observer.histogram, percent) == pytest.approx(expected, abs=8 / 4096 + 1e-3)


def test_mse_finds_the_smallest_true_error():
    # Brute force on the numbers themselves, not on a histogram.
    for values in (NORMAL, RNG.laplace(size=200_000).astype(np.float32), np.maximum(NORMAL, 0)):
        best = min(_mse(values, amax) for amax in np.linspace(0.3, 1, 60) * np.abs(values).max())
        assert _mse(values, _range("mse", values)) <= 1.03 * best


@pytest.mark.parametrize("method", ["percentile", "entropy", "mse"])
def test_a_lone_outlier_is_clipped(method):
    assert _range(method, OUTLIER) < 30


def test_entropy_is_not_secretly_max():
    assert _range("entropy", RNG.laplace(size=400_000).astype(np.float32)) < 0.9 * 12


def test_entropy_keeps_a_range_that_is_used_evenly():
    values = RNG.random(400_000).astype(np.float32)
    assert _range("entropy", values) > 0.95
    assert _range("mse", values) > 0.95


def test_zeros_behind_a_relu_do_not_decide_the_entropy_range():
    positive = np.abs(NORMAL)
    mostly_zero = np.concatenate([positive, np.zeros(40 * len(positive), np.float32)])
    assert _range("entropy", mostly_zero) == pytest.approx(_range("entropy", positive), rel=0.05)
