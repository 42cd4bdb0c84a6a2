from __future__ import annotations

import math
import re

import pytest

from deploy.parity.compare import Comparison
from deploy.parity.limits import DEFAULT_LIMITS, Limits
from deploy.specs import Precision

GOOD = {
    "samples": 8,
    "max_abs": 1e-6,
    "mean_abs": 1e-7,
    "relative": 1e-6,
    "cosine": 1.0,
    "sqnr_db": 100.0,
    "top1": 1.0,
    "spread": 0.3,
    "finite": True,
}


def failures(limits, **changes):
    return limits.failures(Comparison(**{**GOOD, **changes}))


@pytest.mark.parametrize("precision", Precision)
def test_good_figures_keep_every_limit(precision):
    assert failures(DEFAULT_LIMITS[precision]) == []


@pytest.mark.parametrize("precision", Precision)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"finite": False}, "NaN or infinity in the output"),
        ({"spread": 0.0}, "answers every input alike .*proves nothing"),
        ({"spread": 9e-4}, "answers every input alike"),
    ],
)
def test_what_no_precision_may_do(precision, change, said):
    (reason,) = failures(DEFAULT_LIMITS[precision], **change)
    assert re.search(said, reason)


@pytest.mark.parametrize(
    ("precision", "change", "reason"),
    [
        (Precision.FP32, {"relative": 2e-4}, "relative error 2.00e-04 over 1e-04"),
        (Precision.FP16, {"relative": 0.03}, "relative error 3.00e-02 over 2e-02"),
        (Precision.FP16, {"sqnr_db": 39.9}, "SQNR 39.9 dB under 40 dB"),
        (Precision.FP16, {"cosine": 0.99}, "cosine 0.9900 under 0.999"),
        (Precision.INT8, {"sqnr_db": 9.9}, "SQNR 9.9 dB under 10 dB"),
    ],
)
def test_each_limit_is_named_with_both_numbers(precision, change, reason):
    assert failures(DEFAULT_LIMITS[precision], **change) == [reason]


@pytest.mark.parametrize("word", ["relative", "sqnr_db", "cosine"])
def test_a_figure_that_is_no_number_keeps_no_limit(word):
    limits = Limits(relative=1e-2, sqnr_db=20.0, cosine=0.9)
    assert len(failures(limits, **{word: math.nan})) == 1


def test_limits_themselves_are_allowed():
    limits = Limits(relative=1e-2, sqnr_db=20.0, cosine=0.9)
    assert failures(limits, relative=1e-2, sqnr_db=20.0, cosine=0.9) == []
    assert failures(limits, sqnr_db=math.inf) == []


def test_every_miss_is_reported():
    assert len(failures(DEFAULT_LIMITS[Precision.FP16], relative=1, sqnr_db=1, cosine=0, spread=0)) == 4


def test_one_sample_has_no_spread():
    assert failures(DEFAULT_LIMITS[Precision.FP32], samples=1, spread=0.0) == []


def test_a_tolerance_replaces_the_relative_limit_alone():
    limits = DEFAULT_LIMITS[Precision.FP16]
    assert limits.tightened(None) is limits
    assert limits.tightened(1e-3) == Limits(relative=1e-3, sqnr_db=limits.sqnr_db, cosine=limits.cosine)
    assert DEFAULT_LIMITS[Precision.INT8].tightened(0.1).relative == 0.1
