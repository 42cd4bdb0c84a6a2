"""The CPU twin of a precise graph: FP32 arithmetic that rounds wherever the precise graph holds FP16.

ONNX Runtime computes FP16 graphs in FP32 on a CPU, so running one there shows neither overflow nor rounding. In the
twin every tensor that the precise graph holds in FP16 passes a Cast to FP16 and back, which ONNX Runtime keeps at every
optimization level; a value beyond 65504 becomes infinite there, as on a GPU. Activations keep their Q/DQ nodes and
scales; weights are dequantized here, once, and INT8 products are summed by FP32 kernels.

No ONNX Runtime INT8 kernel runs in a twin, on purpose: they saturate on x86 without VNNI, the fusions that make them
quantize biases, which TensorRT does not, and re-quantize weights per tensor.

What a twin does not show: accumulation order and FP16 accumulators inside a kernel. It rounds once more than a kernel
that fuses several nodes, or a Q/DQ: about 2^-11 of a value, beside an INT8 step of 2^-7 of the range.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from deploy.graph.fp16 import round_to_fp16
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
from deploy.graph.lift import lift
from deploy.graph.qdq import dequantized
from deploy.specs import Precision

# X rounded to FP16, which readers of the precise graph's X see, is X/rounded.
ROUNDED = "/rounded"
_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


def precision_of(model: ir.Model) -> Precision:
    """What the graph computes in: INT8 if it has Q/DQ nodes, else FP16 if it holds FP16 anywhere, else FP32."""
    graph = model.graph
    if any(node.op_type in (_QUANTIZE, _DEQUANTIZE) for node in graph):
        return Precision.INT8
    stored = any(value.dtype == ir.DataType.FLOAT16 for value in graph.initializers.values())
    return Precision.FP16 if stored or any(_casts_to(node, ir.DataType.FLOAT16) for node in graph) else Precision.FP32


def twin(precise: ir.Model) -> ir.Model:
    """The twin of an FP16 or INT8 graph, with the same inputs and outputs; an FP32 graph's twin is its copy.

    Raises:
        InputError: see :func:`deploy.graph.lift.lift` and :func:`deploy.graph.irtools.typed_copy`.
    """
    result = typed_copy(lift(precise))
    graph = result.graph
    rounded = [v for node in graph for v in used_outputs(node) if v.dtype == ir.DataType.FLOAT16]
    for value in list(graph.initializers.values()):
        if value.dtype == ir.DataType.FLOAT16:
            _store_fp32(graph, value)
    for value in rounded:
        retype(value, ir.DataType.FLOAT)
    for value in graph.inputs:
        if value.dtype == ir.DataType.FLOAT16:
            _widen(graph, value)
    for node in list(graph):
        if node.op_type == _DEQUANTIZE and constant(node.inputs[0]) is not None:
            _fold_weight(graph, node, half=node.outputs[0] in rounded)
    for value in rounded:
        _round(graph, value)
    _retarget_casts(graph, rounded)
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


def _widen(graph: ir.Graph, value: ir.Value) -> None:
    """Readers of an FP16 input compute in FP32 in the twin."""
    readers = list(value.uses())
    wide = cast(value, ir.DataType.FLOAT, f"{value.name}/fp32")
    insert_after(graph, value, [wide])
    for node, index in readers:
        node.replace_input_with(index, wide.outputs[0])


def _round(graph: ir.Graph, value: ir.Value) -> None:
    """Let the readers of ``value`` see it rounded to FP16."""
    readers = list(value.uses())
    if not readers:
        return
    down = cast(value, ir.DataType.FLOAT16, f"{value.name}{ROUNDED}/fp16")
    up = cast(down.outputs[0], ir.DataType.FLOAT, f"{value.name}{ROUNDED}")
    insert_after(graph, value, [down, up])
    for node, index in readers:
        node.replace_input_with(index, up.outputs[0])


def _fold_weight(graph: ir.Graph, node: ir.Node, *, half: bool) -> None:
    """Replace the DequantizeLinear of a constant by its result."""
    output = node.outputs[0]
    name = str(output.name)
    array = dequantized(node)
    output.name = f"{name}/folded"
    output.replace_all_uses_with(add_initializer(graph, name, round_to_fp16(array) if half else array))
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
