"""Fitting weights to noisy inputs: against closed forms and data that nothing can be learnt from."""

from __future__ import annotations

import numpy as np
import pytest

from deploy.quantize.least_squares import Moments, fit


def halves(patches, results):
    """[groups, count, …] → the moments of every other row."""
    return tuple(Moments.of(patches[:, start::2], results[:, start::2]) for start in (0, 1))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_true_weights_are_found(rng):
    true, start = rng.normal(size=(2, 3, 5)), rng.normal(size=(2, 3, 5))
    patches = rng.normal(size=(2, 4000, 5))
    found = fit(start, halves(patches, patches @ true.transpose(0, 2, 1)))
    np.testing.assert_allclose(found, true, atol=0.01)


def test_a_constant_in_the_results_is_the_biases_business(rng):
    true = rng.normal(size=(1, 3, 5))
    patches = rng.normal(size=(1, 4000, 5)) + 3
    results = patches @ true.transpose(0, 2, 1) + 100
    both = halves(patches, results)
    found = fit(np.zeros((1, 3, 5)), both)
    np.testing.assert_allclose(found, true, atol=0.01)
    np.testing.assert_allclose((both[0] + both[1]).bias(true), np.full((1, 3), 100), rtol=1e-6)


def test_nothing_is_learnt_from_noise(rng):
    """Thirty patches of twenty terms: least squares alone would fit the noise, and foretell the other half badly."""
    true = rng.normal(size=(1, 4, 20))
    patches = rng.normal(size=(1, 60, 20))
    results = patches @ true.transpose(0, 2, 1) + 5 * rng.normal(size=(1, 60, 4))
    found = fit(true, halves(patches, results))
    plain = np.linalg.lstsq(patches[0], results[0], rcond=None)[0].T
    assert np.linalg.norm(found[0] - true[0]) < 0.2 * np.linalg.norm(plain - true[0])


def test_weights_on_noisy_inputs_shrink_as_theory_says(rng):
    """Errors in variables: with noise of power s on inputs of power 1 the best is 1 / (1 + s) of the true weight."""
    true, noise = rng.normal(size=(1, 3, 6)), 0.5
    clean = rng.normal(size=(1, 40000, 6))
    noisy = clean + np.sqrt(noise) * rng.normal(size=clean.shape)
    found = fit(true, halves(noisy, clean @ true.transpose(0, 2, 1)))
    np.testing.assert_allclose(found, true / (1 + noise), atol=0.03)


def test_moments_add_up(rng):
    patches, results = rng.normal(size=(2, 50, 4)), rng.normal(size=(2, 50, 3))
    whole = Moments.of(patches, results)
    parts = Moments.of(patches[:, :17], results[:, :17]) + Moments.of(patches[:, 17:], results[:, 17:])
    for name in ("pp", "yp", "p", "y", "count"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name))
    covariance, _ = whole.covariance()
    np.testing.assert_allclose(covariance[1], np.cov(patches[1].T, bias=True))
