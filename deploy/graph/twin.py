"""The CPU twin of a precise graph: FP32 arithmetic that rounds where the precise graph holds FP16.

ONNX Runtime computes FP16 graphs in FP32 on a CPU, so running one there shows neither overflow nor rounding. In the twin
every tensor that the precise graph holds in FP16 passes a Cast to FP16 and back, which ONNX Runtime keeps at every
optimization level; a value beyond 65504 becomes infinite there, as on a GPU. Activations keep their Q/DQ nodes and scales.

Weights are dequantized here, once. Sums of INT8 products are then made by FP32 kernels: about as exact as INT32, faster
than ONNX Runtime's mixture of both, and the same on every CPU, while its INT8 kernels saturate on x86 without VNNI and its
fusions quantize biases.

What a twin does not show: accumulation order, FP16 accumulators inside a kernel, and fusions that skip a rounding.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from deploy.graph.irtools import (
    add_initializer,
    cast,
    constant,
    drop_unused_initializers,
    insert_after,
    retype,
    typed_copy,
    used_outputs,
)
from deploy.specs import Precision

_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
# What TensorRT computes on INT8 inputs when a DequantizeLinear feeds it.
_INTEGER_KERNELS = ("Conv", "Gemm", "MatMul")


def precision_of(model: ir.Model) -> Precision:
    """What the graph computes in: INT8 if it has Q/DQ nodes, else FP16 if it holds FP16 anywhere, else FP32."""
    graph = model.graph
    if any(node.op_type in (_QUANTIZE, _DEQUANTIZE) for node in graph):
        return Precision.INT8
    stored = any(value.dtype == ir.DataType.FLOAT16 for value in graph.initializers.values())
    return Precision.FP16 if stored or any(_casts_to(node, ir.DataType.FLOAT16) for node in graph) else Precision.FP32


def twin(precise: ir.Model) -> ir.Model:
    """The twin of an FP16 or INT8 graph, with the same inputs and outputs; an FP32 graph's twin is its copy.

    A rounding is left out in the two places where an INT8 kernel does not round to FP16 either: between a
    DequantizeLinear and the kernel that reads it (which takes the INT8 values), and between such a kernel and the
    QuantizeLinear that alone reads it (it scales its INT32 sums straight to INT8, where an overflow saturates).

    Raises:
        InputError: see :func:`deploy.graph.irtools.typed_copy`.
    """
    result = typed_copy(precise)
    graph = result.graph
    rounded = [v for node in graph for v in used_outputs(node) if v.dtype == ir.DataType.FLOAT16]
    for value in list(graph.initializers.values()):
        if value.dtype == ir.DataType.FLOAT16:
            _store_fp32(graph, value)
    for value in rounded:
        retype(value, ir.DataType.FLOAT)
    for value in rounded:
        _round(graph, value)
    _retarget_casts(graph, rounded)
    for node in list(graph):
        if node.op_type == _DEQUANTIZE:
            _fold_weight(graph, node)
    drop_unused_initializers(graph)
    return result


def _store_fp32(graph: ir.Graph, value: ir.Value) -> None:
    """Every FP16 number is an FP32 number."""
    assert value.const_value is not None
    name = str(value.name)
    array = value.const_value.numpy().astype(np.float32)
    uses = list(value.uses())
    del graph.initializers[name]
    stored = add_initializer(graph, name, array)
    for node, index in uses:
        node.replace_input_with(index, stored)


def _round(graph: ir.Graph, value: ir.Value) -> None:
    """Let the readers of ``value`` see it rounded to FP16, but for those of an integer kernel's borders."""
    readers = [(node, index) for node, index in value.uses() if not _fuses(value, node)]
    if not readers:
        return
    down = cast(value, ir.DataType.FLOAT16, f"{value.name}/rounded/fp16")
    up = cast(down.outputs[0], ir.DataType.FLOAT, f"{value.name}/rounded")
    insert_after(graph, value, [down, up])
    for node, index in readers:
        node.replace_input_with(index, up.outputs[0])


def _fuses(value: ir.Value, reader: ir.Node) -> bool:
    producer = value.producer()
    if producer is not None and producer.op_type == _DEQUANTIZE:
        return reader.op_type in _INTEGER_KERNELS
    return (
        reader.op_type == _QUANTIZE
        and len(value.uses()) == 1
        and producer is not None
        and producer.op_type in _INTEGER_KERNELS
        and all(_dequantized(operand) for operand in producer.inputs[:2])
    )


def _dequantized(value: ir.Value | None) -> bool:
    producer = value.producer() if value is not None else None
    return producer is not None and producer.op_type == _DEQUANTIZE


def _fold_weight(graph: ir.Graph, node: ir.Node) -> None:
    """Replace the DequantizeLinear of a constant by its result."""
    stored, scale, zero_point = (constant(value) for value in (*node.inputs, None)[:3])
    if stored is None or scale is None:
        return
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1
    others = tuple(dim for dim in range(stored.ndim) if scale.ndim and dim != axis % stored.ndim)
    offset = 0 if zero_point is None else np.expand_dims(zero_point.astype(np.float32), others)
    array = (stored.astype(np.float32) - offset) * np.expand_dims(scale, others)
    name = str(node.outputs[0].name)
    node.outputs[0].name = f"{name}/folded"
    node.outputs[0].replace_all_uses_with(add_initializer(graph, name, array.astype(np.float32)))
    graph.remove(node, safe=True)


def _retarget_casts(graph: ir.Graph, rounded: list[ir.Value]) -> None:
    """The precise graph's own Casts to FP16 now hand FP32 to the rounding behind them."""
    for value in rounded:
        producer = value.producer()
        if producer is not None and _casts_to(producer, ir.DataType.FLOAT16):
            producer.attributes["to"] = ir.AttrInt64("to", int(ir.DataType.FLOAT))
    _bypass_noop_casts(graph)


def _bypass_noop_casts(graph: ir.Graph) -> None:
    for node in list(graph):
        source = node.inputs[0] if node.op_type == "Cast" else None
        result = node.outputs[0]
        if source is None or source.dtype != result.dtype or result.is_graph_output():
            continue
        result.replace_all_uses_with(source)
        graph.remove(node, safe=True)


def _casts_to(node: ir.Node, dtype: ir.DataType) -> bool:
    return node.op_type == "Cast" and node.attributes["to"].as_int() == dtype
