"""Multiply-accumulates and parameters of a graph's nodes, from shapes: no weight is read."""

from __future__ import annotations

import math
from collections.abc import Callable

import onnx_ir as ir

# What a weight may pass through on its way to the node that computes with it.
_CARRIERS = ("DequantizeLinear", "QuantizeLinear", "Cast")
# Their floating-point constants say how to compute, not what was learnt.
_UNLEARNT = (*_CARRIERS, "Clip", "Pad", "Resize")
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)

Sizes = list[object]  # numbers, or symbols where a size is unknown


def node_macs(node: ir.Node) -> int | None:
    """Multiply-accumulates for one image: 0 for what is no convolution or product, None where a shape is unknown.

    The first axis of what the node computes is the batch.
    """
    if node.op_type not in _TERMS:
        return 0
    # A value of the output sums over its terms; transposed, a value of the input is multiplied by them.
    values = _shape(node.inputs[0] if node.op_type == "ConvTranspose" else node.outputs[0])
    terms = _TERMS[node.op_type](node)
    if values is None or terms is None:
        return None
    known = [size for size in (*values[1:], *terms) if isinstance(size, int)]
    return math.prod(known) if len(known) == len(values[1:]) + len(terms) else None


def node_parameters(node: ir.Node) -> dict[str, int]:
    """Constant → how many values it holds, for the tensors of weights, biases and the like that the node reads."""
    if node.op_type in _UNLEARNT:
        return {}
    read = [(value, _origin(value)) for value in node.inputs if value is not None]
    return {
        str(origin.name): origin.const_value.size
        for value, origin in read
        if origin.const_value is not None
        # A scalar is part of a formula. Integers are weights only where they are quantized ones.
        and len(origin.const_value.shape)
        and (origin is not value or origin.const_value.dtype in _FLOATS)
    }


def _filter(node: ir.Node) -> Sizes | None:
    """[channels in / groups, *kernel]; for a transposed convolution channels out."""
    shape = _shape(node.inputs[1])
    return None if shape is None else shape[1:]


def _gemm(node: ir.Node) -> Sizes | None:
    shape, transposed = _shape(node.inputs[1]), node.attributes.get("transB")
    axis = 1 if transposed is not None and transposed.as_int() else 0
    return None if shape is None else [shape[axis]]


def _matmul(node: ir.Node) -> Sizes | None:
    shape = _shape(node.inputs[0])
    return None if shape is None else shape[-1:]


# Operator → the sizes whose product is the number of terms behind one value.
_TERMS: dict[str, Callable[[ir.Node], Sizes | None]] = {
    "Conv": _filter,
    "ConvTranspose": _filter,
    "Gemm": _gemm,
    "MatMul": _matmul,
}


def _shape(value: ir.Value | None) -> Sizes | None:
    if value is None:
        return None
    constant = _origin(value).const_value
    shape = value.shape if value.shape is not None or constant is None else constant.shape
    return None if shape is None else list(shape)


def _origin(value: ir.Value) -> ir.Value:
    """The tensor that reaches a node through Q/DQ and Cast."""
    producer = value.producer()
    source = producer.inputs[0] if producer is not None and producer.op_type in _CARRIERS else None
    return value if source is None else _origin(source)
