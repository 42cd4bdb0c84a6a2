"""Q/DQ nodes written into an FP32 graph: symmetric INT8, zero-point 0, weights stored as INT8.

Scales are FP32 tensors that hold FP16 numbers, so that :func:`deploy.graph.fp16.to_fp16` turns the result into the INT8
artefact (Q/DQ over FP16) without changing one of them, and weights are quantized with the scale that is really stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from deploy.errors import InputError
from deploy.graph.irtools import (
    Array,
    add_initializer,
    constant,
    drop_unused_initializers,
    insert_after,
    new_value,
    typed_copy,
)
from deploy.graph.placement import Placement

INT8_MAX = 127
# The smallest positive FP16 number, 2^-24.
_FP16_STEP = float(np.finfo(np.float16).smallest_subnormal)
# The range of the largest FP16 scale.
_MAX_AMAX = INT8_MAX * float(np.finfo(np.float16).max)
_ZERO_POINT = "int8_zero_point"


@dataclass(frozen=True)
class QuantizedWeight:
    """A weight in INT8: ``levels``, and for each index of ``axis`` the FP32 ``scale`` that a level stands for."""

    levels: Array
    scale: Array
    axis: int

    def dequantized(self) -> Array:
        """What the weight is worth, float32."""
        others = tuple(dim for dim in range(self.levels.ndim) if dim != self.axis)
        return np.asarray(self.levels.astype(np.float32) * np.expand_dims(self.scale, others))


def insert_qdq(
    model: ir.Model,
    placement: Placement,
    activation_amax: Mapping[str, float],
    weights: Mapping[str, QuantizedWeight] | None = None,
) -> ir.Model:
    """A copy of the FP32 ``model`` with Q/DQ where ``placement`` says, FP32 everywhere else.

    ``to_fp16(insert_qdq(...))`` is the INT8 artefact. Nodes are named ``<tensor>/QuantizeLinear`` and
    ``<tensor>/DequantizeLinear``.

    Args:
        model: the graph ``placement`` was decided on.
        placement: see :func:`deploy.graph.placement.place`.
        activation_amax: per quantized tensor, the absolute value that INT8's 127 stands for.
        weights: weights that are quantized already; the others are by :func:`quantize_weight`.

    Raises:
        InputError: an amax is missing, zero, negative, not finite or beyond FP16 scales; so is a weight's.
    """
    amax = shared_amax(placement, activation_amax)
    result = typed_copy(model)
    graph = result.graph
    add_initializer(graph, _ZERO_POINT, np.zeros((), np.int8))
    _quantize_weights(graph, placement, weights or {})
    _quantize_activations(graph, placement, amax)
    drop_unused_initializers(graph)
    return result


def shared_amax(placement: Placement, activation_amax: Mapping[str, float]) -> dict[str, float]:
    """The amax of each quantized tensor, that of the widest member for tensors which share a scale."""
    amax = {tensor: _checked(tensor, activation_amax.get(tensor)) for tensor in placement.tensors}
    for group in placement.shared_scale:
        amax.update(dict.fromkeys(group, max(amax[tensor] for tensor in group)))
    return amax


def scale_of(amax: Array | float) -> Array:
    """Scales for ranges ``[-amax, amax]``, as FP32 arrays of FP16 numbers, rounded up so that nothing is clipped by it.

    Below an amax of 0.0078 a scale is subnormal in FP16. Nothing is lost: values are quantized with the stored scale,
    at worst (amax 1e-5) on a grid twice as coarse. Below 7.6e-6 the scale stays at 2^-24, the smallest there is; such
    channels (dead ones, whose batch norm folded to zero) keep fewer than 8 bits.
    """
    exact = np.asarray(amax, dtype=np.float64) / INT8_MAX
    nearest = exact.astype(np.float16)
    with np.errstate(over="ignore"):
        next_up = np.nextafter(nearest, np.float16(np.inf))
    above = np.where(nearest < exact, next_up, nearest)
    return np.maximum(above, np.float16(_FP16_STEP)).astype(np.float32)


def quantize_weight(weight: Array, axis: int) -> QuantizedWeight:
    """Nearest levels in [-127, 127]; the scale of each channel of ``axis`` maps its max |w| to 127.

    With 8 bits that is also the scale of the smallest squared error: no channel of a trained MobileNetV3 gains by
    clipping 2.5 % or more.
    """
    others = tuple(dim for dim in range(weight.ndim) if dim != axis)
    scale = scale_of(np.abs(weight).max(axis=others))
    levels = np.rint(weight / np.expand_dims(scale, others))
    return QuantizedWeight(np.clip(levels, -INT8_MAX, INT8_MAX).astype(np.int8), scale, axis)


def dequantized(node: ir.Node) -> Array:
    """What a DequantizeLinear with a scalar or per-axis scale makes of a constant."""
    levels, scale, zero_point = (constant(value) for value in (*node.inputs, None)[:3])
    assert levels is not None
    assert scale is not None
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1
    others = tuple(dim for dim in range(levels.ndim) if dim != axis % levels.ndim) if scale.ndim else ()
    offset = 0 if zero_point is None else np.expand_dims(zero_point.astype(np.float32), others)
    products: Array = (levels.astype(np.float32) - offset) * np.expand_dims(scale, others)
    return products


def _checked(tensor: str, amax: float | None) -> float:
    if amax is None or not 0 < amax < np.inf:
        raise InputError(
            f"tensor '{tensor}' has no usable range",
            got="none" if amax is None else amax,
            expected="a positive, finite max |x|",
            fix="Calibrate with images that reach this layer, or leave its node in FP16.",
        )
    if amax > _MAX_AMAX:
        expected = f"at most {_MAX_AMAX:.3g}"
        raise InputError(
            f"tensor '{tensor}' needs a scale beyond FP16", got=f"max |x| is {amax:.4g}", expected=expected
        )
    return float(amax)


def _quantize_weights(graph: ir.Graph, placement: Placement, given: Mapping[str, QuantizedWeight]) -> None:
    for name, axis in placement.weights.items():
        value = graph.initializers.get(name)
        array = constant(value)
        if value is None or array is None:
            raise InputError("the placement is of another graph", got=f"no weight '{name}'", fix="Place it again.")
        peak = float(np.abs(array).max(initial=0))
        if not peak <= _MAX_AMAX:
            raise InputError(
                f"weight '{name}' cannot be quantized",
                got=f"max |w| is {peak:.4g}",
                expected=f"at most {_MAX_AMAX:.3g}",
                fix="Check the checkpoint.",
            )
        quantized = given.get(name) or quantize_weight(array, axis)
        stored = add_initializer(graph, f"{name}/quantized", quantized.levels)
        scales = add_initializer(graph, f"{name}/scale", quantized.scale)
        # ONNX would take a left-out zero-point for 0; ONNX Runtime's fusions do not.
        zeros = add_initializer(graph, f"{name}/zero_point", np.zeros(quantized.scale.shape, np.int8))
        node = _dequantize(name, stored, [scales, zeros], value, axis)
        insert_after(graph, stored, [node])
        readers = list(value.uses())
        for reader, index in readers:
            reader.replace_input_with(index, node.outputs[0])


def _quantize_activations(graph: ir.Graph, placement: Placement, amax: Mapping[str, float]) -> None:
    nodes = {node.name: node for node in graph}
    pairs = {name: _pair(graph, value, scale_of(amax[name])) for name, value in _named(graph, placement).items()}
    for edge in placement.activations:
        nodes[edge.node].replace_input_with(edge.index, pairs[edge.tensor])


def _named(graph: ir.Graph, placement: Placement) -> dict[str, ir.Value]:
    values = {str(v.name): v for v in (*graph.inputs, *(v for node in graph for v in node.outputs))}
    if missing := [name for name in placement.tensors if name not in values]:
        raise InputError("the placement is of another graph", got=f"no tensor '{missing[0]}'", fix="Place it again.")
    return {name: values[name] for name in placement.tensors}


def _pair(graph: ir.Graph, value: ir.Value, scale: Array) -> ir.Value:
    """The Q/DQ pair behind ``value``; returns the dequantized tensor."""
    name = str(value.name)
    parameters = [add_initializer(graph, f"{name}/scale", scale), graph.initializers[_ZERO_POINT]]
    quantized = new_value(f"{name}/quantized", ir.DataType.INT8, value)
    quantize = ir.Node("", "QuantizeLinear", [value, *parameters], outputs=[quantized], name=f"{name}/QuantizeLinear")
    dequantize = _dequantize(name, quantized, parameters, value)
    insert_after(graph, value, [quantize, dequantize])
    return dequantize.outputs[0]


def _dequantize(
    name: str, quantized: ir.Value, parameters: list[ir.Value], like: ir.Value, axis: int | None = None
) -> ir.Node:
    attributes = [] if axis is None else [ir.AttrInt64("axis", axis)]
    output = new_value(f"{name}/dequantized", ir.DataType.FLOAT, like)
    inputs = [quantized, *parameters]
    return ir.Node("", "DequantizeLinear", inputs, attributes, outputs=[output], name=f"{name}/DequantizeLinear")
