"""Which tensors an FP32 graph and a precise graph share, and what the precise graph does between them.

A precise graph keeps the names of the FP32 graph's tensors (:mod:`deploy.graph.qdq`, :mod:`deploy.graph.fp16`); what it
adds lies between two of them: Casts, Q/DQ, rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from deploy.errors import InputError
from deploy.graph.irtools import Array, constant, is_float, used_outputs
from deploy.graph.rules import WEIGHTED
from deploy.graph.twin import ROUNDED

_WEIGHTED = (*WEIGHTED, "ConvTranspose")


@dataclass(frozen=True)
class Quantizer:
    """A QuantizeLinear: the shared tensor it reads, its scale, and the largest |x| that it does not clip."""

    tensor: str
    scale: float
    clip: float


@dataclass(frozen=True)
class SharedTensor:
    """A tensor that both graphs compute under one name.

    Attributes:
        name: of the tensor.
        node, op_type: what computes it in the FP32 graph.
        sources: shared tensors and inputs that the precise graph computes it from, without one between.
        quantizers: Q/DQ pairs of activations on the way from ``sources``.
        fp16: whether the precise graph holds it in FP16.
    """

    name: str
    node: str
    op_type: str
    sources: tuple[str, ...]
    quantizers: tuple[Quantizer, ...]
    fp16: bool

    @property
    def weighted(self) -> bool:
        """Whether a convolution or matrix product computes it."""
        return self.op_type in _WEIGHTED

    @property
    def is_layer(self) -> bool:
        """Whether it has a place of its own in a report: it has weights, or an input that is quantized for it."""
        return self.weighted or bool(self.quantizers)


def shared_tensors(reference: ir.Graph, twin: ir.Graph) -> tuple[SharedTensor, ...]:
    """The shared FP32 tensors, in the reference's order; ``twin`` is the precise graph's.

    Raises:
        InputError: the graphs share no layer, or only the outputs of the whole.
    """
    computed = _computed(twin)
    common = {
        str(value.name): node
        for node in reference
        for value in used_outputs(node)
        if is_float(value) and value.name in computed and _same_shape(value, computed[str(value.name)])
    }
    _check_enough(reference, common)
    inputs = {theirs: str(ours.name) for theirs, ours in matched_inputs(reference, twin).items()}
    stops = {**inputs, **{computed[name]: name for name in common}}
    return tuple(_described(name, node, computed, stops) for name, node in common.items())


def matched_inputs(reference: ir.Graph, other: ir.Graph) -> dict[ir.Value, ir.Value]:
    """Input of ``other`` → input of ``reference``: by name, or by position where the names differ."""
    by_name = {value.name: value for value in reference.inputs}
    if all(value.name in by_name for value in other.inputs):
        return {value: by_name[value.name] for value in other.inputs}
    return dict(zip(other.inputs, reference.inputs))


def _computed(graph: ir.Graph) -> dict[str, ir.Value]:
    return {str(value.name): value for node in graph for value in used_outputs(node) if is_float(value)}


def _same_shape(one: ir.Value, other: ir.Value) -> bool:
    """As far as the sizes are known."""
    if one.shape is None or other.shape is None:
        return True
    known = [(a, b) for a, b in zip(one.shape, other.shape) if isinstance(a, int) and isinstance(b, int)]
    return len(one.shape) == len(other.shape) and all(a == b for a, b in known)


def _check_enough(reference: ir.Graph, common: Mapping[str, ir.Node]) -> None:
    layers = [node for node in reference if node.op_type in _WEIGHTED]
    outputs = {value.name for value in reference.outputs}
    inner = [name for name, node in common.items() if node in layers and name not in outputs]
    if inner or (len(layers) == 1 and common):
        return
    raise InputError(
        "the graphs have no layers in common that could be compared",
        got=f"{len(common)} tensors of the same name, none of them a layer's inside the graph",
        expected=f"the names of the reference, such as '{layers[0].outputs[0].name}'" if layers else "layers",
        fix="Give the .onnx file that the FP16 or INT8 graph was made from.",
    )


def _described(
    name: str, node: ir.Node, computed: Mapping[str, ir.Value], stops: Mapping[ir.Value, str]
) -> SharedTensor:
    sources, quantize = _way_back(computed[name], stops)
    quantizers = [found for each in quantize if (found := _quantizer(each, stops)) is not None]
    return SharedTensor(
        name, str(node.name), node.op_type, tuple(sources), tuple(quantizers), _held_in_fp16(name, computed)
    )


def _way_back(value: ir.Value, stops: Mapping[ir.Value, str]) -> tuple[list[str], list[ir.Node]]:
    """The tensors of ``stops`` nearest before ``value``, and the QuantizeLinear nodes on the way to them."""
    sources: dict[str, None] = {}
    nodes: dict[ir.Node, None] = {}
    todo = [value]
    while todo:
        producer = todo.pop().producer()
        if producer is None or producer in nodes:
            continue
        nodes[producer] = None
        read = [each for each in producer.inputs if each is not None]
        sources.update(dict.fromkeys(stops[each] for each in read if each in stops))
        todo += [each for each in read if each not in stops]
    return list(sources), [node for node in nodes if node.op_type == "QuantizeLinear"]


def _quantizer(node: ir.Node, stops: Mapping[ir.Value, str]) -> Quantizer | None:
    """What a QuantizeLinear does; None where it has a scale per channel, or rounds nothing that both graphs have."""
    scale = constant(node.inputs[1])
    sources, _ = _way_back(node.outputs[0], stops)
    if scale is None or scale.size != 1 or len(sources) != 1:
        return None
    zero_point = constant(node.inputs[2]) if len(node.inputs) > 2 else np.zeros((), np.uint8)
    step = float(scale.reshape(()))
    return None if zero_point is None else Quantizer(sources[0], step, step * _levels(zero_point))


def _levels(zero_point: Array) -> int:
    """How far 8 bits reach from zero on their longer side, in steps; -128 has no counterpart and is not counted."""
    limits, zero = np.iinfo(zero_point.dtype), int(zero_point.reshape(()))
    return max(limits.max - zero, zero - limits.min - 1)


def _held_in_fp16(name: str, computed: Mapping[str, ir.Value]) -> bool:
    """Whether readers see it rounded, or, for an output of the graph, whether it was rounded before its last Cast."""
    producer = computed[name].producer()
    before: Sequence[ir.Value | None] = producer.inputs if producer is not None and producer.op_type == "Cast" else ()
    return f"{name}{ROUNDED}" in computed or any(
        value is not None and str(value.name).endswith(ROUNDED) for value in before
    )
