from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from placement import check_int8_graph, check_placement

from deploy.errors import InputError
from deploy.graph.explain import explain
from deploy.graph.fp16 import to_fp16
from deploy.graph.placement import Edge, place
from deploy.graph.qdq import insert_qdq


@pytest.fixture
def int8(ranges):
    """Makes the INT8 graph of an FP32 graph, without the nodes named."""

    def int8(model, exclude=None):
        placement = place(model, exclude)
        return to_fp16(insert_qdq(model, placement, ranges(model, placement.tensors)))

    return int8


def rules(explained):
    return {choice.node: (choice.int8, choice.rule) for choice in explained.choices}


def test_every_layer_and_addition_has_its_rule(mini):
    explained = explain(mini)
    assert explained.planned
    assert rules(explained) == {
        "stem_conv_node": (True, "convolution"),
        "wide_conv_node": (True, "convolution"),
        "deep_conv_node": (True, "convolution"),
        "fc1_node": (False, "gate"),
        "fc2_node": (False, "gate"),
        "project_node": (True, "convolution"),
        "block_node": (True, "skip branch"),
        "narrow_conv_node": (False, "few channels"),
        "left_conv_node": (True, "convolution"),
        "right_conv_node": (True, "convolution"),
        "top_conv_node": (True, "convolution"),
        "logits_node": (True, "fully connected"),
    }
    assert explained.int8_layers == 8
    assert explained.int8_mac_share == place(mini).int8_mac_share


def test_what_is_planned_is_what_is_made(mini, int8):
    made = explain(int8(mini))
    assert not made.planned
    assert made.choices == explain(mini).choices
    assert made.int8_mac_share == place(mini).int8_mac_share


@pytest.mark.parametrize("kept", [None, "Sigmoid"])
def test_layers_behind_a_split(net, int8, kept):
    """Quantized before it, or behind it where another reader of its parts is FP16."""
    model = net.shuffle(kept)
    assert all(choice.int8 for choice in explain(model).choices)
    assert explain(int8(model)).choices == explain(model).choices


def test_what_a_build_left_out_has_its_reason(mini, int8):
    exclude = {"project_node": "the target has no kernel for it"}
    placement = place(mini, exclude)
    explained = {choice.node: choice for choice in explain(int8(mini, exclude), placement.left_out).choices}
    assert (explained["project_node"].rule, explained["project_node"].why) == ("left out", exclude["project_node"])
    assert explained["fc1_node"].rule == "gate"
    assert explained["block_node"].rule == "no convolution to fuse with"
    (unknown,) = (choice for choice in explain(int8(mini, exclude)).choices if choice.rule == "left out")
    assert unknown.why == "whoever made this graph left it out"


def test_a_weight_that_fp16_cannot_hold(mini):
    value = mini.graph.initializers["top_conv.weight"]
    value.const_value = ir.tensor(value.const_value.numpy() * np.float32(1e6), name=value.name)
    (found,) = (choice for choice in explain(mini).choices if choice.node == "top_conv_node")
    assert (found.int8, found.rule) == (False, "outside FP16")
    assert "FP16 ends at 65504" in found.why


def test_a_transposed_convolution_counts_and_stays_fp16(net):
    wide = net.conv("wide", "input", (3, 16))
    out = net.op("ConvTranspose", "out", wide, net.weight("out.weight", 16, 32, 1, 1))
    explained = explain(net.model(out, ["batch", 32, 16, 16]))
    assert rules(explained) == {"wide_node": (True, "convolution"), "out_node": (False, "transposed convolution")}
    assert explained.int8_mac_share == pytest.approx(3 / (3 + 32))


def test_both_branches_quantized_by_others(mini, ranges):
    """As tools do that do not know what TensorRT fuses."""
    placement = place(mini)
    both = replace(placement, activations=(*placement.activations, Edge("project", "block_node", 0)))
    graph = to_fp16(insert_qdq(mini, both, ranges(mini, both.tensors)))
    (found,) = (choice for choice in explain(graph).choices if choice.node == "block_node")
    assert found.why == "both branches: the convolution before it cannot fuse"
    with pytest.raises(AssertionError, match="two INT8 branches"):
        check_int8_graph(graph)


def test_a_pair_before_what_only_moves_values(net):
    """Where other tools put it: TensorRT moves it on."""
    scale, zero = net.constant("scale", np.float32(0.1)), net.constant("zero", np.int8(0))
    pair = net.op("DequantizeLinear", "read", net.op("QuantizeLinear", "stored", "input", scale, zero), scale, zero)
    pooled = net.op("MaxPool", "pooled", pair, kernel_shape=[3, 3], pads=[1] * 4)
    weight = net.op("DequantizeLinear", "weight", net.constant("levels", np.ones((16, 3, 1, 1), np.int8)), scale, zero)
    first = net.op("Conv", "first", pooled, weight)
    found, half = explain(net.model(net.op("Conv", "second", first, weight), ["batch", 16, 16, 16])).choices
    assert (found.int8, found.rule) == (True, "convolution")
    assert (half.int8, half.rule, half.why) == (False, "left out", "its weight is INT8 and its input is not")


def test_an_fp16_graph_has_no_placement(mini):
    with pytest.raises(InputError, match="an FP16 graph has no INT8 placement"):
        explain(to_fp16(mini))


def test_the_checks_of_all_networks_hold_here(mini, int8):
    check_placement(mini)
    check_int8_graph(int8(mini))


def test_a_pair_that_serves_no_int8_layer_is_found(mini, int8):
    graph = int8(mini)
    relu = next(node for node in graph.graph if node.name == "narrow_node")
    pair = next(node for node in graph.graph if node.name == "stem/DequantizeLinear")
    relu.replace_input_with(0, pair.outputs[0])
    with pytest.raises(AssertionError, match="stem/DequantizeLinear is read by narrow_node"):
        check_int8_graph(graph)
