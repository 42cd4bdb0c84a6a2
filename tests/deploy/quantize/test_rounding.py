"""Weights rounded together: the layer's output is what counts."""

from __future__ import annotations

import numpy as np
import pytest

from deploy.quantize.least_squares import Moments, fit
from deploy.quantize.rounding import nearest, round_together


def output_error(weights, levels, scale, covariance):
    error = weights - levels * scale[:, :, None]
    return np.einsum("got,gtu,gou->go", error, covariance, error)


@pytest.fixture
def layer():
    """Inputs that go together, as the channels of a network do."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(3, 4, 24))
    inputs = rng.normal(size=(3, 500, 24)) @ rng.normal(size=(3, 24, 24)) + 3 * rng.normal(size=(3, 500, 1))
    covariance = np.matmul(inputs.transpose(0, 2, 1), inputs) / 500
    return weights, np.abs(weights).max(axis=2) / 7, covariance


def test_the_output_is_nearer_than_by_nearest_rounding(layer):
    weights, scale, covariance = layer
    together = output_error(weights, round_together(weights, scale, covariance), scale, covariance)
    alone = output_error(weights, nearest(weights, scale[:, :, None]), scale, covariance)
    assert together.sum() < 0.5 * alone.sum()


def test_inputs_that_have_nothing_in_common_are_rounded_to_nearest(layer):
    weights, scale, _ = layer
    powers = np.random.default_rng(1).uniform(1, 2, (3, 24))
    covariance = np.einsum("gt,tu->gtu", powers, np.eye(24))
    np.testing.assert_array_equal(round_together(weights, scale, covariance), nearest(weights, scale[:, :, None]))


def test_levels_are_whole_numbers_in_range(layer):
    weights, scale, covariance = layer
    levels = round_together(100 * weights, scale, covariance)
    np.testing.assert_array_equal(levels, np.rint(levels))
    assert (levels.min(), levels.max()) == (-127, 127)


def test_groups_know_nothing_of_each_other(layer):
    weights, scale, covariance = layer
    whole = round_together(weights, scale, covariance)
    for group in range(3):
        one = slice(group, group + 1)
        np.testing.assert_array_equal(round_together(weights[one], scale[one], covariance[one]), whole[one])


def test_inputs_that_never_change_do_no_harm():
    """Their covariance is nothing but rounding, which is no positive definite matrix."""
    rng = np.random.default_rng(0)
    patches = np.broadcast_to(rng.normal(size=(1, 1, 9)), (3, 500, 9)).astype(np.float32)
    moments = Moments.of(patches, np.zeros((3, 500, 2), np.float32))
    weights = rng.normal(size=(3, 2, 9))
    scale, (covariance, _) = np.abs(weights).max(axis=2) / 7, moments.covariance()
    assert np.isfinite(round_together(weights, scale, covariance, moments.rounding())).all()
    np.testing.assert_allclose(fit(weights, (moments, moments)), weights, atol=0.05)


def test_inputs_that_are_never_used_do_no_harm(layer):
    weights, scale, covariance = layer
    covariance[:, 5], covariance[:, :, 5] = 0, 0
    assert np.isfinite(round_together(weights, scale, covariance)).all()
    assert np.isfinite(round_together(weights, scale, np.zeros_like(covariance))).all()
