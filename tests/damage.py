"""Faults planted in graphs that build wrote."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper, numpy_helper

Damage = Callable[[onnx.ModelProto], None]


def damaged(source: str, damage: Damage) -> str:
    model = onnx.load(source)
    damage(model)
    onnx.checker.check_model(model)
    onnx.save(model, "damaged.onnx")
    return "damaged.onnx"


def weight(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def replace(tensor: onnx.TensorProto, array: np.ndarray) -> None:
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def scale_layer(factor: float) -> Damage:
    """Layer features.0.0 times ``factor`` twice, and what reads it divided as often: the same function in FP32."""

    def damage(model: onnx.ModelProto) -> None:
        node = next(node for node in model.graph.node if node.name == "features.0.0/Conv")
        up, down = (
            numpy_helper.from_array(np.array(value, np.float16 if fp16(model) else np.float32), name)
            for name, value in (("up", factor), ("down", 1 / factor))
        )
        model.graph.initializer.extend([up, down])
        output = node.output[0]
        node.output[0] = "before"
        index = list(model.graph.node).index(node)
        steps = [("before", "up", "large"), ("large", "up", "huge"), ("huge", "down", "less"), ("less", "down", output)]
        for offset, (source, factor_name, target) in enumerate(steps, 1):
            product = helper.make_node("Mul", [source, factor_name], [target], name=f"planted_{offset}")
            model.graph.node.insert(index + offset, product)

    return damage


def fp16(model: onnx.ModelProto) -> bool:
    return weight(model, "features.0.0.weight").data_type == onnx.TensorProto.FLOAT16
