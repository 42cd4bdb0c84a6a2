"""Which tensors become INT8: the rules, in one place, each with its reason.

Explicit quantization as TensorRT fuses it: https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-quantized-types.html
("Q/DQ Placement Recommendations"). Activations are quantized per tensor, weights per output channel, biases never.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from deploy.errors import InputError
from deploy.graph.irtools import check_names, constant, typed_copy
from deploy.graph.macs import node_macs
from deploy.graph.moves import before_splits, behind_splits, shared_scales
from deploy.graph.residual import residual_skips
from deploy.graph.squeeze_excite import gate_nodes

# Below this an INT8 kernel pads channels to its tile and costs more than FP16 (ModelOpt's limit as well).
MIN_CHANNELS = 16
WEIGHTED = ("Conv", "Gemm", "MatMul")


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


@dataclass(frozen=True)
class _Rule:
    """A reason to leave a weighted node in FP16."""

    reason: str
    applies: Callable[[ir.Node], bool]


# The first rule that applies is the one reported. The input convolution (3 channels in) IS quantized, as ModelOpt does:
# it reads the largest tensor of the network. Depthwise convolutions count by their output channels.
_RULES = (
    _Rule("its weight is not constant", lambda node: constant(node.inputs[1]) is None),
    _Rule("it transposes its activations", lambda node: _int(node, "transA", 0) == 1),
    _Rule("its weight has no output channels (not a matrix)", lambda node: _channels(node) is None),
    _Rule(f"it has fewer than {MIN_CHANNELS} output channels", lambda node: (_channels(node) or 0) < MIN_CHANNELS),
)
_GATE = "it is part of a squeeze-and-excitation gate: tiny, and a scale error there scales whole channels"


def place(model: ir.Model, exclude: Mapping[str, str] | None = None) -> Placement:
    """Decide for an FP32 ``model``.

    Args:
        model: the FP32 graph, batch norms folded.
        exclude: further nodes to leave in FP16 → reason (a target refused them, they cost accuracy, an input is dead).

    Raises:
        InputError: see :func:`deploy.graph.irtools.typed_copy`; an unknown name; a graph quantized already.
    """
    graph = typed_copy(model).graph
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


def channel_axis(node: ir.Node) -> int:
    """The axis of a weight's output channels."""
    if node.op_type == "Gemm":
        return 0 if _int(node, "transB", 0) else 1
    return 0 if node.op_type == "Conv" else 1


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
    if node in gates:
        return _GATE
    return next((rule.reason for rule in _RULES if rule.applies(node)), None)


def _channels(node: ir.Node) -> int | None:
    weight = constant(node.inputs[1])
    # A MatMul weight of higher rank is a batch of matrices: it has no one axis of output channels.
    if weight is None or (node.op_type != "Conv" and weight.ndim != 2):
        return None
    return int(weight.shape[channel_axis(node)])


def _mac_share(graph: ir.Graph, quantized: list[ir.Node]) -> float | None:
    macs = {
        node: node_macs(node) for node in graph if node.op_type in WEIGHTED and constant(node.inputs[1]) is not None
    }
    known = {node: count for node, count in macs.items() if count is not None}
    if not known or len(known) < len(macs):
        return None
    return sum(known[node] for node in quantized) / sum(known.values())


def _int(node: ir.Node, name: str, default: int) -> int:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def _name(thing: ir.Node | ir.Value | None) -> str:
    assert thing is not None
    return str(thing.name)
