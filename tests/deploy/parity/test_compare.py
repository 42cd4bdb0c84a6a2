from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import paired_cosine_distances

from deploy.errors import InputError
from deploy.parity.compare import Accumulator, compare


def pair(rows=6, shape=(10,), noise=0.01, seed=0):
    generator = np.random.default_rng(seed)
    reference = generator.standard_normal((rows, *shape)).astype(np.float32) + 0.5
    return reference, (reference + noise * generator.standard_normal((rows, *shape))).astype(np.float32)


def in_pieces(reference, other, cuts):
    accumulator = Accumulator()
    for want, have in zip(np.split(reference, cuts), np.split(other, cuts), strict=True):
        accumulator.update(want, have)
    return accumulator.result()


@pytest.mark.parametrize("shape", [(10,), (2, 3, 4), (1,)])
@pytest.mark.parametrize("noise", [1e-6, 0.01, 10.0])
def test_every_figure_is_its_formula(shape, noise):
    reference, other = pair(shape=shape, noise=noise)
    result = compare(reference, other)
    want, have = (array.reshape(6, -1).astype(np.float64) for array in (reference, other))
    assert result.samples == 6
    assert result.max_abs == pytest.approx(np.max(np.abs(have - want)))
    assert result.mean_abs == pytest.approx(np.mean(np.abs(have - want)))
    assert result.relative == pytest.approx(np.max(np.abs(have - want)) / np.max(np.abs(want)))
    # Of single numbers all of them are one vector.
    vectors = (want.T, have.T) if shape == (1,) else (want, have)
    assert result.cosine == pytest.approx(1 - paired_cosine_distances(*vectors).max(), abs=1e-12)
    assert result.sqnr_db == pytest.approx(10 * np.log10(np.sum(want**2) / np.sum((have - want) ** 2)))
    scores = len(shape) == 1 and shape != (1,)  # else a row has no top-1
    assert result.top1 == (np.mean(np.argmax(want, 1) == np.argmax(have, 1)) if scores else None)
    assert result.spread == pytest.approx(np.mean(np.std(want, axis=0)) / np.max(np.abs(want)))
    assert result.finite


@settings(max_examples=50)
@given(st.integers(1, 9), st.sets(st.integers(0, 9)), st.floats(0, 10), st.integers(0, 99))
def test_it_does_not_matter_how_rows_are_split(rows, cuts, noise, seed):
    """Empty batches among them count nothing."""
    reference, other = pair(rows, (7,), noise, seed)
    whole, pieces = compare(reference, other), in_pieces(reference, other, sorted(cuts))
    assert_close(pieces, whole)


@pytest.mark.parametrize("noise", [1e-3, 10.0])
def test_nor_for_rows_of_one_number(noise):
    """A number that changes its sign is no other direction, where the others keep theirs."""
    reference, other = pair(9, (), noise)
    assert_close(in_pieces(reference, other, [2, 3, 7]), compare(reference, other))
    reference[4], other[4] = 1e-6, -1e-6
    assert compare(reference, other).cosine > (0.999 if noise < 1 else -1)


def assert_close(pieces, whole):
    assert pieces.agreement is whole.agreement is None
    (one, other) = ({k: v for k, v in dataclasses.asdict(c).items() if v is not None} for c in (pieces, whole))
    assert one == pytest.approx(other, rel=1e-9, abs=1e-9)


def test_equal_outputs():
    reference, _ = pair()
    result = compare(reference, reference.copy())
    assert (result.max_abs, result.mean_abs, result.relative) == (0, 0, 0)
    assert (result.cosine, result.sqnr_db, result.top1) == (1, math.inf, 1)


def test_a_known_case_by_hand():
    result = compare(np.array([[3.0, 4.0], [1.0, 0.0]]), np.array([[4.0, 3.0], [1.0, 0.0]]))
    assert (result.max_abs, result.mean_abs, result.relative, result.top1) == (1, 0.5, 0.25, 0.5)
    assert result.cosine == pytest.approx(24 / 25)
    assert result.sqnr_db == pytest.approx(10 * math.log10(26 / 2))
    assert result.spread == pytest.approx((1 + 2) / 2 / 4)


def test_the_worst_row_decides_the_cosine():
    reference = np.eye(4)
    other = reference.copy()
    other[2] = -other[2]
    assert compare(reference, other).cosine == pytest.approx(-1)


def test_rows_of_zeros_equal_each_other_and_nothing_else():
    reference = np.array([[1.0, 2.0], [0.0, 0.0]])
    assert compare(reference, reference).cosine == 1
    assert compare(reference, reference + np.array([[0, 0], [0.1, 0]])).cosine == 0


def test_half_precision_does_not_overflow_in_here():
    reference = np.full((2, 1000), 60_000, np.float16)
    result = compare(reference, reference - np.float16(64))
    assert (result.max_abs, result.mean_abs) == (64, 64)
    assert result.sqnr_db == pytest.approx(20 * math.log10(60_000 / 64), rel=1e-3)


def test_unsigned_numbers_do_not_wrap_around():
    assert compare(np.array([[3, 250]], np.uint8), np.array([[5, 249]], np.uint8)).max_abs == 2


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 3, 5])
def test_one_number_that_is_none_spoils_the_result_wherever_it_stands(bad, row):
    reference, other = pair()
    other[row, 4] = bad
    result = in_pieces(reference, other, [1, 4])
    assert not result.finite
    assert (result.samples, result.max_abs, result.top1) == (6, math.inf, 0)
    assert math.isnan(result.cosine)
    assert result.spread == pytest.approx(compare(*pair()).spread)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_reference_that_is_not_finite_is_no_reference(bad):
    reference, other = pair()
    reference[2, 2] = bad
    with pytest.raises(InputError, match="the reference itself gives NaN or infinity"):
        compare(reference, other)


@pytest.mark.parametrize("shape", [(6, 11), (5, 10), (6, 10, 1), (60,)])
def test_shapes_that_differ(shape):
    reference, _ = pair()
    with pytest.raises(InputError, match=r"outputs of different shapes \(got \[.*\]; expected \[6, 10\]\)"):
        compare(reference, np.zeros(shape, np.float32))


def test_nothing_to_compare():
    with pytest.raises(InputError, match="nothing to compare"):
        Accumulator().result()
    with pytest.raises(InputError, match="nothing to compare"):
        compare(np.zeros((0, 10)), np.zeros((0, 10)))


def test_spread_sees_a_reference_that_does_not_depend_on_its_input():
    same = np.tile(np.random.default_rng(0).standard_normal(10) * 1e3, (8, 1))
    assert compare(same, same).spread < 1e-6
    assert compare(np.zeros((4, 3)), np.zeros((4, 3))).spread == 0


def test_a_reference_of_zeros_makes_every_error_infinite():
    result = compare(np.zeros((2, 3)), np.full((2, 3), 1e-9))
    assert (result.relative, result.sqnr_db) == (math.inf, -math.inf)


@pytest.mark.parametrize("other", ["equal", "close", "nan"])
def test_json_has_no_nan(other):
    reference, close = pair()
    judged = {"equal": reference, "close": close, "nan": reference * np.nan}[other]
    fields = compare(reference, judged).to_dict()
    assert json.loads(json.dumps(fields, allow_nan=False)) == fields
    assert (fields["sqnr_db"] is None) == (other != "close")
    assert fields["finite"] is (other != "nan")


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, bool])
def test_integers_and_truth_values_agree_or_do_not(dtype):
    reference = np.array([[1, 0, 1, 1], [0, 1, 0, 1]], dtype)
    other = reference.copy()
    assert compare(reference, other).agreement == 1
    other[0, 0] = 0
    assert compare(reference, other).agreement == 7 / 8


def test_a_number_is_one_row():
    result = compare(np.float32(2.0) * np.ones((), np.float32), np.ones((), np.float32))
    assert (result.samples, result.max_abs) == (1, 1)


def test_rows_of_several_lengths_tell_no_spread():
    """An output whose first axis is not the batch is longer in a larger batch."""
    accumulator = Accumulator()
    for width in (8, 1, 8):
        values = np.arange(3 * width, dtype=np.float32).reshape(3, width)
        accumulator.update(values, values)
    result = accumulator.result()
    assert math.isnan(result.spread)
    assert (result.samples, result.max_abs) == (9, 0)
