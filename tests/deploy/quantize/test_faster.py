"""The decision, on times made up."""

from __future__ import annotations

import pytest

from deploy.quantize.faster import not_faster

HELPERS = {"x/QuantizeLinear": {"a"}, "x/DequantizeLinear": {"a"}, "y/QuantizeLinear": {"b", "c"}}


def times(**groups: float) -> dict[frozenset[str], float]:
    """``a_b=1``: nodes a and b together take 1 ms."""
    return {frozenset(nodes.split("_")): spent for nodes, spent in groups.items()}


def decided(int8, fp16, layers="abc", rounds=5):
    return not_faster([(int8, fp16)] * rounds, set(layers), HELPERS)


def test_each_layer_on_its_own():
    reasons = decided(times(a=0.031, b=0.010), times(a=0.028, b=0.020), "ab")
    assert reasons == {"a": "INT8 is not faster here: 0.031 ms against 0.028 ms in FP16"}


def test_as_fast_is_not_faster():
    assert decided(times(a=1), times(a=1)).keys() == {"a"}


@pytest.mark.parametrize(("slower", "returns"), [(0, set()), (1, {"a"})])
def test_one_round_against_it_is_enough(slower, returns):
    rounds = [(times(a=1.0), times(a=2.0))] * 4 + [(times(a=1.0 + 2 * slower), times(a=2.0))]
    assert not_faster(rounds, {"a"}, {}).keys() == returns


def test_the_reason_tells_the_medians():
    rounds = [(times(a=int8), times(a=fp16)) for int8, fp16 in [(1, 4), (9, 5), (3, 6)]]
    assert not_faster(rounds, {"a"}, {})["a"].endswith("3 ms against 5 ms in FP16")


def test_what_either_engine_fuses_is_compared_together():
    """INT8 fuses a with b, FP16 b with the Add d: all that they share is one."""
    reasons = decided(times(a_b=3, d=2), times(a=1, b_d=3.5), "ab")
    assert reasons == dict.fromkeys("ab", "INT8 is not faster here: 5 ms against 4.5 ms in FP16 for 2 layers together")
    assert decided(times(a_b=3, d=1), times(a=1, b_d=3.5), "ab") == {}


def test_quantizing_by_itself_counts_to_whom_it_serves():
    quantize = {frozenset({"x/QuantizeLinear"}): 0.5}
    assert decided(times(a=1), times(a=1.4)) == {}
    assert decided({**times(a=1), **quantize}, times(a=1.4)).keys() == {"a"}


def test_two_readers_of_what_is_quantized_return_together():
    quantize = {frozenset({"y/QuantizeLinear"}): 1}
    assert decided({**times(b=1, c=1), **quantize}, times(b=1.5, c=1.4)).keys() == {"b", "c"}
    assert decided({**times(b=1, c=1), **quantize}, times(b=1.6, c=1.5)) == {}


def test_quantizing_fused_with_a_layer_joins_no_others():
    """The Q of y is done by what computes y: b and c stay apart."""
    fused = {frozenset({"a", "y/QuantizeLinear"}): 1}
    assert decided({**fused, **times(b=1, c=3)}, times(a=2, b=2, c=2)).keys() == {"c"}


def test_a_layer_that_one_engine_says_nothing_of_stays():
    assert decided(times(a=9), times(b=1)) == {}
    assert decided(times(a=9, b=9), times(a=1)).keys() == {"a"}


def test_other_nodes_never_return():
    assert decided(times(pool=9), times(pool=1)) == {}
