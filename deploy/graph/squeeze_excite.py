"""Finding squeeze-and-excitation gates (Hu et al., arXiv 1709.01507): pool → fc → … → sigmoid → scale the channels."""

from __future__ import annotations

import onnx_ir as ir

_POOLS = ("ReduceMean", "GlobalAveragePool", "AveragePool")


def gate_nodes(graph: ir.Graph) -> set[ir.Node]:
    """Every node between a pool and the Mul that applies what was made of it to the tensor pooled.

    Told apart from a classifier behind a pool: its result never meets the pooled tensor again.
    """
    found: set[ir.Node] = set()
    for pool in graph:
        if _pools_all(pool) and pool.inputs[0] is not None:
            found |= _gate(pool, pool.inputs[0])
    return found


def _pools_all(node: ir.Node) -> bool:
    """Whether one value a channel is left. An AveragePool does that where its window is the whole image."""
    shape = node.outputs[0].shape
    whole = shape is not None and len(shape) == 4 and shape[2:] == (1, 1)
    return node.op_type in _POOLS and (node.op_type != "AveragePool" or whole)


def _gate(pool: ir.Node, pooled: ir.Value) -> set[ir.Node]:
    inside: set[ir.Node] = set()
    todo = list(pool.successors())
    while todo:
        node = todo.pop()
        if node not in inside and not (node.op_type == "Mul" and pooled in node.inputs):
            inside.add(node)
            todo.extend(node.successors())
    # What is no gate goes on to an output of the graph without meeting such a Mul.
    leaks = any(value.is_graph_output() for node in inside for value in node.outputs)
    return set() if leaks else inside
