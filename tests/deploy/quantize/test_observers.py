from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deploy.quantize.observers import BINS, ChannelObserver, HistogramObserver, MaxObserver

FLOATS = st.floats(-(2.0**100), 2.0**100, width=32)
BATCHES = st.lists(arrays(np.float32, st.integers(1, 40), elements=FLOATS), min_size=1, max_size=6)


def _observed(batches):
    observer = HistogramObserver()
    for batch in batches:
        observer.observe(batch)
    return observer.histogram


@given(BATCHES)
def test_counts_are_those_of_numpy_over_all_the_data(batches):
    histogram = _observed(batches)
    values = np.abs(np.concatenate(batches).astype(np.float64))
    expected, _ = np.histogram(values, BINS, (0, histogram.limit))
    np.testing.assert_array_equal(histogram.counts, expected)
    assert histogram.amax == values.max()


@given(BATCHES, st.randoms(use_true_random=False))
def test_order_and_batches_do_not_matter(batches, random):
    whole = _observed([np.concatenate(batches)])
    shuffled = random.sample(batches, len(batches))
    split = _observed([part for batch in shuffled for part in np.array_split(batch, 3)])
    assert (whole.limit, whole.amax) == (split.limit, split.amax)
    np.testing.assert_array_equal(whole.counts, split.counts)


def test_the_range_is_a_power_of_two_of_which_more_than_half_is_used():
    histogram = _observed([np.array([0.1, -5.0], np.float32)])
    assert histogram.limit == 8.0
    assert np.flatnonzero(histogram.counts).max() >= BINS // 2


def test_bins_merge_exactly_when_a_larger_value_comes():
    rng = np.random.default_rng(0)
    small, large = rng.random(100_000, np.float32), rng.random(1000, np.float32) * 1000
    histogram = _observed([small, large])
    expected, _ = np.histogram(np.concatenate([small, large]), BINS, (0, 1024))
    np.testing.assert_array_equal(histogram.counts, expected)


def test_zeros_before_anything_else_are_counted():
    histogram = _observed([np.zeros(7, np.float32), np.ones(2, np.float32)])
    assert histogram.counts[0] == 7
    assert histogram.counts.sum() == 9


@pytest.mark.parametrize("kind", [MaxObserver, HistogramObserver])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_shows_in_amax_and_stays(kind, bad):
    observer = kind()
    observer.observe(np.array([1, bad, 2], np.float32))
    observer.observe(np.ones(3, np.float32))
    assert not np.isfinite(observer.amax)


def test_max_observer_sees_both_signs():
    observer = MaxObserver()
    for batch in ([1.0, -3.0], [2.0], []):
        observer.observe(np.array(batch, np.float32))
    assert observer.amax == 3.0


def test_numbers_too_small_for_bins_still_have_a_peak():
    histogram = _observed([np.array([1e-40, 0], np.float32)])
    assert histogram.counts[0] == 2
    assert histogram.amax == pytest.approx(1e-40, rel=1e-4)


def _channels(images):
    observer = ChannelObserver()
    for start in range(0, len(images), 3):
        observer.observe(images[start : start + 3])
    return observer


def test_channels_are_told_apart():
    images = np.random.default_rng(0).standard_normal((7, 4, 5, 5)).astype(np.float32)
    observer, each = _channels(images), np.abs(images).max(axis=(2, 3)).astype(np.float64)
    np.testing.assert_array_equal(observer.peaks, each.max(axis=0))
    np.testing.assert_allclose(observer.mean_square, (images.astype(np.float64) ** 2).mean(axis=(0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(observer.reach, (each**8).mean(axis=0) ** (1 / 8), rtol=1e-12)


def test_one_image_that_reaches_twice_as_far_among_many_counts_for_less():
    images = np.ones((64, 2, 2, 2), np.float32)
    images[5, 0] *= 2
    observer = _channels(images)
    assert observer.peaks.tolist() == [2, 1]
    assert 1.1 < observer.reach[0] < 1.3
    assert observer.reach[1] == 1


def test_scaled_channels_are_those_of_scaled_images():
    images, factors = np.random.default_rng(0).standard_normal((4, 3, 2, 2)).astype(np.float32), np.array([1, 0.25, 8])
    scaled, expected = _channels(images).scaled(factors), _channels(images * factors.astype(np.float32)[:, None, None])
    np.testing.assert_allclose(scaled.reach, expected.reach)
    np.testing.assert_allclose(scaled.mean_square, expected.mean_square)
    assert scaled.amax == expected.amax
