from __future__ import annotations

import pytest

from deploy.graph.fp16 import FP16_MAX, to_fp16
from deploy.graph.headroom import headroom
from deploy.graph.placement import place
from deploy.graph.qdq import insert_qdq


def test_the_nearest_comes_first_and_zeros_say_nothing(mini):
    found = headroom(to_fp16(mini), {"wide": 100.0, "logits": 2000.0, "deep": 0.0})
    assert found == {"logits": FP16_MAX / 2000, "wide": FP16_MAX / 100}
    assert list(found) == ["logits", "wide"]


def test_what_stays_fp32_needs_none(mini):
    """The tensor between two nodes that stay FP32 is never FP16; what they read and give is, behind a Cast."""
    half = to_fp16(mini, ["wide_node", "deep_conv_node"])
    assert set(headroom(half, {"wide_conv": 1.0, "wide": 5e4, "deep_conv": 3.0})) == {"wide_conv", "deep_conv"}


def test_an_int8_graph_holds_fp16_between_its_int8_tensors(mini, ranges):
    """The input is quantized as it comes, in FP32."""
    placement = place(mini)
    graph = to_fp16(insert_qdq(mini, placement, ranges(mini, placement.tensors)))
    assert headroom(graph, {"wide": 8.0, "input": 2.0}) == {"wide": FP16_MAX / 8}


@pytest.mark.parametrize("peaks", [{}, {"no tensor of this graph": 1.0}])
def test_nothing_seen(mini, peaks):
    assert headroom(to_fp16(mini), peaks) == {}
