"""Layers as matrix products, against ONNX Runtime's convolutions."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from graphs import model, tensor
from onnx import helper, numpy_helper

from deploy.quantize.patches import Layer


def conv(x, weight, **attributes):
    """The node in a graph, and what ONNX Runtime makes of ``x``."""
    node = helper.make_node("Conv", ["x", "w"], ["y"], **attributes)
    return built(node, x, weight)


def built(node, x, weight):
    proto = model([node], [tensor("x", x.shape)], [tensor("y", None)], [numpy_helper.from_array(weight, "w")])
    proto = onnx.shape_inference.infer_shapes(proto)
    (y,) = ort.InferenceSession(proto.SerializeToString()).run(None, {"x": x})
    return ir.from_proto(proto).graph[0], y


CASES = {
    "pointwise": ((6, 8, 1, 1), {}),
    "strided pointwise": ((6, 8, 1, 1), {"strides": [2, 2]}),
    "padded": ((6, 8, 3, 3), {"pads": [1, 1, 1, 1]}),
    "padded on one side": ((6, 8, 3, 5), {"pads": [0, 1, 2, 3], "strides": [2, 1]}),
    "grouped": ((6, 4, 3, 3), {"group": 2, "pads": [1, 1, 1, 1]}),
    "depthwise": ((8, 1, 5, 5), {"group": 8, "pads": [2, 2, 2, 2], "strides": [2, 2]}),
    "depthwise that widens": ((16, 1, 3, 3), {"group": 8}),
}


@pytest.mark.parametrize("name", CASES)
def test_patches_times_matrices_are_the_convolution(name):
    shape, attributes = CASES[name]
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(3, 8, 9, 11)).astype(np.float32), rng.normal(size=shape).astype(np.float32)
    node, y = conv(x, weight, **attributes)
    layer = Layer.of(node)
    product = layer.patches(x) @ layer.matrices().transpose(0, 2, 1)
    np.testing.assert_allclose(product, layer.results(y), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(layer.as_weight(layer.matrices()), weight)
    assert (layer.groups, layer.outputs) == (attributes.get("group", 1), len(weight))


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_fully_connected_layer(transposed):
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(5, 7)).astype(np.float32), rng.normal(size=(7, 4)).astype(np.float32)
    stored = np.ascontiguousarray(weight.T) if transposed else weight
    node, y = built(helper.make_node("Gemm", ["x", "w"], ["y"], transB=transposed), x, stored)
    layer = Layer.of(node)
    np.testing.assert_allclose(layer.patches(x) @ layer.matrices().transpose(0, 2, 1), layer.results(y), rtol=1e-5)
    np.testing.assert_array_equal(layer.as_weight(layer.matrices()), stored)
    assert (layer.outputs, layer.terms) == (4, 7)


@pytest.mark.parametrize("attributes", [{"dilations": [2, 2]}, {"auto_pad": "SAME_UPPER"}])
def test_other_convolutions_are_left_alone(attributes):
    x = np.zeros((1, 8, 9, 9), np.float32)
    node, _ = conv(x, np.ones((6, 8, 3, 3), np.float32), **attributes)
    assert Layer.of(node) is None
