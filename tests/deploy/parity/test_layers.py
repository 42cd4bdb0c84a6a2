"""Powers, ratios and what is named as the worst."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from deploy.parity.layers import (
    ErrorPower,
    LayerReport,
    Range,
    RangeFinding,
    SignalPower,
    TensorLoss,
    clipped_share,
    fewer_bins,
    sqnr_db,
    step_db,
)


def loss(tensor, sqnr=30.0, own=40.0, step=1.0, *, is_layer=True, finite=True, op_type="Conv"):
    return TensorLoss(tensor, f"{tensor}/{op_type}", op_type, is_layer, sqnr, own, step, finite, 2.0, 32752.0, True, ())


def report(*losses):
    return LayerReport(8, losses, (), ())


def test_powers_of_batches_add_up_to_that_of_all():
    values = np.random.default_rng(0).standard_normal((100, 3, 30, 30)).astype(np.float32)
    whole, parts = SignalPower(), SignalPower()
    whole.observe(values)
    for start in range(0, 100, 7):
        parts.observe(values[start : start + 7])
    assert parts.total == pytest.approx(whole.total, rel=1e-12)
    assert whole.total == pytest.approx(np.square(values, dtype=np.float64).sum(), rel=1e-12)
    assert parts.peak == whole.peak == np.abs(values).max()


def test_large_fp32_numbers_do_not_overflow_the_power():
    power = SignalPower()
    power.observe(np.full(4, 1e30, np.float32))
    assert power.total == pytest.approx(4e60, rel=1e-6)


def test_an_infinite_signal_is_told_and_an_infinite_error_kept():
    for value in (np.inf, np.nan):
        signal, error = SignalPower(), ErrorPower()
        signal.observe(np.array([1, value], np.float32))
        error.observe(np.array([1, value], np.float32))
        assert not math.isfinite(signal.amax)
        assert error.amax == 0
        assert not math.isfinite(error.total)


def test_what_is_watched_is_shown_on():
    seen = []
    watcher = type("Watcher", (), {"observe": lambda self, values: seen.append(values)})()
    SignalPower(also=watcher).observe(np.ones(3, np.float32))
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("signal", "error", "expected"),
    [(100.0, 1.0, 20.0), (1.0, 0.0, math.inf), (1.0, math.inf, -math.inf), (1.0, math.nan, -math.inf)],
)
def test_sqnr(signal, error, expected):
    powers = SignalPower(), ErrorPower()
    powers[0].total, powers[1].total = signal, error
    assert sqnr_db(*powers) == pytest.approx(expected)


def test_without_a_signal_there_is_no_ratio():
    assert math.isnan(sqnr_db(SignalPower(), ErrorPower()))


@pytest.mark.parametrize(
    ("own", "read", "expected"),
    [
        (20.0, [35.0, 30.0], 10.0),
        (20.0, [], None),
        (20.0, [math.inf], None),
        (20.0, [math.nan, 25.0], 5.0),
        (-math.inf, [30.0], math.inf),
        (-math.inf, [-math.inf, 30.0], None),
        (math.nan, [30.0], None),
    ],
)
def test_steps(own, read, expected):
    assert step_db(own, read) == expected


def test_the_share_clipped():
    counts = np.array([4, 3, 2, 1])  # over [0, 8): two wide
    assert clipped_share(counts, 8.0, 8.0) == 0
    assert clipped_share(counts, 8.0, 6.0) == 0.1
    assert clipped_share(counts, 8.0, 5.0) == 0.1  # to a bin: what begins below 5 counts as kept
    assert clipped_share(counts, 8.0, 100.0) == 0
    assert fewer_bins(counts, 2) == (7, 3)


def test_the_worst_are_named_the_first_of_equals():
    first, second = loss("a", own=20.0, step=3.0), loss("b", own=20.0, step=3.0)
    found = report(loss("c"), first, second)
    assert found.largest_own_loss is first
    assert found.largest_step is first


def test_an_overflow_is_worse_than_anything():
    overflow = loss("b", sqnr=-math.inf, own=-math.inf, step=math.inf, finite=False)
    found = report(loss("a", own=-3.0), overflow)
    assert found.largest_own_loss is overflow
    assert found.largest_step is overflow


def test_what_is_no_layer_is_shown_where_it_loses_most():
    activation = loss("relu", own=10.0, step=20.0, is_layer=False, op_type="Relu")
    found = report(loss("a"), activation, loss("sum", is_layer=False))
    assert [each.tensor for each in found.layers] == ["a", "relu"]
    assert found.largest_step.tensor == "a"


def test_where_nothing_is_lost_nothing_is_named():
    found = report(loss("a", math.inf, math.inf, None), loss("dead", math.nan, math.nan, None))
    assert found.largest_own_loss is None
    assert found.largest_step is None
    assert found.to_dict()["largest_own_loss"] is None


def test_the_document_is_json_and_keeps_its_schema():
    ranges = (Range("a", 0.1, 12.7, 20.0, 0.01, (5, 1), 32.0),)
    losses = (loss("a", -math.inf, math.inf, None, finite=False),)
    findings = (RangeFinding("a", "a/Conv", "too large", "stays FP32"),)
    found = LayerReport(8, losses, ranges, findings, {"metric": "top1"})
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert document == {
        "schema": 1,
        "images": 8,
        "largest_own_loss": None,
        "largest_step": None,
        "tensors": [
            {
                "tensor": "a",
                "layer": "a/Conv",
                "op_type": "Conv",
                "is_layer": True,
                "sqnr_db": None,
                "own_sqnr_db": None,
                "step_db": None,
                "finite": False,
                "peak": 2.0,
                "headroom": 32752.0,
                "fp16": True,
                "quantized": [],
            }
        ],
        "ranges": [
            {
                "tensor": "a",
                "scale": 0.1,
                "clip": 12.7,
                "peak": 20.0,
                "clipped": 0.01,
                "counts": [5, 1],
                "limit": 32.0,
            }
        ],
        "findings": [{"tensor": "a", "layer": "a/Conv", "why": "too large", "outcome": "stays FP32"}],
        "search": {"metric": "top1"},
    }
