from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest

from deploy.graph.fp16 import to_fp16
from deploy.graph.placement import place
from deploy.graph.qdq import insert_qdq
from deploy.graph.summary import Layer, summarize


@pytest.fixture
def mini_int8(mini, ranges):
    placement = place(mini)
    return to_fp16(insert_qdq(mini, placement, ranges(mini, placement.tensors))), placement


def test_counts_are_those_of_the_file(mini):
    summary = summarize(mini)
    operators = Counter(node.op_type for node in ir.to_proto(mini).graph.node)
    assert summary.operators == operators
    assert list(summary.operators) == [name for name, _ in operators.most_common()]
    assert summary.nodes == operators.total() == len(summary.layers)
    assert (summary.ir_version, summary.opset) == (10, 19)


def test_an_fp32_graph_computes_in_fp32(mini):
    summary = summarize(mini)
    assert summary.precisions == {"fp32": summary.operators}
    assert summary.layers[0] == Layer(
        "stem_conv_node", "Conv", "fp32", "[batch, 16, 16, 16]", parameters=16 * 3 * 9 + 16, macs=16 * 16 * 16 * 3 * 9
    )


def test_an_fp16_graph_with_nodes_kept_in_fp32(mini):
    summary = summarize(to_fp16(mini, ["wide_conv_node", "wide_node"]))
    precisions = {layer.name: layer.precision for layer in summary.layers}
    assert {name for name, precision in precisions.items() if precision == "fp32"} == {"wide_conv_node", "wide_node"}
    assert {layer.precision for layer in summary.layers if layer.operator == "Cast"} == {"-"}
    assert "Cast" not in {operator for counts in summary.precisions.values() for operator in counts}
    assert "Cast" in summary.operators


def test_the_int8_layers_are_those_placed(mini_int8):
    model, placement = mini_int8
    summary = summarize(model)
    quantized = {layer.name for layer in summary.layers if layer.precision == "int8"}
    weighted = {node.name for node in model.graph if node.op_type in ("Conv", "Gemm")}
    assert quantized == weighted - set(placement.left_out)
    assert sum(summary.precisions["int8"].values()) == len(placement.weights) == len(quantized)
    left = {layer.name: layer.precision for layer in summary.layers if layer.name in placement.left_out}
    assert left == dict.fromkeys(placement.left_out, "fp16")


def test_an_add_with_one_quantized_branch_is_not_int8(mini_int8):
    model, _ = mini_int8
    (layer,) = [layer for layer in summarize(model).layers if layer.operator == "Add"]
    assert layer.precision == "fp16"


def test_a_graph_without_types_is_summarized_too(mini):
    for node in mini.graph:
        for value in (*node.inputs, *node.outputs):
            value.type = value.shape = None
    for value in mini.graph.initializers.values():
        value.const_value, value.type = None, None
    summary = summarize(mini)
    assert {(layer.precision, layer.output) for layer in summary.layers} == {("-", "")}
    macs = {layer.macs for layer in summary.layers if layer.operator in ("Conv", "Gemm")}
    assert macs == {None}
    assert summary.macs is None


def test_parameters_and_macs_by_hand(net):
    """Grouped and transposed convolutions, products with a weight and of two activations; settings are no weights."""
    grouped = net.op("Relu", "relu", net.conv("grouped", "input", (3, 6), 3, group=3))
    up = net.op("ConvTranspose", "up", grouped, net.weight("up.weight", 6, 2, 2, 2), strides=[2, 2])
    scales = net.constant("scales", np.array([1, 1, 0.5, 0.5], np.float32))
    small = net.op("Resize", "small", up, net.constant("roi", np.array([], np.float32)), scales, mode="nearest")
    rows = net.op("MatMul", "rows", small, net.weight("rows.weight", 16, 5))
    square = net.op("MatMul", "square", net.op("Transpose", "turned", rows, perm=[0, 1, 3, 2]), rows)
    layers = {layer.name: layer for layer in summarize(net.model(square, ["batch", 2, 5, 5])).layers}
    assert {name: layer.macs for name, layer in layers.items() if layer.macs} == {
        "grouped_node": 6 * 16 * 16 * 9,
        "up_node": 6 * 16 * 16 * 2 * 2 * 2,
        "rows_node": 2 * 16 * 5 * 16,
        "square_node": 2 * 5 * 5 * 16,
    }
    assert {name: layer.parameters for name, layer in layers.items() if layer.parameters} == {
        "grouped_node": 6 * 9 + 6,
        "up_node": 6 * 2 * 2 * 2,
        "rows_node": 16 * 5,
    }


def test_precision_changes_neither_macs_nor_parameters(mini, mini_int8):
    model, _ = mini_int8
    before, after = summarize(mini), summarize(model)
    assert after.macs == before.macs == sum(layer.macs for layer in before.layers)
    assert after.parameters == before.parameters == sum(layer.parameters for layer in before.layers)
    counts = {layer.name: (layer.macs, layer.parameters) for layer in after.layers}
    assert all(counts[layer.name] == (layer.macs, layer.parameters) for layer in before.layers)


def test_a_weight_that_two_nodes_read_counts_once(net):
    weight = net.weight("weight", 3, 3, 1, 1)
    summary = summarize(
        net.model(net.op("Conv", "b", net.op("Conv", "a", "input", weight), weight), ["batch", 3, 16, 16])
    )
    assert [layer.parameters for layer in summary.layers] == [9, 9]
    assert summary.parameters == 9


def test_an_exported_network_counts_as_in_pytorch(exported, digits):
    """Norms are folded on export or stay: products are the same."""
    assert summarize(exported).macs == digits.macs
