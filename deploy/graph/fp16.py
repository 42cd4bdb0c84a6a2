"""FP32 graph → FP16 arithmetic, written out in the graph as TensorRT's strongly typed networks read it.

Graph inputs and outputs stay FP32. What does not depend on the inputs' values (shape arithmetic) is untouched: FP16
counts integers exactly only up to 2048. Operators for which ONNX has no FP16 form stay FP32.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from deploy.errors import InputError
from deploy.graph.coordinates import coordinate_nodes
from deploy.graph.irtools import (
    Array,
    add_initializer,
    cast,
    check_names,
    constant,
    drop_unused_initializers,
    insert_after,
    is_float,
    retype,
    typed,
    typed_copy,
    used_outputs,
)

FP16_MAX = 65504.0
# Smallest normal number: below it FP16 loses one bit of precision per halving.
FP16_TINY = 2.0**-14
# How many times larger than anything seen an activation may grow before it overflows.
HEADROOM = 4.0
# Rounding to FP16 costs a weight tensor at most 2^-11 of its norm, unless subnormals dominate it.
_MAX_WEIGHT_ERROR = 2.0**-8

# Input index of biases: what FP16 flushes there (below 6e-8) is nothing beside the products it is added to.
_BIAS = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2}

_Use = tuple[ir.Node, int]


def to_fp16(model: ir.Model, keep_fp32: Collection[str] = ()) -> ir.Model:
    """A copy of ``model`` that computes in FP16 between Casts at its borders.

    Nodes named in ``keep_fp32`` compute in FP32, and so do those of :func:`weights_outside_fp16` and
    :func:`~deploy.graph.coordinates.coordinate_nodes`. QuantizeLinear computes in the precision of what it reads and
    DequantizeLinear in that of its readers, so no Cast comes between an INT8 tensor and its consumer; their scales must
    be FP16 numbers already (:mod:`deploy.graph.qdq` makes them so).

    Raises:
        InputError: see :func:`deploy.graph.irtools.typed_copy`; an unknown name; a graph that holds FP16 already.
    """
    result = typed_copy(model)
    graph = result.graph
    _check_fp32(graph)
    check_names(graph, keep_fp32)
    half = _half_nodes(graph, {*keep_fp32, *weights_outside_fp16(result), *coordinate_nodes(graph)})
    uses = {value: _half_uses(value, half) for value in _float_values(graph)}
    _retype_outputs(half)
    for value, half_uses in uses.items():
        _feed(graph, value, half_uses)
    _keep_outputs_fp32(graph)
    drop_unused_initializers(graph)
    return result


def weights_outside_fp16(model: ir.Model) -> dict[str, str]:
    """Nodes that :func:`to_fp16` keeps in FP32 because FP16 cannot hold their weights: name → reason."""
    found: dict[str, str] = {}
    for node in typed(model).graph:
        for index, value in enumerate(node.inputs):
            problem = None if _is_qdq(node) else _weight_problem(value, bias=_BIAS.get(node.op_type) == index)
            if problem:
                found.setdefault(str(node.name), problem)
    return found


def audited_tensors(model: ir.Model) -> list[str]:
    """The computed FP32 tensors whose range :func:`range_audit` judges, in graph order."""
    graph = typed(model).graph
    return [str(v.name) for node in graph if not _is_qdq(node) for v in used_outputs(node) if is_float(v)]


def range_audit(model: ir.Model, activation_amax: Mapping[str, float], headroom: float = HEADROOM) -> dict[str, str]:
    """Nodes to keep in FP32 on the evidence of real data: name → reason. An empty ``activation_amax`` audits nothing.

    A tensor beyond ``65504 / headroom`` may overflow on an image not seen yet, and one that never reaches 2^-14 lives
    in FP16's subnormals. Its producer and its readers are both kept, or a Cast between them would lose it all the same.

    Args:
        activation_amax: max |x| per tensor over the calibration images (``max``, not a clipped range).
        headroom: how many times larger than anything seen an activation may grow.
    """
    found: dict[str, str] = {}
    for node in typed(model).graph:
        for value in (*node.inputs, *node.outputs):
            amax = activation_amax.get(str(value.name)) if value is not None else None
            if value is not None and amax is not None and (reason := range_problem(str(value.name), amax, headroom)):
                found.setdefault(str(node.name), reason)
    return found


def range_problem(name: str, amax: float, headroom: float = HEADROOM) -> str | None:
    """Why FP16 does not fit tensor ``name`` that reaches ``amax``; None where it does."""
    if not amax * headroom <= FP16_MAX:
        return f"'{name}' reaches {amax:.4g}, FP16 ends at {FP16_MAX:.0f}"
    if 0 < amax < FP16_TINY:
        return f"'{name}' stays below {amax:.4g}, FP16 loses precision below {FP16_TINY:.2g}"
    return None


def _weight_problem(value: ir.Value | None, *, bias: bool) -> str | None:
    array = constant(value)
    if value is None or array is None or array.dtype != np.float32 or array.size == 0:
        return None
    peak = float(np.abs(array).max())
    if FP16_MAX < peak < np.inf:
        return f"weight '{value.name}' reaches {peak:.4g}, FP16 ends at {FP16_MAX:.0f}"
    if bias:
        return None
    # Scaled to 1 first: the norm of subnormal FP32 numbers underflows.
    error = (array - round_to_fp16(array)) / (peak or 1.0)
    if np.linalg.norm(error) > _MAX_WEIGHT_ERROR * np.linalg.norm(array / (peak or 1.0)):
        return f"weight '{value.name}' stays below {peak:.4g} and FP16 flushes much of it to zero"
    return None


def round_to_fp16(array: Array) -> Array:
    """The FP16 numbers nearest to ``array``, as FP32; beyond 65504 they are infinite, as in hardware."""
    with np.errstate(over="ignore"):
        return array.astype(np.float16).astype(np.float32)


def _is_qdq(node: ir.Node) -> bool:
    return node.op_type in ("QuantizeLinear", "DequantizeLinear")


def _check_fp32(graph: ir.Graph) -> None:
    values = [*graph.initializers.values(), *(v for node in graph for v in node.outputs)]
    if any(value.dtype == ir.DataType.FLOAT16 for value in values):
        raise InputError("the graph holds FP16 already", expected="FP32", fix="Give the .onnx that export wrote.")


def _half_nodes(graph: ir.Graph, kept: Collection[str]) -> set[ir.Node]:
    """Nodes that compute in FP16."""
    data = _data_nodes(graph)
    half = {n for n in graph if n in data and n.name not in kept and not _is_qdq(n) and _schema(n) is not None}
    half |= {n for n in graph if n.op_type == "QuantizeLinear" and n.inputs[0] and n.inputs[0].producer() in half}
    half |= {n for n in graph if n.op_type == "DequantizeLinear" and any(c in half for c in n.outputs[0].consumers())}
    return half


def _data_nodes(graph: ir.Graph) -> set[ir.Node]:
    """Nodes whose result depends on the values fed to the graph, not only on their shape."""
    fed = set(graph.inputs)
    nodes = set()
    for node in graph:
        dequantized = node.op_type == "DequantizeLinear"
        if node.op_type not in ("Shape", "Size") and (dequantized or any(v in fed for v in node.inputs)):
            nodes.add(node)
            fed.update(node.outputs)
    return nodes


def _schema(node: ir.Node) -> onnx.defs.OpSchema | None:
    """The operator as ONNX defines it; None for one that ONNX does not know: nobody promises FP16 there."""
    assert node.graph is not None
    try:
        return onnx.defs.get_schema(node.op_type, node.graph.opset_imports[node.domain], node.domain)
    except (onnx.defs.SchemaError, KeyError):
        return None


def _takes_half(parameters: Any, index: int) -> bool:
    # The last parameter of an operator may be variadic (Concat).
    return "tensor(float16)" in parameters[min(index, len(parameters) - 1)].types


def _float_values(graph: ir.Graph) -> list[ir.Value]:
    values = [*graph.inputs, *graph.initializers.values(), *(v for node in graph for v in used_outputs(node))]
    return [value for value in values if is_float(value)]


def _half_uses(value: ir.Value, half: Collection[ir.Node]) -> list[_Use]:
    """Where ``value`` must arrive as FP16."""
    uses = []
    for node, index in value.uses():
        schema = _schema(node) if node in half else None
        if schema is not None and _takes_half(schema.inputs, index):
            uses.append((node, index))
    return uses


def _retype_outputs(half: Collection[ir.Node]) -> None:
    for node in half:
        schema = _schema(node)
        for index, value in enumerate(node.outputs):
            if schema is not None and is_float(value) and _takes_half(schema.outputs, index):
                retype(value, ir.DataType.FLOAT16)
        if node.op_type == "Cast" and node.attributes["to"].as_int() == ir.DataType.FLOAT:
            node.attributes["to"] = ir.AttrInt64("to", int(ir.DataType.FLOAT16))


def _feed(graph: ir.Graph, value: ir.Value, half_uses: list[_Use]) -> None:
    """Give each reader of ``value`` the type it computes in, with at most one conversion."""
    single_uses = [(node, index) for node, index in value.uses() if (node, index) not in half_uses]
    array = constant(value)
    if array is not None:
        _feed_constant(graph, value, array, half_uses, bool(single_uses) or value.is_graph_output())
    elif value.dtype == ir.DataType.FLOAT16:
        _redirect(graph, value, ir.DataType.FLOAT, f"{value.name}/fp32", single_uses)
    else:
        _redirect(graph, value, ir.DataType.FLOAT16, f"{value.name}/fp16", half_uses)


def _feed_constant(graph: ir.Graph, value: ir.Value, array: Array, half_uses: list[_Use], both: bool) -> None:
    if not half_uses:
        return
    with np.errstate(over="ignore"):
        stored = array.astype(np.float16)
    # Replaced under its own name: the precise file's weights are found by the names of the checkpoint.
    name = f"{value.name}/fp16" if both else str(value.name)
    if not both:
        del graph.initializers[name]
    copy = add_initializer(graph, name, stored)
    for node, index in half_uses:
        node.replace_input_with(index, copy)


def _redirect(graph: ir.Graph, value: ir.Value, dtype: ir.DataType, name: str, uses: list[_Use]) -> None:
    if not uses:
        return
    node = cast(value, dtype, name)
    insert_after(graph, value, [node])
    for reader, index in uses:
        reader.replace_input_with(index, node.outputs[0])


def _keep_outputs_fp32(graph: ir.Graph) -> None:
    for index, value in enumerate(graph.outputs):
        if value.dtype == ir.DataType.FLOAT16:
            name = str(value.name)
            value.name = f"{name}/fp16"
            node = cast(value, ir.DataType.FLOAT, name)
            graph.append(node)
            graph.outputs[index] = node.outputs[0]
