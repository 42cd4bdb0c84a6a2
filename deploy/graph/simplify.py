"""Simplification by onnxsim, and the check that nothing a simplifier should have removed is left."""

from __future__ import annotations

import onnx_ir as ir
import onnxsim
from onnx_ir.passes.common import LiftConstantsToInitializersPass, ShapeInferencePass

from deploy.errors import CheckFailed
from deploy.graph.naming import clear_traces

_NEVER_NEEDED = frozenset({"Identity", "Dropout", "Constant"})
_NOT_CONSTANT = frozenset({"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike"})

_NEXT = "Export with --no-simplify, or report the model."


def simplify(model: ir.Model, *, strict: bool = True) -> ir.Model:
    """Fold constants and batch norms, drop identities and dropouts. The input is not changed.

    Raises:
        CheckFailed: onnxsim could not do its work, or, where ``strict``, :func:`leftovers` finds what it should have
            removed.
    """
    try:
        proto, done = onnxsim.simplify(ir.to_proto(_plainly_spelled(model)))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise CheckFailed("onnxsim cannot read the graph", got=reason, fix=_NEXT) from error
    simplified: ir.Model = ir.from_proto(proto)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(simplified)
    _name_new_nodes(simplified)
    clear_traces(simplified)
    left = leftovers(simplified) if strict else []
    if left or not done:
        raise CheckFailed(
            "the simplified graph still holds what simplification removes",
            got=", ".join(left) or "onnxsim gave up",
            fix=_NEXT,
        )
    simplified.ir_version = model.ir_version
    return simplified


def _plainly_spelled(model: ir.Model) -> ir.Model:
    """What onnxsim leaves alone, in the words it knows: a Dropout of a given ratio, a CastLike of a known type."""
    if all(node.op_type not in ("Dropout", "CastLike") for node in model.graph):
        return model
    copy = model.clone()
    ShapeInferencePass()(copy)
    for node in list(copy.graph):
        if (plain := _plain(node)) is not None:
            ends = node.outputs[:1], plain.outputs
            ir.convenience.replace_nodes_and_values(copy.graph, node, [node], [plain], *ends)
    return copy


def _plain(node: ir.Node) -> ir.Node | None:
    """The node that computes the same; None where there is none."""
    # Without its third input a Dropout is not told that this is training, and does nothing.
    if node.op_type == "Dropout" and len(node.inputs) < 3 and not any(mask.uses() for mask in node.outputs[1:]):
        return ir.node("Identity", node.inputs[:1], name=node.name)
    like = node.inputs[1] if node.op_type == "CastLike" else None
    if like is not None and like.dtype is not None:
        return ir.node("Cast", node.inputs[:1], {"to": int(like.dtype)}, name=node.name)
    return None


def leftovers(model: ir.Model) -> list[str]:
    """Nodes that do nothing at run time: identities, constant arithmetic, a batch norm right after a convolution."""
    return [f"{node.op_type} '{node.name}'" for node in model.graph if _is_leftover(node)]


def _is_leftover(node: ir.Node) -> bool:
    if node.op_type in _NEVER_NEEDED:
        return True
    inputs = [value for value in node.inputs if value is not None]
    if all(value.is_initializer() for value in inputs) and node.op_type not in _NOT_CONSTANT:
        return node.op_type != "DequantizeLinear"  # the stored form of a quantized weight
    return node.op_type == "BatchNormalization" and _follows_its_own_conv(inputs[0])


def _follows_its_own_conv(value: ir.Value) -> bool:
    producer, read_elsewhere = value.producer(), len(value.uses()) > 1 or value.is_graph_output()
    return producer is not None and producer.op_type == "Conv" and not read_elsewhere


def _name_new_nodes(model: ir.Model) -> None:
    """Nodes that the simplifier made have no name; parser errors and reports need one."""
    for index, node in enumerate(model.graph):
        if not node.name:
            node.name = f"{node.op_type}_{index}"
