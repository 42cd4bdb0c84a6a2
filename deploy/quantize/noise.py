"""How much noise in a channel of a quantized tensor counts: what of it arrives in what its readers make.

Noise counts relative to the power of the output channel it arrives in. Counted absolutely, a tensor with one wide
channel would be given a scale for that channel alone, and drown the others: a depthwise convolution keeps them apart,
and the batch norm that was folded into it made their outputs equally important.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from deploy.graph.channels import MIXERS
from deploy.graph.irtools import Array, constant, typed
from deploy.graph.placement import Placement
from deploy.graph.rules import channel_axis
from deploy.quantize.observers import ChannelObserver

# An output channel that is nearly always zero would count without limit.
_LEAST_POWER = 1e-3


def observed_tensors(model: ir.Model, placement: Placement) -> list[str]:
    """The tensors whose channels must be known: what is quantized, and what its readers make."""
    readers = {edge.node for edge in placement.activations}
    made = [str(node.outputs[0].name) for node in typed(model).graph if node.name in readers]
    return list(dict.fromkeys([*placement.tensors, *made]))


def readers_of(graph: ir.Graph, placement: Placement) -> dict[str, list[ir.Node]]:
    """Quantized tensor → the nodes that read it in INT8."""
    nodes = {node.name: node for node in graph}
    found: dict[str, list[ir.Node]] = {}
    for edge in placement.activations:
        found.setdefault(edge.tensor, []).append(nodes[edge.node])
    return found


def importance(model: ir.Model, placement: Placement, seen: Mapping[str, ChannelObserver]) -> dict[str, Array]:
    """Quantized tensor → what noise in each of its channels (axis 1) counts, float64 [channels].

    Args:
        model: the FP32 graph.
        placement: what will be quantized in it.
        seen: the channels of :func:`observed_tensors` on real images.
    """
    readers = readers_of(typed(model).graph, placement)
    return {
        tensor: np.sum([noise_gain(node, seen, len(seen[tensor].peaks)) for node in nodes], axis=0)
        for tensor, nodes in readers.items()
    }


def noise_gain(node: ir.Node, seen: Mapping[str, ChannelObserver], inputs: int) -> Array:
    """What noise in each of the ``inputs`` channels that ``node`` reads counts in what it makes."""
    relative = relative_noise(node, seen)
    if node.op_type not in MIXERS:  # a residual Add, or a Split
        return relative if len(relative) == inputs else np.full(inputs, relative.mean())
    if not multiplies_channels(node):
        return np.ones(inputs)  # all of them count alike
    grouped = grouped_weight(node, inputs)
    outputs = relative.reshape(len(grouped), -1)
    return np.asarray(np.einsum("goit,go->gi", grouped**2, outputs, dtype=np.float64).reshape(-1))


def relative_noise(node: ir.Node, seen: Mapping[str, ChannelObserver]) -> Array:
    """What noise of power 1 counts in each channel of what ``node`` makes: all channels together count 1."""
    power = seen[str(node.outputs[0].name)].mean_square
    return np.asarray(1 / np.maximum(power, _LEAST_POWER * power.mean() + 1e-30) / max(1, len(power)))


def multiplies_channels(node: ir.Node) -> bool:
    """Whether a weight is multiplied with the channels (axis 1) of what is read, not with the values of tokens."""
    source = node.inputs[0]
    return node.op_type != "MatMul" or (source is not None and source.shape is not None and len(source.shape) == 2)


def grouped_weight(node: ir.Node, inputs: int) -> Array:
    """The weight as [groups, outputs, inputs, taps], each per group."""
    weight = constant(node.inputs[1])
    assert weight is not None
    if node.op_type != "Conv":
        return np.asarray((weight if channel_axis(node) == 0 else weight.T)[None, :, :, None])
    groups = inputs // weight.shape[1]
    return weight.reshape(groups, len(weight) // groups, weight.shape[1], -1)
