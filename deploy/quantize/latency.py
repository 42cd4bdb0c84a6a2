"""How long a precise graph takes beside another of the same network: estimated, where no GPU can tell.

A roofline for each layer (S. Williams, A. Waterman and D. Patterson, "Roofline: an insightful visual performance model
for multicore architectures", Communications of the ACM 52, 2009): the longer of computing and moving data, one layer
after the other. INT8 computes at twice the rate of FP16 and moves half the bytes. It knows nothing of launches, tile
sizes or which kernels there are: a ratio of two such sums ranks graphs, it predicts no time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import onnx_ir as ir

from deploy.graph.irtools import constant, used_outputs
from deploy.graph.macs import node_macs

# FP16 multiply-accumulates in the time of moving one byte. NVIDIA's data sheets: T4 65 TFLOPS and 320 GB/s: 102;
# A100 40 GB 312 and 1555: 100; Jetson AGX Orin 42.5 and 205: 104; H100 SXM 989 and 3350: 148.
BALANCE = 100.0

# These fuse into the layer that computes what they read, or the one that reads what they compute.
_ELEMENTWISE = {
    *("Add", "Sub", "Mul", "Div", "Min", "Max", "Sum", "Pow", "Sqrt", "Exp", "Erf", "Abs", "Neg", "Clip", "Relu"),
    *("LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Gelu", "Sigmoid", "HardSigmoid", "HardSwish", "Mish", "Softplus"),
    "Tanh",
}
_FREE = {
    *("QuantizeLinear", "DequantizeLinear", "Cast", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze"),
}


class Latency(Protocol):
    """Time of a precise graph, in units that only ratios are taken of.

    Attributes:
        how: ``estimated``, or ``measured on …``.
    """

    @property
    def how(self) -> str: ...

    def __call__(self, precise: ir.Model) -> float | None:
        """None where it cannot be told."""
        ...


@dataclass(frozen=True)
class Estimated:
    """The roofline's, in FP16 multiply-accumulates' time, for ``batch`` images at once."""

    batch: int
    how: str = "estimated"

    def __call__(self, precise: ir.Model) -> float | None:
        """None where the shape of a tensor is unknown."""
        order = {node: index for index, node in enumerate(precise.graph)}
        times = [self._time(node, order) for node in order if node.op_type not in _FREE]
        known = [time for time in times if time is not None]
        return sum(known) if len(known) == len(times) else None

    def _time(self, node: ir.Node, order: _Order) -> float | None:
        sizes = [_bytes(value, self.batch) for value in _moved(node, order)]
        known, macs = [size for size in sizes if size is not None], node_macs(node)
        if macs is None or len(known) < len(sizes):
            return None
        computing = self.batch * macs * _width(node.inputs[0]) / 2 if macs else 0.0
        return max(computing, BALANCE * sum(known))


_Order = Mapping[ir.Node, int]


def _moved(node: ir.Node, order: _Order) -> list[ir.Value]:
    """The tensors that a node reads and writes, as memory holds them."""
    read = [value for value in node.inputs if value is not None]
    if node.op_type in _ELEMENTWISE:
        return [_stored(value) for value in _from_elsewhere(read, order)]
    return [_stored(value) for value in read] + [_written(value, order) for value in used_outputs(node)]


def _from_elsewhere(read: list[ir.Value], order: _Order) -> list[ir.Value]:
    """What an element-wise node reads from memory: not what the node it fuses with, the last one, computes."""
    origins = {value: _origin(value, order) for value in read if constant(value) is None}
    last = max(origins.values(), default=-1)
    return [value for value, origin in origins.items() if origin != last]


def _origin(value: ir.Value, order: _Order) -> int:
    """The position of the node that computes ``value``, element-wise nodes left aside; -1 for what is fed."""
    node = value.producer()
    if node is None or node.op_type not in _ELEMENTWISE | _FREE:
        return -1 if node is None else order[node]
    return max(_origin(each, order) for each in node.inputs if each is not None)


def _written(value: ir.Value, order: _Order) -> ir.Value:
    """What is written in place of ``value``: the result of what fuses behind it, in INT8 if all read it so."""
    readers = sorted(value.consumers(), key=lambda node: order[node])
    if readers and all(node.op_type in _ELEMENTWISE for node in readers):
        return _written(readers[-1].outputs[0], order)
    quantized = readers and all(node.op_type == "QuantizeLinear" for node in readers)
    return readers[0].outputs[0] if quantized else value


def _stored(value: ir.Value) -> ir.Value:
    """What is read in place of ``value``: before its DequantizeLinear or Cast."""
    node = value.producer()
    source = node.inputs[0] if node is not None and node.op_type in ("DequantizeLinear", "Cast") else None
    return value if source is None else _stored(source)


def _bytes(value: ir.Value, batch: int) -> int | None:
    shape = value.shape if value.shape is not None or value.const_value is None else value.const_value.shape
    if shape is None:
        return None
    first, *others = list(shape) or [1]
    known = [size for size in (batch if not isinstance(first, int) else first, *others) if isinstance(size, int)]
    return math.prod(known) * _width(value) if len(known) == 1 + len(others) else None


def _width(value: ir.Value | None) -> int:
    """Bytes of an element, as memory holds it."""
    dtype = _stored(value).dtype if value is not None else None
    return max(int(dtype.itemsize), 1) if dtype is not None else 2
