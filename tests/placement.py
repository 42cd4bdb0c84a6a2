"""What must hold of INT8 placement on any network: checked on the graph itself, not by the code that places."""

from __future__ import annotations

import onnx_ir as ir

from deploy.graph.explain import explain
from deploy.graph.irtools import constant, typed_copy
from deploy.graph.placement import Placement, place
from deploy.graph.rules import FP16, RULES, SKIP_BRANCH

WEIGHTED = ("Conv", "Gemm", "MatMul", "ConvTranspose")
REASONS = {rule.name: rule.reason for rule in RULES if rule.precision == FP16}


def check_placement(model: ir.Model) -> None:
    """Check what is decided on an FP32 graph of one of our networks."""
    graph, placement = typed_copy(model).graph, place(model)
    nodes = {node.name: node for node in graph}
    _check_explained(graph, model, placement)
    _check_readers(nodes, placement)
    for add in (node for node in graph if node.op_type in ("Add", "Sum")):
        _check_addition(add, placement)


def _check_explained(graph: ir.Graph, model: ir.Model, placement: Placement) -> None:
    layers = {choice.node: choice for choice in explain(model).layers}
    assert list(layers) == [node.name for node in graph if node.op_type in WEIGHTED]
    for node in (node for node in graph if node.op_type in WEIGHTED):
        choice = layers[node.name]
        assert choice.int8 == (node.inputs[1].name in placement.weights), node.name
        if not choice.int8:
            assert choice.why == REASONS[choice.rule] == placement.left_out[node.name]
        if _is_gate(node):
            assert (choice.int8, choice.rule) == (False, "gate"), node.name


def _check_readers(nodes: dict[str, ir.Node], placement: Placement) -> None:
    """Nothing is quantized for an activation, a Concat, a Reshape … alone."""
    for edge in placement.activations:
        node = nodes[edge.node]
        if node.op_type == "Split":
            assert any(reader.op_type in WEIGHTED for reader in node.successors()), node.name
        else:
            assert node.op_type in ("Add", "Sum") or (node.op_type in WEIGHTED and edge.index == 0), node.name


def _check_addition(add: ir.Node, placement: Placement) -> None:
    """One branch is INT8 where the other ends in an INT8 convolution that nothing else reads; else none is."""
    if any(constant(value) is not None for value in add.inputs) or add.inputs[0].shape != add.inputs[1].shape:
        return
    ends = [_ends_in_int8(value, placement) for value in add.inputs]
    int8 = [edge.index for edge in placement.activations if edge.node == add.name]
    assert len(int8) == (1 if any(ends) else 0), add.name
    if int8:
        assert ends[1 - int8[0]], f"{add.name}: the branch that would fuse is the one quantized"


def _ends_in_int8(value: ir.Value, placement: Placement) -> bool:
    node = value.producer()
    weighted = node is not None and node.op_type in WEIGHTED and node.inputs[1].name in placement.weights
    return weighted and len(value.uses()) == 1


def _is_gate(node: ir.Node) -> bool:
    """Whether a 1x1 convolution on one pixel ends in a Mul with a larger tensor: what a gate does, and nothing else."""
    shape = node.outputs[0].shape
    if node.op_type != "Conv" or shape is None or shape[2:] != (1, 1):
        return False
    todo = list(node.successors())
    while todo:
        reader = todo.pop()
        if reader.outputs[0].shape is not None and reader.outputs[0].shape[2:] == (1, 1):
            todo.extend(reader.successors())
        elif reader.op_type == "Mul":
            return True
    return False


def check_int8_graph(model: ir.Model) -> None:
    """Check an INT8 graph: each DequantizeLinear is read by what computes in INT8 with it."""
    explained = explain(model)
    assert not explained.planned
    int8 = {choice.node for choice in explained.choices if choice.int8}
    for node in (node for node in model.graph if node.op_type == "DequantizeLinear"):
        for reader in node.successors():
            readers = reader.successors() if reader.op_type == "Split" else [reader]
            assert {str(each.name) for each in readers} & int8, f"{node.name} is read by {reader.name}"
    both = [each.node for each in explained.choices if each.rule == SKIP_BRANCH.name and each.why != SKIP_BRANCH.why]
    assert both == [], "additions with two INT8 branches"
