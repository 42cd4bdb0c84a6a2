"""Q/DQ taken out of graphs that hold them: which nodes are meant, and what they compute then."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploy.graph.drop_qdq import drop_qdq, int8_nodes, int8_nodes_named
from deploy.graph.fp16 import to_fp16
from deploy.graph.placement import place
from deploy.graph.qdq import insert_qdq


@pytest.fixture
def int8(mini, ranges):
    """Q/DQ over FP32."""
    placement = place(mini)
    return insert_qdq(mini, placement, ranges(mini, placement.tensors))


def operators(model, name):
    """The operators that make the inputs of a node; an initializer is none."""
    node = next(node for node in model.graph if node.name == name)
    return [value.producer() and value.producer().op_type for value in node.inputs if value is not None]


def test_which_nodes_are_meant(int8):
    assert int8_nodes_named(int8, ["wide_conv_node"]) == ["wide_conv_node"]
    assert int8_nodes_named(int8, ["wide_conv_node", "wide_node", "deep_conv_node"]) == [
        "wide_conv_node",
        "deep_conv_node",
    ]
    assert int8_nodes_named(int8, ["wide_node"]) == [], "an activation is in no INT8"
    assert int8_nodes_named(int8, ["(Unnamed Layer* 7) [Shuffle]", "head.weight"]) == []


def test_qdq_alone_mean_their_readers(int8):
    assert int8_nodes_named(int8, ["stem/DequantizeLinear"]) == ["wide_conv_node", "block_node"]
    assert int8_nodes_named(int8, ["stem/QuantizeLinear"]) == ["wide_conv_node", "block_node"]
    assert int8_nodes_named(int8, ["wide_conv_node", "wide/QuantizeLinear"]) == ["wide_conv_node"], "fused behind it"


def test_a_region_is_all_that_lies_between(int8):
    assert int8_nodes_named(int8, ["stem_conv_node"], ["logits_node"]) == int8_nodes(int8)
    assert set(int8_nodes_named(int8, ["wide_node"], ["deep_node"])) == {"deep_conv_node"}
    assert int8_nodes_named(int8, ["nobody"], ["deep_conv_node"]) == ["deep_conv_node"], "where only one end is known"


def test_nodes_without_a_name_in_the_file(int8):
    """NVIDIA's parser calls them after what they give."""
    for node in int8.graph:
        node.name = None
    named = int8_nodes_named(int8, ["node_of_wide_conv"])
    assert len(named) == 1
    assert len(int8_nodes(drop_qdq(int8, named))) == len(int8_nodes(int8)) - 1


def test_a_node_without_its_qdq(int8, mini, run, images):
    dropped = drop_qdq(int8, ["wide_conv_node"])
    assert operators(int8, "wide_conv_node")[:2] == ["DequantizeLinear", "DequantizeLinear"]
    assert operators(dropped, "wide_conv_node")[:2] == ["Relu", None]
    assert operators(dropped, "block_node").count("DequantizeLinear") == 1, "another reader keeps the pair"
    assert int8_nodes_named(dropped, ["wide_conv_node"]) == []
    plain, quantized, less = (run(model, images, "wide")["wide"] for model in (mini, int8, dropped))
    assert np.abs(less - plain).mean() < 0.8 * np.abs(quantized - plain).mean()


def test_all_of_them(int8, mini, run, images):
    """What is left of INT8 are the rounded weights."""
    dropped = drop_qdq(int8, int8_nodes(int8))
    assert int8_nodes(dropped) == []
    assert not [node for node in dropped.graph if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert not [name for name in dropped.graph.initializers if name.endswith(("/quantized", "/scale", "zero_point"))]
    np.testing.assert_allclose(run(dropped, images)["logits"], run(mini, images)["logits"], rtol=0.05, atol=0.05)


def test_the_given_graph_stays_as_it_is(int8):
    before = ir.to_proto(int8).SerializeToString(deterministic=True)
    drop_qdq(int8, ["wide_conv_node"])
    assert ir.to_proto(int8).SerializeToString(deterministic=True) == before


def test_over_fp16(int8, run, images):
    half = to_fp16(int8)
    dropped = drop_qdq(half, ["wide_conv_node"])
    weight = next(node for node in dropped.graph if node.name == "wide_conv_node").inputs[1]
    assert weight.dtype == ir.DataType.FLOAT16
    np.testing.assert_allclose(run(dropped, images)["logits"], run(half, images)["logits"], rtol=0.1, atol=0.1)


def qat():
    """As PyTorch's quantization-aware training exports: an FP32 weight through Q/DQ, and a bias in INT32."""
    rng = np.random.default_rng(0)
    node = helper.make_node
    weights = {
        "w": rng.standard_normal((8, 3, 1, 1)).astype(np.float32),
        "b": np.arange(8, dtype=np.int32),
        "s": np.float32(0.04),
        "z": np.int8(0),
        "ws": np.full(8, 0.02, np.float32),
        "wz": np.zeros(8, np.int8),
        "bs": np.full(8, 0.0004, np.float32),
    }
    nodes = [
        node("QuantizeLinear", ["input", "s", "z"], ["xq"], "xq"),
        node("DequantizeLinear", ["xq", "s", "z"], ["x"], "xdq"),
        node("QuantizeLinear", ["w", "ws", "wz"], ["wq"], "wq", axis=0),
        node("DequantizeLinear", ["wq", "ws", "wz"], ["wd"], "wdq", axis=0),
        node("DequantizeLinear", ["b", "bs"], ["bd"], "bdq", axis=0),
        node("Conv", ["x", "wd", "bd"], ["logits"], "conv"),
    ]
    graph = helper.make_graph(
        nodes,
        "qat",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 8, 16, 16])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto)), weights


def test_weights_that_were_never_stored_in_int8(run, images):
    model, weights = qat()
    dropped = drop_qdq(model, ["conv"])
    assert [node.op_type for node in dropped.graph] == ["Conv"]
    conv = next(iter(dropped.graph))
    assert (conv.inputs[1].const_value.numpy() == weights["w"]).all()
    bias = conv.inputs[2].const_value.numpy()
    np.testing.assert_allclose(bias, np.arange(8) * 0.0004, rtol=1e-6)
    run(dropped, images)


def test_an_older_graph(run, images):
    """Opset 13 has Q/DQ too, and others still write it."""
    model, _ = qat()
    plain = run(model, images)["logits"]
    model.opset_imports[""] = 13
    assert int8_nodes(model) == ["conv"]
    dropped = drop_qdq(model, ["conv"])
    assert dropped.opset_imports[""] == 19
    np.testing.assert_allclose(run(dropped, images)["logits"], plain, atol=0.2)
