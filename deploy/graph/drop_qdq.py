"""Q/DQ taken out of a graph that holds them: of the nodes that a target has no INT8 kernel for."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from deploy.graph.irtools import add_initializer, cast, constant, insert_after, typed_copy
from deploy.graph.lift import lift
from deploy.graph.qdq import dequantized

_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


def int8_nodes(model: ir.Model) -> list[str]:
    """The nodes that read what a DequantizeLinear gives."""
    return [str(node.name) for node in _typed(model).graph if _reads_int8(node)]


def int8_nodes_named(model: ir.Model, first: Collection[str], last: Collection[str] = ()) -> list[str]:
    """Those of :func:`int8_nodes` that a builder means by some names.

    Where only Q/DQ are named, it is the nodes that read theirs. With ``last``, it is those from the first of ``first``
    to the last of ``last``, in the graph's order. Names that the graph does not have say nothing.
    """
    nodes = list(_typed(model).graph)
    at = {name: index for index, node in enumerate(nodes) for name in _names(node)}
    begin, end = ([at[name] for name in names if name in at] for names in (first, last))
    if begin and end:
        named = nodes[min(*begin, *end) : max(*begin, *end) + 1]
    else:
        named = [nodes[index] for index in sorted((*begin, *end))]
    found = [node for node in named if _reads_int8(node)]
    return [str(node.name) for node in found or [reader for node in named for reader in _readers(node)]]


def drop_qdq(model: ir.Model, names: Collection[str]) -> ir.Model:
    """A copy in which the nodes of these names read what lies in front of their Q/DQ, and their weights dequantized.

    Other readers of the same Q/DQ keep it. What the nodes give is quantized as before for those that read it.
    """
    copy = _typed(model)
    for node in list(copy.graph):
        if node.name in names:
            for index, value in enumerate(node.inputs):
                if value is not None and (plain := _plain(copy.graph, value)) is not None:
                    node.replace_input_with(index, plain)
    RemoveUnusedNodesPass()(copy)
    return copy


def _typed(model: ir.Model) -> ir.Model:
    """Graphs that others made may be of an older opset."""
    return typed_copy(lift(model))


def _names(node: ir.Node) -> list[str]:
    """Its own, and what NVIDIA's parser calls it where it has none in the file."""
    return [str(node.name), *(f"node_of_{value.name}" for value in node.outputs)]


def _reads_int8(node: ir.Node) -> bool:
    if node.op_type in (_QUANTIZE, _DEQUANTIZE):
        return False
    return any(value is not None and _made_by(value, _DEQUANTIZE) is not None for value in node.inputs)


def _readers(node: ir.Node) -> list[ir.Node]:
    """The nodes that read a Q or DQ, through others behind it."""
    if node.op_type not in (_QUANTIZE, _DEQUANTIZE):
        return []
    behind = node.successors()
    return [reader for each in behind for reader in (_readers(each) if each.op_type == _DEQUANTIZE else [each])]


def _made_by(value: ir.Value, operator: str) -> ir.Node | None:
    node = value.producer()
    return node if node is not None and node.op_type == operator else None


def _plain(graph: ir.Graph, value: ir.Value) -> ir.Value | None:
    """What ``value``, out of a DequantizeLinear, stands for; None where it stays: it is no such, or moved as INT8."""
    dequantize = _made_by(value, _DEQUANTIZE)
    source = dequantize.inputs[0] if dequantize is not None else None
    if dequantize is None or source is None:
        return None
    if constant(source) is not None:
        return _weight(graph, dequantize, value)
    quantize = _made_by(source, _QUANTIZE)
    plain = quantize.inputs[0] if quantize is not None else None
    if plain is None or plain.dtype == value.dtype or value.dtype is None:
        return plain
    name = f"{value.name}/plain"
    known = next((use.node for use in plain.uses() if use.node.name == name), None)
    node = known or cast(plain, value.dtype, name)
    if known is None:
        insert_after(graph, plain, [node])
    return node.outputs[0]


def _weight(graph: ir.Graph, dequantize: ir.Node, value: ir.Value) -> ir.Value:
    name = f"{value.name}/constant"
    if name in graph.initializers:
        return graph.initializers[name]
    assert value.dtype is not None
    return add_initializer(graph, name, np.asarray(dequantized(dequantize), value.dtype.numpy()))
