"""Sensitivities of a network that is arithmetic: logits with an error for each layer in INT8."""

from __future__ import annotations

import math

import numpy as np
import pytest

from deploy.quantize.sensitivity import measure
from deploy.quantize.units import Unit

REFERENCE = np.random.default_rng(0).standard_normal((50, 10)).astype(np.float32)
UNITS = [Unit(("a",), 10), Unit(("b", "c"), 20), Unit(("d",), 30)]
ERRORS = {"a": 0.1, "b": 0.3, "c": 0.4, "d": 0.0}
FLOOR = 0.01


def logits(int8):
    rng = np.random.default_rng(1)
    error = FLOOR * rng.standard_normal(REFERENCE.shape)
    for name, size in ERRORS.items():
        noise = rng.standard_normal(REFERENCE.shape)
        error += size * noise * (name in int8)
    return (REFERENCE + error).astype(np.float32)


def measured(run=logits, **options):
    return measure(UNITS, lambda fp16: set(ERRORS) - set(fp16), run, REFERENCE, **options)


def test_each_unit_is_measured_alone():
    found = measured()
    assert [each.unit for each in found] == UNITS
    power = float((REFERENCE**2).mean())
    for each, error in zip(found, [0.1**2, 0.3**2 + 0.4**2, 0.0]):
        assert each.error == pytest.approx(error, rel=0.15, abs=1e-6)
        assert each.sqnr_db == pytest.approx(10 * math.log10(power / (error + FLOOR**2)), abs=0.8)
    assert found[2].drop == pytest.approx(0)
    assert found[1].drop == 100 * (logits({"b", "c"}).argmax(1) != REFERENCE.argmax(1)).mean() > 0


def test_progress_counts_the_units():
    told = []
    measured(progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_a_layer_that_overflows_is_the_worst():
    def run(int8):
        values = logits(int8)
        if "a" in int8:
            values[0, 0] = np.nan
        return values

    worst = measured(run)[0]
    assert (worst.error, worst.sqnr_db) == (math.inf, -math.inf)


def test_no_error_at_all():
    found = measured(lambda int8: REFERENCE)
    assert {(each.error, each.sqnr_db, each.drop) for each in found} == {(0.0, math.inf, 0.0)}
