"""Multiply channels by factors and take them out again where they are read: the same function, other ranges inside."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from deploy.graph.channels import FIXED, MIXERS, Channels
from deploy.graph.irtools import Array, add_initializer, constant, insert_after, new_value, typed_copy
from deploy.graph.rules import channel_axis


def rescale(model: ir.Model, gains: Array) -> ir.Model:
    """A copy of ``model`` in which each channel of class ``c`` is ``gains[c]`` times what it was.

    Powers of two make the results equal to the last bit wherever no sum is formed in another order.

    Args:
        model: the graph; ``Channels(typed_copy(model).graph)`` gives its classes.
        gains: one positive number a class, 1 for :data:`~deploy.graph.channels.FIXED`.
    """
    result = typed_copy(model)
    graph = result.graph
    channels = Channels(graph)
    assert len(gains) == channels.count
    assert gains[FIXED] == 1
    # All gains are looked up before the first node is changed.
    weighted = [
        (node, gains[channels.per_channel(node.inputs[0])], gains[channels.per_channel(node.outputs[0])])
        for node in graph
        if node.op_type in MIXERS and constant(node.inputs[1]) is not None and channels.knows(node)
    ]
    gated = [(node, index, _gate_gain(node, index, channels, gains)) for node, index in channels.gated.items()]
    for node, read, made in weighted:
        if (read != 1).any() or (made != 1).any():
            _rescale_weighted(graph, node, read, made)
    for node, index, gain in gated:
        if (gain != 1).any():
            _rescale_gate(graph, node, index, gain)
    return result


def weight_gain(node: ir.Node, read: Array, made: Array) -> Array:
    """What the weight of ``node`` is multiplied by, broadcasting to its shape; gains of what it reads and makes."""
    weight = constant(node.inputs[1])
    assert weight is not None
    axis = channel_axis(node)
    if node.op_type != "Conv":
        return made[:, None] / read[None, :] if axis == 0 else made[None, :] / read[:, None]
    group, width = len(read) // weight.shape[1], weight.shape[1]
    rows = np.repeat(read.reshape(group, width), len(made) // group, axis=0)
    return np.asarray((made[:, None] / rows).reshape(*rows.shape, *[1] * (weight.ndim - 2)))


def _rescale_weighted(graph: ir.Graph, node: ir.Node, read: Array, made: Array) -> None:
    weight = constant(node.inputs[1])
    assert weight is not None
    _replace(graph, node, 1, (weight * weight_gain(node, read, made)).astype(np.float32))
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if bias is not None:
        _replace(graph, node, 2, (bias * made).astype(np.float32))


def _replace(graph: ir.Graph, node: ir.Node, index: int, array: Array) -> None:
    old = node.inputs[index]
    assert old is not None
    name = str(old.name)
    if len(old.uses()) > 1:  # simplifiers make one of equal biases
        name = f"{node.name}/{name}"
    else:
        del graph.initializers[name]
    node.replace_input_with(index, add_initializer(graph, name, array))


def _gate_gain(node: ir.Node, index: int, channels: Channels, gains: Array) -> Array:
    """What the gate, input ``index`` of a Mul, is multiplied by: [channels]."""
    return np.asarray(
        gains[channels.per_channel(node.outputs[0])] / gains[channels.per_channel(node.inputs[1 - index])]
    )


def _rescale_gate(graph: ir.Graph, node: ir.Node, index: int, gain: Array) -> None:
    gate = node.inputs[index]
    assert gate is not None
    assert gate.shape is not None
    name = f"{node.name}/gain"
    factor = add_initializer(graph, f"{name}/factor", gain.astype(np.float32).reshape(-1, *[1] * (len(gate.shape) - 2)))
    scaled = ir.Node("", "Mul", [gate, factor], outputs=[new_value(name, ir.DataType.FLOAT, gate)], name=name)
    insert_after(graph, gate, [scaled])
    node.replace_input_with(index, scaled.outputs[0])
