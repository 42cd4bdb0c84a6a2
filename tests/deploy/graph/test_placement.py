from __future__ import annotations

import numpy as np
import pytest

from deploy.errors import InputError
from deploy.graph.placement import Edge, place
from deploy.graph.qdq import insert_qdq


def test_what_is_quantized_and_what_is_not(mini):
    placement = place(mini)
    assert placement.tensors == ("input", "stem", "wide", "scaled", "narrow", "left", "joined", "flat")
    assert set(placement.left_out) == {"fc1_node", "fc2_node", "narrow_conv_node"}
    assert "gate" in placement.left_out["fc1_node"]
    assert placement.left_out["narrow_conv_node"] == "it has fewer than 16 output channels"
    assert placement.weights["head.weight"] == 0
    assert "fc1.weight" not in placement.weights


def test_the_skip_branch_of_an_add_is_quantized_and_the_conv_branch_is_not(mini):
    adds = [edge for edge in place(mini).activations if edge.node == "block_node"]
    assert adds == [Edge("stem", "block_node", 1)]


def test_of_two_conv_branches_the_shorter_is_the_skip(net):
    stem = net.conv("stem", "input", (3, 16))
    shortcut = net.conv("shortcut", stem, (16, 16))
    main = net.conv("second", net.conv("first", stem, (16, 16)), (16, 16))
    placement = place(net.model(net.op("Add", "out", shortcut, main), ["batch", 16, 16, 16]))
    assert Edge("shortcut", "out_node", 0) in placement.activations
    assert Edge("second", "out_node", 1) not in placement.activations


def test_an_add_without_a_fusable_conv_is_left_alone(net):
    stem = net.op("Relu", "stem", net.conv("stem_conv", "input", (3, 16)))
    main = net.op("Relu", "main", net.conv("main_conv", stem, (16, 16)))
    placement = place(net.model(net.op("Add", "out", main, stem), ["batch", 16, 16, 16]))
    assert [edge for edge in placement.activations if edge.node == "out_node"] == []


def test_an_excluded_conv_takes_its_add_along(mini):
    placement = place(mini, {"project_node": "the target has no kernel for it"})
    assert placement.left_out["project_node"] == "the target has no kernel for it"
    assert not [edge for edge in placement.activations if edge.node in ("project_node", "block_node")]
    assert "project.weight" not in placement.weights


def test_concat_inputs_share_the_scale_of_its_output(mini):
    assert place(mini).shared_scale == (("joined", "left"),)


def test_concat_shares_scales_through_reshape(net):
    left = net.conv("left", "input", (3, 16))
    right = net.conv("right", left, (16, 16))
    joined = net.op("Concat", "joined", left, right, axis=1)
    moved = net.op("Transpose", "moved", joined, perm=[0, 1, 3, 2])
    model = net.model(net.conv("out", moved, (32, 32)), ["batch", 32, 16, 16])
    assert place(model).shared_scale == (("left", "moved"),)


def test_both_halves_of_a_channel_split_are_int8(net):
    """The tensor is quantized before the Split, once, and all that the Concats join has one scale."""
    placement = place(net.shuffle())
    assert placement.activations == (
        Edge("input", "stem_conv_node", 0),
        Edge("stem", "first_split", 0),
        Edge("first", "second_split", 0),
        Edge("second", "out_node", 0),
    )
    assert placement.shared_scale == (("first", "second", "stem"),)
    assert placement.int8_mac_share == 1
    assert placement.left_out == {}


def test_a_split_whose_other_half_is_read_in_fp16_is_left_alone(net):
    placement = place(net.shuffle("Sigmoid"))
    assert Edge("first.b", "first.conv_node", 0) in placement.activations
    assert "first_split" not in [edge.node for edge in placement.activations]


def test_a_split_whose_half_is_an_output_of_the_graph_is_left_alone(net):
    """Else the output would be rounded to INT8."""
    model = net.shuffle()
    half = next(value for node in model.graph for value in node.outputs if value.name == "first.a")
    model.graph.outputs.append(half)
    assert "first_split" not in [edge.node for edge in place(model).activations]


def test_an_excluded_split_takes_its_readers_along(net):
    placement = place(net.shuffle(), {"second_split": "its input is dead"})
    assert placement.left_out == {"second.conv_node": "its input is dead"}
    # What the first Concat joins is not read in INT8 any more: its kept half has no reason to be.
    assert [edge.node for edge in placement.activations] == ["stem_conv_node", "first.conv_node", "out_node"]


def test_int8_halves_compute_what_the_graph_says(net, images, run, ranges):
    model = net.shuffle()
    placement = place(model)
    quantized = insert_qdq(model, placement, ranges(model, placement.tensors))
    expected, got = (run(graph, images, "out")["out"] for graph in (model, quantized))
    assert 0 < np.abs(got - expected).max() < 0.05 * np.abs(expected).max()


def test_concat_shares_scales_through_slices(net):
    left = net.conv("left", "input", (3, 16))
    joined = net.op("Concat", "joined", left, net.conv("right", left, (16, 16)), axis=1)
    bounds = (net.constant(name, np.array([number])) for name, number in (("from", 16), ("to", 32), ("axis", 1)))
    half = net.op("Slice", "half", joined, *bounds)
    model = net.model(net.conv("out", half, (16, 32)), ["batch", 32, 16, 16])
    assert place(model).shared_scale == (("half", "left"),)


def test_a_classifier_behind_a_pool_is_no_gate(mini):
    assert "logits_node" not in place(mini).left_out


def test_gate_of_an_efficientnet_has_its_own_sigmoid_mul(net):
    stem = net.conv("stem", "input", (3, 32))
    pool = net.op("GlobalAveragePool", "pool", stem)
    squeezed = net.conv("fc1", pool, (32, 16))
    silu = net.op("Mul", "silu", squeezed, net.op("Sigmoid", "inner", squeezed))
    gate = net.op("Sigmoid", "gate", net.conv("fc2", silu, (16, 32)))
    model = net.model(net.conv("out", net.op("Mul", "scaled", stem, gate), (32, 32)), ["batch", 32, 16, 16])
    assert set(place(model).left_out) == {"fc1_node", "fc2_node"}


@pytest.mark.parametrize(("trans", "shape", "axis"), [(1, (20, 768), 0), (0, (768, 20), 1)])
def test_gemm_channels_follow_transb(net, trans, shape, axis):
    flat = net.op("Flatten", "flat", "input")
    net.op("Gemm", "out", flat, net.weight("weight", *shape), transB=trans)
    assert place(net.model("out", ["batch", 20])).weights == {"weight": axis}


def test_matmul_of_two_activations_is_left_out(net):
    placement = place(net.model(net.op("MatMul", "out", "input", "input"), ["batch", 3, 16, 16]))
    assert placement.left_out == {"out_node": "its weight is not constant"}
    assert placement.tensors == ()


def test_mac_share_counts_positions_and_groups(net):
    first = net.conv("first", "input", (3, 16), 3)  # 256 positions · 16 · 3 · 9 = 110592
    depthwise = net.conv("depthwise", first, (16, 16), 3, group=16)  # 256 · 16 · 9 = 36864
    model = net.model(net.conv("last", depthwise, (16, 8)), ["batch", 8, 16, 16])  # 256 · 16 · 8 = 32768, FP16
    share = place(model).int8_mac_share
    assert share == pytest.approx((110592 + 36864) / (110592 + 36864 + 32768))


def test_a_quantized_graph_is_refused(mini, ranges):
    placement = place(mini)
    quantized = insert_qdq(mini, placement, ranges(mini, placement.tensors))
    with pytest.raises(InputError, match="quantized already"):
        place(quantized)


def test_unknown_exclusion(mini):
    with pytest.raises(InputError, match="no node has this name"):
        place(mini, {"nothing": np.str_("why")})


def _number(net, name, value):
    return net.constant(name, np.array(value, np.float32))


def _hard_sigmoid_in_parts(net, out, x):
    """``clip(x + 3, 0, 6) / 6``, as older exporters spell it."""
    more = net.op("Add", f"{out}_more", x, _number(net, f"{out}_3", 3))
    clipped = net.op("Clip", f"{out}_clipped", more, _number(net, f"{out}_0", 0), _number(net, f"{out}_6", 6))
    return net.op("Div", out, clipped, _number(net, f"{out}_by", 6))


def _swish(net, out, x):
    return net.op("Mul", out, x, net.op("Sigmoid", f"{out}_sigmoid", x))


POOLS = {
    "GlobalAveragePool": {},
    "ReduceMean": {"keepdims": 1},
    "AveragePool": {"kernel_shape": [16, 16]},
}


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("gate_first", [True, False])
@pytest.mark.parametrize("spelled", [True, False])
def test_a_gate_is_found_in_every_spelling(net, pool, gate_first, spelled):
    wide = _swish(net, "wide", net.conv("wide_conv", "input", (3, 32)))
    axes = [net.constant("axes", np.array([2, 3]))] if pool == "ReduceMean" else []
    pooled = net.op(pool, "pooled", wide, *axes, **POOLS[pool])
    inner = _swish(net, "inner", net.conv("fc1", pooled, (32, 16)))
    opened = net.conv("fc2", inner, (16, 32))
    gate = _hard_sigmoid_in_parts(net, "gate", opened) if spelled else net.op("Sigmoid", "gate", opened)
    scaled = net.op("Mul", "scaled", *((gate, wide) if gate_first else (wide, gate)))
    placement = place(net.model(net.conv("project", scaled, (32, 16)), ["batch", 16, 16, 16]))
    assert set(placement.left_out) == {"fc1_node", "fc2_node"}
    assert placement.tensors == ("input", "scaled")


def test_a_pool_of_part_of_the_image_begins_no_gate(net):
    wide = net.conv("wide_conv", "input", (3, 32))
    pooled = net.op("AveragePool", "pooled", wide, kernel_shape=[3, 3], pads=[1] * 4)
    mixed = net.op("Mul", "mixed", wide, net.conv("inner", pooled, (32, 32)))
    assert place(net.model(net.op("Relu", "out", mixed), ["batch", 32, 16, 16])).left_out == {}


def test_a_sum_of_two_is_an_addition(net):
    stem = net.op("Relu", "stem", net.conv("stem_conv", "input", (3, 16)))
    both = net.op("Sum", "both", stem, net.conv("main", stem, (16, 16)))
    three = net.op("Sum", "three", both, stem, net.conv("other", both, (16, 16)))
    placement = place(net.model(three, ["batch", 16, 16, 16]))
    skips = [edge for edge in placement.activations if edge.node.startswith(("both", "three"))]
    assert skips == [Edge("stem", "both_node", 0)]
