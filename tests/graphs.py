"""ONNX graphs as other tools and older versions write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def weight(name: str, *shape: int, seed: int = 0) -> onnx.TensorProto:
    array = np.random.default_rng([seed, *name.encode()]).standard_normal(shape) / np.sqrt(np.prod(shape[1:]) or 1)
    return numpy_helper.from_array(array.astype(np.float32), name)


def constant(name: str, values: object, dtype: type = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, dtype), name)


def tensor(name: str, shape: Sequence[object] | None, dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Sequence[onnx.TensorProto] = (),
    opset: int = 19,
    ir_version: int = 10,
) -> onnx.ModelProto:
    listed = [tensor(each.name, list(each.dims), each.data_type) for each in weights] if ir_version < 4 else []
    graph = helper.make_graph(nodes, "foreign", [*inputs, *listed], outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def saved(path: str, *arguments: object, **options: object) -> Path:
    """A :func:`model`, checked and written."""
    proto = model(*arguments, **options)
    onnx.checker.check_model(proto)
    onnx.save(proto, path)
    return Path(path)


def batch_norm(x: str, out: str, channels: int) -> tuple[onnx.NodeProto, list[onnx.TensorProto]]:
    """With statistics that change what goes through."""
    rng = np.random.default_rng(channels)
    names = [f"{out}.{part}" for part in ("scale", "bias", "mean", "var")]
    values = [
        rng.uniform(0.5, 1.5, channels),
        rng.normal(size=channels),
        rng.normal(size=channels),
        rng.uniform(1, 2, channels),
    ]
    weights = [constant(name, value) for name, value in zip(names, values)]
    return helper.make_node("BatchNormalization", [x, *names], [out], epsilon=1e-5), weights


def old_graph(opset: int, shape: Sequence[object] = ("N", 3, 16, 16), ir_version: int = 8) -> onnx.ModelProto:
    """What an exporter of that time wrote: nameless nodes, auto_pad, a batch norm, Clip, Dropout, Identity, a mean."""
    norm, weights = batch_norm("convolved", "normed", 16)
    weights += [weight("kernel", 16, 3, 3, 3), weight("head", 5, 16), weight("head.bias", 5)]
    clip = helper.make_node("Clip", ["normed"], ["clipped"], min=0.0, max=6.0)
    if opset >= 11:
        clip = helper.make_node("Clip", ["normed", "low", "high"], ["clipped"])
        weights += [constant("low", 0), constant("high", 6)]
    mean = helper.make_node("ReduceMean", ["same"], ["pooled"], axes=[2, 3], keepdims=0)
    if opset >= 18:
        mean = helper.make_node("ReduceMean", ["same", "axes"], ["pooled"], keepdims=0)
        weights.append(constant("axes", [2, 3], np.int64))
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["convolved"], auto_pad="SAME_UPPER", strides=[2, 2]),
        norm,
        clip,
        helper.make_node("Dropout", ["clipped"], ["kept"]),
        helper.make_node("Identity", ["kept"], ["same"]),
        mean,
        helper.make_node("Gemm", ["pooled", "head", "head.bias"], ["scores"], transB=1),
    ]
    return model(nodes, [tensor("image", shape)], [tensor("scores", [shape[0], 5])], weights, opset, ir_version)
