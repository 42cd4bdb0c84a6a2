"""A convolution or fully connected layer as a matrix product: what each output value is a weighted sum of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from deploy.graph.irtools import Array, constant
from deploy.graph.rules import channel_axis


@dataclass(frozen=True)
class Layer:
    """A weighted node as ``groups`` matrices [outputs, terms] that multiply patches of its input.

    Attributes:
        node: a Conv of two dimensions, a Gemm or a MatMul with a matrix.
        weight: its weight as the graph has it.
    """

    node: ir.Node
    weight: Array

    @classmethod
    def of(cls, node: ir.Node) -> Layer | None:
        """None where the node is not of a kind that can be taken apart here."""
        weight = constant(node.inputs[1])
        plain = _is_plain(node) if node.op_type == "Conv" else _is_product(node)
        rank = 4 if node.op_type == "Conv" else 2
        source = node.inputs[0]
        shaped = source is not None and source.shape is not None and len(source.shape) == rank
        return cls(node, weight) if weight is not None and weight.ndim == rank and plain and shaped else None

    @property
    def groups(self) -> int:
        return _int(self.node, "group", 1)

    @property
    def terms(self) -> int:
        """How many products an output value sums."""
        return self.weight[0].size if self.node.op_type == "Conv" else self.weight.size // self.outputs

    @property
    def outputs(self) -> int:
        """Output channels, of all groups."""
        return int(self.weight.shape[channel_axis(self.node)])

    def matrices(self) -> Array:
        """The weight as float64 [groups, outputs of a group, terms]."""
        rows = self.weight if channel_axis(self.node) == 0 else self.weight.T
        return rows.reshape(self.groups, self.outputs // self.groups, self.terms).astype(np.float64)

    def as_weight(self, matrices: Array) -> Array:
        """The inverse of :meth:`matrices`, in the type of ``matrices``."""
        if channel_axis(self.node) == 0:
            return np.ascontiguousarray(matrices.reshape(self.weight.shape))
        return np.ascontiguousarray(matrices.reshape(self.weight.shape[::-1]).T)

    def patches(self, x: Array) -> Array:
        """[groups, values of an output channel, terms] for the input ``x`` of some images."""
        if self.node.op_type != "Conv":
            return x[None]
        windows = self._windows(x)
        images, channels, height, width, *taps = windows.shape
        grouped = windows.reshape(images, self.groups, channels // self.groups, height, width, *taps)
        return grouped.transpose(1, 0, 3, 4, 2, 5, 6).reshape(self.groups, images * height * width, self.terms)

    def results(self, y: Array) -> Array:
        """The output ``y`` likewise: [groups, values of an output channel, outputs of a group]."""
        if self.node.op_type != "Conv":
            return y[None]
        grouped = y.reshape(len(y), self.groups, -1, *y.shape[2:])
        return grouped.transpose(1, 0, 3, 4, 2).reshape(self.groups, -1, self.outputs // self.groups)

    def _windows(self, x: Array) -> Array:
        top, left, bottom, right = _ints(self.node, "pads", [0] * 4)
        down, across = _ints(self.node, "strides", [1, 1])
        padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, self.weight.shape[2:], axis=(2, 3))
        return windows[:, :, ::down, ::across]


def _is_plain(node: ir.Node) -> bool:
    automatic = node.attributes.get("auto_pad")
    padded = automatic is None or automatic.as_string() in ("", "NOTSET")
    return padded and set(_ints(node, "dilations", [1, 1])) == {1}


def _is_product(node: ir.Node) -> bool:
    """Neither scaled nor transposed."""
    factors = [node.attributes.get(name) for name in ("alpha", "beta")]
    return not _int(node, "transA", 0) and all(factor is None or factor.as_float() == 1 for factor in factors)


def _int(node: ir.Node, name: str, default: int) -> int:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def _ints(node: ir.Node, name: str, default: Sequence[int]) -> Sequence[int]:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_ints()
