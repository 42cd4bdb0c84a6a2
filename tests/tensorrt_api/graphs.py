"""One small convolutional network as ONNX, in the three precisions that plans are built of."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def network(precision="fp32", batch="batch", size=16):
    """``input`` float32[batch, 3, size, size] → conv 3→16 → relu → pool → linear → ``logits`` float32[batch, 10]."""
    rng = np.random.default_rng(0)
    kind = np.float32 if precision == "fp32" else np.float16
    weights = {
        "conv.weight": rng.normal(size=(16, 3, 3, 3)).astype(kind) / 4,
        "conv.bias": rng.normal(size=16).astype(kind),
        "fc.weight": rng.normal(size=(10, 16)).astype(kind),
        "fc.bias": rng.normal(size=10).astype(kind),
    }
    nodes, image, kernel = [], "input", "conv.weight"
    if precision != "fp32":
        nodes.append(helper.make_node("Cast", ["input"], ["image"], "/cast_in", to=TensorProto.FLOAT16))
        image = "image"
    if precision == "int8":
        nodes += quantized(image, weights, rng)
        image, kernel = "image.dq", "conv.weight.dq"
    nodes += [
        helper.make_node("Conv", [image, kernel, "conv.bias"], ["conv"], "/conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["relu"], "/relu"),
        helper.make_node("GlobalAveragePool", ["relu"], ["pool"], "/pool"),
        helper.make_node("Flatten", ["pool"], ["flat"], "/flat"),
        helper.make_node("Gemm", ["flat", "fc.weight", "fc.bias"], ["scores"], "/fc", transB=1),
        helper.make_node("Cast", ["scores"], ["logits"], "/cast_out", to=TensorProto.FLOAT),
    ]
    return serialise(nodes, weights, [batch, 3, size, size], [batch, 10])


def quantized(image, weights, rng):
    """Q/DQ pairs on the image (per tensor) and on the convolution's weights (per output channel)."""
    amax = np.abs(weights["conv.weight"]).max(axis=(1, 2, 3))
    weights |= {
        "image.scale": np.array(4 / 127, np.float16),
        "image.zero": np.array(0, np.int8),
        "weight.scale": (amax / 127).astype(np.float16),
        "weight.zero": np.zeros(16, np.int8),
    }
    node = helper.make_node
    return [
        node("QuantizeLinear", [image, "image.scale", "image.zero"], ["image.q"], "/q"),
        node("DequantizeLinear", ["image.q", "image.scale", "image.zero"], ["image.dq"], "/dq"),
        node("QuantizeLinear", ["conv.weight", "weight.scale", "weight.zero"], ["conv.weight.q"], "/wq", axis=0),
        node("DequantizeLinear", ["conv.weight.q", "weight.scale", "weight.zero"], ["conv.weight.dq"], "/wdq", axis=0),
    ]


def affine():
    """``input`` float32[batch, 4] → ``logits`` = 2 · input + 1: each row of the output tells which row it is of."""
    weights = {"two": np.float32([2]), "one": np.float32([1])}
    nodes = [
        helper.make_node("Mul", ["input", "two"], ["twice"], "/mul"),
        helper.make_node("Add", ["twice", "one"], ["logits"], "/add"),
    ]
    return serialise(nodes, weights, ["batch", 4], ["batch", 4])


def unsupported():
    """A graph whose second node no TensorRT knows."""
    nodes = [
        helper.make_node("Relu", ["input"], ["relu"], "/relu"),
        helper.make_node("Frobnicate", ["relu"], ["logits"], "/head/frob", domain="acme"),
    ]
    return serialise(nodes, {}, ["batch", 10], ["batch", 10])


def serialise(nodes, weights, input_shape, output_shape, dtype=TensorProto.FLOAT):
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("input", dtype, input_shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, output_shape)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", 19), helper.make_opsetid("acme", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    if all(node.domain == "" for node in nodes):
        onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()
