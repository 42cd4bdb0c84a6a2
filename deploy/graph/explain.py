"""Why each weighted layer and each residual addition of a graph is INT8 or not."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from deploy.errors import InputError
from deploy.graph.fp16 import weights_outside_fp16
from deploy.graph.irtools import typed
from deploy.graph.macs import node_macs
from deploy.graph.placement import place
from deploy.graph.residual import residual_additions
from deploy.graph.rules import INT8, MOVING, NO_CONVOLUTION, RANGE, SKIP_BRANCH, WEIGHTED, quantizing, rule_of
from deploy.graph.squeeze_excite import gate_nodes

# The rule of what the table would quantize and this graph does not.
LEFT_OUT = "left out"
_DEQUANTIZE = "DequantizeLinear"

# Node and index of an input that it reads in INT8.
Reads = Collection[tuple[str, int]]


@dataclass(frozen=True)
class Choice:
    """What one node became, by which row of :data:`deploy.graph.rules.RULES`, and why.

    Of an addition ``int8`` means that its skip branch is. ``macs`` are its multiply-accumulates for one image, None
    where a shape is unknown.
    """

    node: str
    operator: str
    int8: bool
    rule: str
    why: str
    macs: int | None = 0


@dataclass(frozen=True)
class Explanation:
    """The choices in a graph, in its order. ``planned`` for an FP32 graph: they are those of the INT8 graph to come."""

    choices: tuple[Choice, ...]
    planned: bool

    @property
    def layers(self) -> list[Choice]:
        """Those on layers with a weight."""
        return [choice for choice in self.choices if choice.operator in WEIGHTED]

    @property
    def int8_layers(self) -> int:
        return sum(choice.int8 for choice in self.layers)

    @property
    def int8_mac_share(self) -> float | None:
        """Part of the multiply-accumulates done in INT8, 0 to 1; None where shapes are unknown."""
        known = [choice.macs for choice in self.layers if choice.macs is not None]
        if len(known) < len(self.layers) or not sum(known):
            return None
        return sum(choice.macs or 0 for choice in self.layers if choice.int8) / sum(known)


def explain(model: ir.Model, left_out: Mapping[str, str] | None = None) -> Explanation:
    """Explain an FP32 graph as :func:`deploy.graph.placement.place` decides on it, or an INT8 graph as it stands.

    Args:
        model: either of them.
        left_out: of an INT8 graph, node → reason, as its manifest has it.

    Raises:
        InputError: as :func:`deploy.graph.irtools.typed_copy`, or the graph is FP16.
    """
    graph = typed(model).graph
    if any(node.op_type == _DEQUANTIZE for node in graph):
        others = {node: (LEFT_OUT, reason) for node, reason in (left_out or {}).items()}
        return Explanation(_choices(graph, _read_in_int8(graph), others), planned=False)
    if any(value.dtype == ir.DataType.FLOAT16 for node in graph for value in node.outputs):
        raise InputError("an FP16 graph has no INT8 placement", expected="the FP32 graph, or the INT8 graph")
    unfit = weights_outside_fp16(model)
    placed = {(edge.node, edge.index) for edge in place(model, unfit).activations}
    others = {node: (RANGE.name, reason) for node, reason in unfit.items()}
    return Explanation(_choices(graph, placed | _behind_splits(graph, placed), others), planned=True)


def _read_in_int8(graph: ir.Graph) -> set[tuple[str, int]]:
    read = {(str(node.name), i) for node in graph for i, value in enumerate(node.inputs) if _dequantized(value)}
    # A product computes in INT8 where both its factors are.
    half = {(str(node.name), 0) for node in graph if node.op_type in WEIGHTED and (str(node.name), 1) not in read}
    return read - half


def _dequantized(value: ir.Value | None) -> bool:
    """Whether a tensor comes out of DequantizeLinear, perhaps moved since: other tools put pairs before a pool."""
    node = None if value is None else value.producer()
    if node is None:
        return False
    moved = node.inputs if node.op_type == "Concat" else node.inputs[:1] if node.op_type in MOVING else ()
    return node.op_type == _DEQUANTIZE or (bool(moved) and all(map(_dequantized, moved)))


def _behind_splits(graph: ir.Graph, read: Reads) -> set[tuple[str, int]]:
    """What reads the parts of a tensor that is quantized before a Split."""
    splits = [node for node in graph if node.op_type == "Split" and (str(node.name), 0) in read]
    return {(str(use.node.name), use.idx) for node in splits for value in node.outputs for use in value.uses()}


def _choices(graph: ir.Graph, read: Reads, others: Mapping[str, tuple[str, str]]) -> tuple[Choice, ...]:
    gates, additions = gate_nodes(graph), set(residual_additions(graph))
    found = []
    for node in graph:
        if node.op_type in WEIGHTED:
            found.append(_layer(node, read, gates, others.get(str(node.name))))
        elif node in additions:
            found.append(_addition(node, read))
    return tuple(found)


def _layer(node: ir.Node, read: Reads, gates: Collection[ir.Node], other: tuple[str, str] | None) -> Choice:
    name, macs = str(node.name), node_macs(node)
    if (name, 0) in read:
        rule = quantizing(node)
        return Choice(name, node.op_type, True, rule.name, rule.why, macs)
    if (name, 1) in read:
        return Choice(name, node.op_type, False, LEFT_OUT, "its weight is INT8 and its input is not", macs)
    rule = rule_of(node, gates)
    if rule.precision == INT8:
        named, why = other or (LEFT_OUT, "whoever made this graph left it out")
        return Choice(name, node.op_type, False, named, why, macs)
    return Choice(name, node.op_type, False, rule.name, rule.reason, macs)


def _addition(node: ir.Node, read: Reads) -> Choice:
    branches = [index for index in range(2) if (str(node.name), index) in read]
    if not branches:
        return Choice(str(node.name), node.op_type, False, NO_CONVOLUTION.name, NO_CONVOLUTION.reason)
    why = SKIP_BRANCH.why if len(branches) == 1 else "both branches: the convolution before it cannot fuse"
    return Choice(str(node.name), node.op_type, True, SKIP_BRANCH.name, why)
