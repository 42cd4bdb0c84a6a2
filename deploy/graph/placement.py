"""Which tensors become INT8, by the table in :mod:`deploy.graph.rules`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from deploy.errors import InputError
from deploy.graph.irtools import check_names, constant, typed
from deploy.graph.macs import node_macs
from deploy.graph.moves import before_splits, behind_splits, shared_scales
from deploy.graph.residual import residual_skips
from deploy.graph.rules import INT8, WEIGHTED, channel_axis, rule_of
from deploy.graph.squeeze_excite import gate_nodes


@dataclass(frozen=True)
class Edge:
    """Input ``index`` of node ``node`` reads ``tensor`` through Q/DQ."""

    tensor: str
    node: str
    index: int


@dataclass(frozen=True)
class Placement:
    """Where Q/DQ pairs go.

    Attributes:
        activations: every reader of a quantized activation, in graph order; readers of one tensor share its Q/DQ pair.
        weights: quantized weight tensor → axis of its output channels.
        left_out: weighted node that stays FP16 → reason.
        shared_scale: groups of quantized tensors that must have one scale.
        int8_mac_share: part of the multiply-accumulates done in INT8, 0 to 1; None where shapes are unknown.
    """

    activations: tuple[Edge, ...]
    weights: Mapping[str, int]
    left_out: Mapping[str, str]
    shared_scale: tuple[tuple[str, ...], ...] = ()
    int8_mac_share: float | None = None

    @property
    def tensors(self) -> tuple[str, ...]:
        """The quantized activation tensors: those to calibrate."""
        return tuple(dict.fromkeys(edge.tensor for edge in self.activations))


def place(model: ir.Model, exclude: Mapping[str, str] | None = None) -> Placement:
    """Decide for an FP32 ``model``.

    Args:
        model: the FP32 graph, batch norms folded.
        exclude: further nodes to leave in FP16 → reason (a target refused them, they cost accuracy, an input is dead).

    Raises:
        InputError: see :func:`deploy.graph.irtools.typed_copy`; an unknown name; a graph quantized already.
    """
    graph = typed(model).graph
    check_names(graph, exclude or {})
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in graph):
        raise InputError("the graph is quantized already", expected="FP32", fix="Give the .onnx that export wrote.")
    excluded = behind_splits(graph, exclude or {})
    left_out = _left_out(graph, excluded)
    quantized = [node for node in graph if node.op_type in WEIGHTED and node.name not in left_out]
    skips = [(add, index) for add, index in residual_skips(graph, quantized) if add.name not in excluded]
    readers = before_splits(graph, [*((node, 0) for node in quantized), *skips])
    edges = [Edge(_name(node.inputs[index]), _name(node), index) for node, index in readers]
    order = {node.name: position for position, node in enumerate(graph)}
    return Placement(
        activations=tuple(sorted(edges, key=lambda edge: order[edge.node])),
        weights={_name(node.inputs[1]): channel_axis(node) for node in quantized},
        left_out=left_out,
        shared_scale=shared_scales(graph, readers),
        int8_mac_share=_mac_share(graph, quantized),
    )


def _left_out(graph: ir.Graph, exclude: Mapping[str, str]) -> dict[str, str]:
    gates = gate_nodes(graph)
    reasons = {}
    for node in graph:
        if node.op_type in WEIGHTED and (reason := _reason(node, gates, exclude)):
            reasons[_name(node)] = reason
    return reasons


def _reason(node: ir.Node, gates: set[ir.Node], exclude: Mapping[str, str]) -> str | None:
    if node.name in exclude:
        return exclude[_name(node)]
    rule = rule_of(node, gates)
    return None if rule.precision == INT8 else rule.reason


def _mac_share(graph: ir.Graph, quantized: list[ir.Node]) -> float | None:
    macs = {
        node: node_macs(node) for node in graph if node.op_type in WEIGHTED and constant(node.inputs[1]) is not None
    }
    known = {node: count for node, count in macs.items() if count is not None}
    if not known or len(known) < len(macs):
        return None
    return sum(known[node] for node in quantized) / sum(known.values())


def _name(thing: ir.Node | ir.Value | None) -> str:
    assert thing is not None
    return str(thing.name)
