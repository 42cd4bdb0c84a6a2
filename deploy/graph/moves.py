"""Operators that only move values: INT8 passes through them unchanged, if the tensors they join have one scale.

TensorRT moves Q and DQ across such operators (:data:`deploy.graph.rules.MOVES`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import onnx_ir as ir

from deploy.graph.rules import MOVING

# A node and the index of its input that is quantized.
Reader = tuple[ir.Node, int]


def before_splits(graph: ir.Graph, readers: Collection[Reader]) -> list[Reader]:
    """The readers of quantized tensors, with a Split in place of those that read what it gives.

    Quantized behind the Split, one half of the channels would be INT8, and the other travel in FP16 to the next Concat,
    with all that lies between (ShuffleNet V2's units, C2f and CSP blocks). Before it, one Q/DQ pair serves every half.
    A Split with an output that something reads in FP16, or that is the graph's, is left alone.
    """
    joined = {node for node, _ in _quantized_concats(graph, _by_origin(_read(readers)))}
    splits = [node for node in graph if node.op_type == "Split" and _gives_int8(node, readers, joined)]
    behind = {value for node in splits for value in node.outputs}
    kept = [(node, index) for node, index in readers if node.inputs[index] not in behind]
    return [*kept, *((node, 0) for node in splits)]


def _gives_int8(split: ir.Node, readers: Collection[Reader], joined: Collection[ir.Node]) -> bool:
    if any(value.is_graph_output() for value in split.outputs):
        return False
    uses = [(use.node, use.idx) for value in split.outputs for use in value.uses()]
    int8 = [use for use in uses if use in readers]
    return bool(int8) and all(use in int8 or use[0] in joined for use in uses)


def behind_splits(graph: ir.Graph, names: Mapping[str, str]) -> dict[str, str]:
    """``names`` of nodes → reason, and with each Split in it the nodes that read what it gives."""
    splits = [node for node in graph if node.op_type == "Split" and node.name in names]
    readers = {str(reader.name): names[str(node.name)] for node in splits for reader in node.successors()}
    return {**readers, **names}


def shared_scales(graph: ir.Graph, readers: Collection[Reader]) -> tuple[tuple[str, ...], ...]:
    """Names of quantized tensors joined by a Concat whose output is quantized: TensorRT moves its Q before the Concat.

    Where an input has a Q of the same scale the two merge; with another scale it would be requantized.
    """
    by_origin = _by_origin(_read(readers))
    groups: list[set[str]] = []
    for node, members in _quantized_concats(graph, by_origin):
        inputs = (by_origin.get(_origin(value), set()) for value in node.inputs if value is not None)
        groups = _merged(groups, {str(value.name) for value in members.union(*inputs)})
    return tuple(tuple(sorted(group)) for group in groups if len(group) > 1)


def _read(readers: Iterable[Reader]) -> set[ir.Value]:
    return {value for node, index in readers if (value := node.inputs[index]) is not None}


def _by_origin(quantized: Collection[ir.Value]) -> dict[ir.Value, set[ir.Value]]:
    found: dict[ir.Value, set[ir.Value]] = {}
    for value in quantized:
        found.setdefault(_origin(value), set()).add(value)
    return found


def _quantized_concats(
    graph: ir.Graph, by_origin: Mapping[ir.Value, set[ir.Value]]
) -> list[tuple[ir.Node, set[ir.Value]]]:
    """Every Concat whose values end in quantized tensors, with these."""
    concats = [node for node in graph if node.op_type == "Concat"]
    return [(node, by_origin[node.outputs[0]]) for node in concats if node.outputs[0] in by_origin]


def _merged(groups: list[set[str]], members: set[str]) -> list[set[str]]:
    apart = [group for group in groups if not group & members]
    return [*apart, members.union(*(group for group in groups if group & members))]


def _origin(value: ir.Value) -> ir.Value:
    """The tensor whose values ``value`` holds, behind operators that only move them."""
    node = value.producer()
    source = node.inputs[0] if node is not None and node.op_type in MOVING else None
    return value if source is None else _origin(source)
