"""What the precision passes share: typed graphs and copies of a graph, casts, initializers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass, ShapeInferencePass

from deploy.errors import InputError

Array = np.ndarray[Any, Any]

# QuantizeLinear and DequantizeLinear take FP16 scales from this opset on (ONNX operator changelog).
MIN_OPSET = 19


def typed_copy(model: ir.Model) -> ir.Model:
    """A copy in which every constant is an initializer, every tensor's type is known and every node has its own name.

    Raises:
        InputError: the opset is older than 19, the graph has control flow or functions, or a type cannot be inferred.
    """
    _check_form(model)
    copy = model.clone()
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(copy)
    _name_nodes(copy.graph)
    if _untyped(copy.graph):
        ShapeInferencePass()(copy)
    if unknown := _untyped(copy.graph):
        raise InputError(
            "the type of a tensor cannot be inferred", got=unknown[0], fix="Simplify the model, or export it again."
        )
    return copy


def typed(model: ir.Model) -> ir.Model:
    """``model`` in the form of :func:`typed_copy`, to read and not to change: itself where it has that form already.

    Raises:
        InputError: as :func:`typed_copy`.
    """
    names = [node.name for node in model.graph]
    named = all(names) and len(set(names)) == len(names)
    lifted = all(node.op_type != "Constant" for node in model.graph)
    if not (named and lifted) or _untyped(model.graph):
        return typed_copy(model)
    _check_form(model)
    return model


def _check_form(model: ir.Model) -> None:
    opset = model.opset_imports.get("", 0)
    if opset < MIN_OPSET:
        raise InputError(
            "the model's opset is too old for FP16 and INT8 graphs",
            got=opset,
            expected=f"{MIN_OPSET} or newer",
            fix="Export it with opset_version=19, or convert it with onnx.version_converter.",
        )
    inner = [node.op_type for node in model.graph if any(a.type in _SUBGRAPHS for a in node.attributes.values())]
    if inner or model.functions:
        raise InputError(
            "control flow and functions have no reduced precision",
            got=", ".join(inner or [name for _, name, _ in model.functions]),
            expected="one flat graph",
            fix="Simplify the model, or trace it with fixed control flow.",
        )


def check_names(graph: ir.Graph, names: Iterable[str]) -> None:
    """Raise :class:`InputError` if a name is no node's."""
    if unknown := sorted(set(names) - {str(node.name) for node in graph}):
        fix = "List the names with: python -m deploy inspect FILE"
        raise InputError("no node has this name", got=", ".join(unknown), fix=fix)


def _name_nodes(graph: ir.Graph) -> None:
    """Name nodes that have no name, or another's, after their first output: no two share that."""
    taken: set[str] = set()
    for node in graph:
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}/{used_outputs(node)[0].name}"
        taken.add(node.name)


_SUBGRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def _untyped(graph: ir.Graph) -> list[str]:
    return [f"{value.name} of {node.op_type}" for node in graph for value in used_outputs(node) if value.dtype is None]


def used_outputs(node: ir.Node) -> list[ir.Value]:
    """Outputs that are not left out (ONNX spells a left-out optional output with an empty name)."""
    return [value for value in node.outputs if value.name]


def is_float(value: ir.Value | None) -> bool:
    """Whether the tensor is FP32, the type the passes turn into another."""
    return value is not None and value.dtype == ir.DataType.FLOAT


def constant(value: ir.Value | None) -> Array | None:
    """The array of an initializer; None for a tensor that the graph computes or is fed."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return value.const_value.numpy()


def add_initializer(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    """Register ``array`` under ``name``."""
    tensor = ir.Tensor(np.asarray(array, order="C"), name=name)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
    graph.register_initializer(value)
    return value


def insert_after(graph: ir.Graph, value: ir.Value, nodes: Iterable[ir.Node]) -> None:
    """Place ``nodes`` right behind the producer of ``value``, or first where it is an input or initializer."""
    producer = value.producer()
    if producer is not None:
        graph.insert_after(producer, nodes)
    elif len(graph):
        graph.insert_before(graph[0], nodes)
    else:
        graph.extend(nodes)


def retype(value: ir.Value, dtype: ir.DataType) -> None:
    """Change a tensor's type. Assigning ``value.dtype`` would change it in the model this one was copied from too."""
    value.type = ir.TensorType(dtype)


def new_value(name: str, dtype: ir.DataType, like: ir.Value) -> ir.Value:
    """A tensor of the shape of ``like``, not yet produced."""
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=None if like.shape is None else like.shape.copy())


def cast(value: ir.Value, dtype: ir.DataType, name: str) -> ir.Node:
    """A Cast node, named after its output ``name``, not yet in the graph."""
    attributes = [ir.AttrInt64("to", int(dtype))]
    return ir.Node("", "Cast", [value], attributes, outputs=[new_value(name, dtype, value)], name=name)


def drop_unused_initializers(graph: ir.Graph) -> None:
    """Remove initializers that nothing reads."""
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]
