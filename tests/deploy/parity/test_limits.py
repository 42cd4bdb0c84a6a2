from __future__ import annotations

import math
import re
from dataclasses import replace

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


def comparison(**changes):
    return Comparison(**{**GOOD, **changes})


def failures(limits, **changes):
    return limits.failures(comparison(**changes))


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
    assert limits.tightened(1e-3) == replace(limits, relative=1e-3)
    assert DEFAULT_LIMITS[Precision.INT8].tightened(0.1).relative == 0.1


@pytest.mark.parametrize(
    ("precision", "least"), [(Precision.FP32, 0.99), (Precision.FP16, 0.9), (Precision.INT8, 0.75)]
)
def test_integers_are_judged_by_how_many_agree(precision, least):
    limits = DEFAULT_LIMITS[precision]
    distant = {"relative": 1.0, "sqnr_db": -3.0, "cosine": 0.1}
    assert limits.failures(comparison(agreement=least, **distant)) == []
    (reason,) = limits.failures(comparison(agreement=least - 0.01, **distant))
    assert reason.endswith(f"of the elements agree, under {100 * least:g} %")


def test_a_constant_output_beside_one_that_spreads_is_sound():
    limits, constant = DEFAULT_LIMITS[Precision.FP16], comparison(spread=0.0)
    assert limits.all_failures({"scores": comparison(), "anchors": constant}) == {"scores": [], "anchors": []}
    failures = limits.all_failures({"one": constant, "anchors": constant})
    assert all("proves nothing" in reason for reasons in failures.values() for reason in reasons)
    assert all(failures.values())
    far = comparison(spread=0.0, cosine=0.5)
    assert limits.all_failures({"scores": comparison(), "anchors": far})["anchors"] == ["cosine 0.5000 under 0.999"]
