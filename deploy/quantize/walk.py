"""A graph run piece by piece over the same images, so that what is done to one layer is seen by all behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from deploy.errors import InputError
from deploy.graph.irtools import Array, add_initializer, constant
from deploy.runtime.onnxrt import OnnxRunner

# Images that pass through a piece at once.
_CHUNK = 32


class Walk:
    """Tensors of ``model`` for the images in ``feeds``, each computed when it is asked for.

    Pieces run in the order of the graph: a weight may be changed until a tensor that depends on it is asked for.
    Only tensors that a later piece needs are kept, as they come out of each chunk of images: not all of them have a row
    for each image, such as sizes that the graph computes.
    """

    def __init__(self, model: ir.Model, feeds: Mapping[str, Array]) -> None:
        """Start with ``feeds``: all of one number of images, which a fixed batch divides."""
        self._model = model
        chunk = batch_of(model) or _CHUNK
        self._left = list(model.graph)
        self._arrays = {value: _chunks(feeds[str(value.name)], chunk) for value in model.graph.inputs}
        self._values = {str(value.name): value for value in model.graph.inputs}
        self._values |= {str(value.name): value for node in model.graph for value in node.outputs}

    def value(self, name: str) -> Array:
        """The tensor ``name``, whose rows are the images. It, or one before it, must not have been asked for last."""
        value = self._values[name]
        if value not in self._arrays:
            self._run(value)
        return np.concatenate(self._arrays[value])

    def replace(self, name: str, array: Array) -> None:
        """Change the weight ``name``."""
        graph = self._model.graph
        uses = list(graph.initializers[name].uses())
        del graph.initializers[name]
        value = add_initializer(graph, name, array)
        for node, index in uses:
            node.replace_input_with(index, value)

    def forget(self) -> None:
        """Drop what no later piece needs."""
        left = set(self._left)
        self._arrays = {v: a for v, a in self._arrays.items() if any(use.node in left for use in v.uses())}

    def _run(self, target: ir.Value) -> None:
        piece = self._needed(target)
        made = [value for node in piece for value in node.outputs]
        inside = set(piece)
        kept = [v for v in made if v is target or any(use.node not in inside for use in v.uses())]
        read = dict.fromkeys(v for node in piece for v in node.inputs if v in self._arrays)
        feeds = [
            dict(zip([str(value.name) for value in read], chunk))
            for chunk in zip(*(self._arrays[value] for value in read), strict=True)
        ]
        with OnnxRunner(_model(self._model, piece, list(read), kept).SerializeToString(), device="cpu") as runner:
            results = [runner.infer(chunk) for chunk in feeds]
        self._arrays |= {value: [chunk[str(value.name)] for chunk in results] for value in kept}
        self._left = [node for node in self._left if node not in inside]

    def _needed(self, target: ir.Value) -> list[ir.Node]:
        needed: set[ir.Value] = {target}
        piece = []
        for node in reversed(self._left):
            if any(value in needed for value in node.outputs):
                piece.append(node)
                needed.update(v for v in node.inputs if v is not None and v not in self._arrays)
        return piece[::-1]


def _chunks(array: Array, size: int) -> list[Array]:
    return [array[start : start + size] for start in range(0, len(array), size)]


def _model(
    whole: ir.Model, piece: Sequence[ir.Node], inputs: Sequence[ir.Value], outputs: Sequence[ir.Value]
) -> onnx.ModelProto:
    constants = dict.fromkeys(v for node in piece for v in node.inputs if constant(v) is not None)
    graph = onnx.helper.make_graph(
        [ir.to_proto(node) for node in piece],
        "piece",
        [_info(value) for value in inputs],
        [_info(value) for value in outputs],
        [ir.to_proto(value.const_value) for value in constants if value is not None and value.const_value is not None],
    )
    opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in whole.opset_imports.items()]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=whole.ir_version)


def _info(value: ir.Value) -> onnx.ValueInfoProto:
    assert value.dtype is not None
    # A name for each unknown size: none is known to equal another.
    sizes = None if value.shape is None else enumerate(value.shape)
    shape = None if sizes is None else [d if isinstance(d, int) else f"{value.name}/{axis}" for axis, d in sizes]
    return onnx.helper.make_tensor_value_info(str(value.name), int(value.dtype), shape)


def batch_of(model: ir.Model) -> int | None:
    """The fixed batch of ``model``, or None where it takes any.

    Raises:
        InputError: its inputs do not all have one row for each image.
    """
    sizes = {str(value.shape[0]) if value.shape else "" for value in model.graph.inputs}
    if len(sizes) != 1 or "" in sizes:
        raise InputError(
            "layers cannot be corrected one by one: not every input has a row for each image",
            got=", ".join(str(value.name) for value in model.graph.inputs),
            fix="Give --recipe fast.",
        )
    size = sizes.pop()
    return int(size) if size.isdigit() else None


def images_in(model: ir.Model, memory: int) -> int:
    """How many images' tensors fit into ``memory`` bytes while a :class:`Walk` goes through ``model``; at least 2."""
    nodes = list(model.graph)
    last = {value: index for index, node in enumerate(nodes) for value in node.inputs if value is not None}
    waiting: dict[ir.Value, int] = {}
    peak = 1
    for index, node in enumerate(nodes):
        waiting |= {value: _bytes(value) for value in node.outputs}
        peak = max(peak, sum(waiting.values()))
        waiting = {value: size for value, size in waiting.items() if last.get(value, 0) > index}
    return max(2, memory // peak)


def _bytes(value: ir.Value) -> int:
    return 4 * math.prod(d for d in list(value.shape or ())[1:] if isinstance(d, int))
