"""Which channels of a graph can be rescaled together without changing what it computes.

A channel may be multiplied by a positive factor where it is made (the weights and bias of its convolution) if all that
reads it either passes the factor on (ReLU, Add, pooling, Concat, … are positively homogeneous or move values only) or
takes it out again (the next convolution's weights). M. Nagel et al., "Data-Free Quantization Through Weight
Equalization and Bias Correction", ICCV 2019, section 4.1, where chains of convolution, ReLU and convolution are meant;
here whole residual streams, channel shuffles and the gates of squeeze-and-excitation are followed as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import onnx_ir as ir

from deploy.graph.irtools import Array, constant
from deploy.graph.rules import attribute

# Weighted nodes that can take factors into their weights.
MIXERS = ("Conv", "Gemm", "MatMul")
# What follows a factor unchanged, element by element.
_ELEMENTWISE = ("Relu", "LeakyRelu", "Identity", "Dropout")
_POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean")
_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
# The class of everything that must stay as it is.
FIXED = 0


class Channels:
    """Classes of channels: all channels of one class have one factor.

    Attributes:
        count: number of classes; class :data:`FIXED` has factor 1.
        gated: Mul nodes that apply a gate → which of their inputs is the gate. The factor of their result can be given
            to it by multiplying the gate, one number a channel.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self._ids: dict[ir.Value, Array] = {}
        self._union = _Union()
        self.gated: dict[ir.Node, int] = {}
        self._followed: set[ir.Node] = set()
        for value in graph.inputs:
            self._ids[value] = self._fixed(value)
        for node in graph:
            self._visit(node)
        for value in graph.outputs:
            self._pin([value])
        self._classes = self._union.classes()
        self.count = int(self._classes.max()) + 1

    def of(self, value: ir.Value | None) -> Array:
        """The class of each element of ``value``, in an array that broadcasts to its shape (batch of 1)."""
        assert value is not None
        return self._classes[self._ids[value]]

    def per_channel(self, value: ir.Value | None) -> Array | None:
        """The class of each channel (axis 1) of ``value``; None where it has none, or more than one in a channel."""
        assert value is not None
        ids = self.of(value)
        if ids.ndim < 2 or not _shaped(value) or not _by_channel(ids):
            return None
        return np.broadcast_to(ids.reshape(-1), (_shape(value)[1],))

    def knows(self, node: ir.Node) -> bool:
        """Whether what ``node`` makes are channels that may be rescaled."""
        return node in self._followed

    def _visit(self, node: ir.Node) -> None:
        handler = _HANDLERS.get(node.op_type)
        outputs = None
        read = _computed(node)  # nothing, for an Identity of a weight
        if handler is not None and read and all(_shaped(value) for value in (*read, *node.outputs)):
            outputs = handler(self, node)
        if outputs is not None:
            self._followed.add(node)
        else:
            self._pin(_computed(node))
            outputs = [self._fixed(value) for value in node.outputs]
        for index, value in enumerate(node.outputs):  # a second one, such as MaxPool's indices, is never followed
            self._ids[value] = _collapsed(outputs[index]) if index < len(outputs) else self._fixed(value)

    # Each of these gives the classes of a node's outputs, or None where it cannot be followed.

    def weighted(self, node: ir.Node) -> list[Array] | None:
        """New channels; those it reads may have any factor, unless two elements of one channel had two."""
        weight, output = node.inputs[1], node.outputs[0]
        source = None if node.inputs[0] is None else self._ids.get(node.inputs[0])
        tied = weight is None or len(weight.uses()) != 1
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if source is None or constant(weight) is None or tied or (bias is not None and constant(bias) is None):
            return None
        return [self._new(output, axis=1)] if _readable(node) and _by_channel(source) else None

    def same(self, node: ir.Node) -> list[Array]:
        return [self._ids[_computed(node)[0]]]

    def pool(self, node: ir.Node) -> list[Array] | None:
        source, output = self._ids[_computed(node)[0]], node.outputs[0]
        assert output.shape is not None
        followed = _by_channel(source) and _pools_space(node)
        return [source.reshape(1, -1, *[1] * (len(output.shape) - 2))] if followed else None

    def add(self, node: ir.Node) -> list[Array] | None:
        if len(_computed(node)) != len(node.inputs):
            return None
        merged = np.broadcast_arrays(*(self._ids[value] for value in _computed(node)))
        for other in merged[1:]:
            self._union.join(merged[0], other)
        return [merged[0]]

    def concat(self, node: ir.Node) -> list[Array] | None:
        axis = node.attributes["axis"].as_int()
        if len(_computed(node)) != len(node.inputs) or _is_batch(axis, node.outputs[0]):
            return None
        parts = [_spread(self._ids[value], value, axis) for value in _computed(node)]
        return [_concatenated(parts, axis)]

    def split(self, node: ir.Node) -> list[Array] | None:
        attribute = node.attributes.get("axis")
        axis = 0 if attribute is None else attribute.as_int()
        if _is_batch(axis, node.outputs[0]):
            return None
        whole = _spread(self._ids[_computed(node)[0]], _computed(node)[0], axis)
        ends = np.cumsum([_shape(value)[axis] for value in node.outputs])[:-1]
        return np.split(whole, ends, axis=axis)

    def reshape(self, node: ir.Node) -> list[Array] | None:
        source, output = _computed(node)[0], node.outputs[0]
        if math.prod(_shape(source)) != math.prod(_shape(output)):  # the batch is mixed with another axis
            return None
        return [np.broadcast_to(self._ids[source], _shape(source)).reshape(_shape(output))]

    def transpose(self, node: ir.Node) -> list[Array] | None:
        attribute = node.attributes.get("perm")
        order = () if attribute is None else attribute.as_ints()
        return [np.transpose(self._ids[_computed(node)[0]], order)] if order and order[0] == 0 else None

    def gate(self, node: ir.Node) -> list[Array] | None:
        """x · gate, with one number a channel in the gate: the result's factor is given to the gate."""
        if len(_computed(node)) != 2:
            return None
        gate, x = sorted(_computed(node), key=lambda value: math.prod(_shape(value)))
        shape = _shape(x)
        if shape != _shape(node.outputs[0]) or _shape(gate) != [1, shape[1], *[1] * (len(shape) - 2)]:
            return None
        if _shape(gate) == shape or not _by_channel(self._ids[x]):  # either could be the gate; no one number a channel
            return None
        self._pin([gate])
        self.gated[node] = node.inputs.index(gate)
        return [self._new(node.outputs[0], axis=1)]

    def _new(self, value: ir.Value, axis: int) -> Array:
        shape = [1] * len(_shape(value))
        shape[axis] = _shape(value)[axis]
        return self._union.fresh(shape[axis]).reshape(shape)

    def _fixed(self, value: ir.Value) -> Array:
        return np.zeros([1] * (0 if value.shape is None else len(value.shape)), np.int64)

    def _pin(self, values: Iterable[ir.Value]) -> None:
        for value in values:
            if value in self._ids:
                self._union.join(self._ids[value], np.zeros_like(self._ids[value]))


_HANDLERS: dict[str, Callable[[Channels, ir.Node], Sequence[Array] | None]] = {
    **dict.fromkeys(MIXERS, Channels.weighted),
    **dict.fromkeys(_ELEMENTWISE, Channels.same),
    **dict.fromkeys(_POOLS, Channels.pool),
    **dict.fromkeys(_RESHAPES, Channels.reshape),
    "Add": Channels.add,
    "Concat": Channels.concat,
    "Split": Channels.split,
    "Transpose": Channels.transpose,
    "Mul": Channels.gate,
}


class _Union:
    """Union–find over channels, class 0 being the fixed one."""

    def __init__(self) -> None:
        self._parent = [FIXED]

    def fresh(self, count: int) -> Array:
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return np.arange(start, start + count)

    def join(self, one: Array, other: Array) -> None:
        for a, b in set(zip(one.reshape(-1).tolist(), other.reshape(-1).tolist())):
            first, second = sorted((self._root(a), self._root(b)))
            self._parent[second] = first

    def classes(self) -> Array:
        """Channel → class, numbered without gaps; the fixed class is 0."""
        roots = np.array([self._root(index) for index in range(len(self._parent))])
        return np.unique(roots, return_inverse=True)[1]

    def _root(self, index: int) -> int:
        while self._parent[index] != index:
            self._parent[index] = self._parent[self._parent[index]]
            index = self._parent[index]
        return index


def _computed(node: ir.Node) -> list[ir.Value]:
    """The inputs that are no constants."""
    return [value for value in node.inputs if value is not None and constant(value) is None]


def _is_batch(axis: int, value: ir.Value) -> bool:
    return axis % len(_shape(value)) == 0


def _by_channel(ids: Array) -> bool:
    """Whether all elements of a channel (axis 1) are of one class."""
    return all(size == 1 for axis, size in enumerate(ids.shape) if axis != 1)


def _shaped(value: ir.Value) -> bool:
    return value.shape is not None and all(isinstance(size, int) for size in value.shape[1:])


def _shape(value: ir.Value) -> list[int]:
    """The shape for a batch of 1."""
    assert value.shape is not None
    return [1, *(int(size) for size in value.shape[1:])]  # type: ignore[arg-type]


def _readable(node: ir.Node) -> bool:
    """Whether the channels that are read and made lie along axis 1, and meet a matrix in a product."""
    value, weight = node.inputs[0], constant(node.inputs[1])
    if node.op_type == "Conv":
        return True
    matrices = value is not None and len(_shape(value)) == 2 and weight is not None and weight.ndim == 2
    return matrices and attribute(node, "transA") == 0


def _pools_space(node: ir.Node) -> bool:
    """ReduceMean over all axes but batch and channels."""
    if node.op_type != "ReduceMean":
        return True
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    source = _computed(node)[0]
    rank = len(_shape(source))
    return axes is not None and sorted(int(axis) % rank for axis in axes.reshape(-1)) == list(range(2, rank))


def _spread(ids: Array, value: ir.Value, axis: int) -> Array:
    """``ids`` with its full length along ``axis``."""
    shape = list(ids.shape)
    shape[axis] = _shape(value)[axis]
    return np.broadcast_to(ids, shape)


def _concatenated(parts: Sequence[Array], axis: int) -> Array:
    others = np.broadcast_shapes(*(np.delete(np.array(part.shape), axis % part.ndim).tolist() for part in parts))
    shaped = []
    for part in parts:
        shape = list(others)
        shape.insert(axis % part.ndim, part.shape[axis])
        shaped.append(np.broadcast_to(part, shape))
    return np.concatenate(shaped, axis=axis)


def _collapsed(ids: Array) -> Array:
    """With length 1 along each axis on which nothing differs."""
    for axis, size in enumerate(ids.shape):
        first = ids.take([0], axis=axis) if size else ids
        if size > 1 and (ids == first).all():
            ids = first
    return ids
