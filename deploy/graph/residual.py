"""Finding residual additions, and the one branch of each to quantize.

TensorRT fuses the Add into the convolution that feeds it when that branch stays unquantized and the other, the skip, is
INT8 (:data:`deploy.graph.rules.SKIP_BRANCH`).
"""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from deploy.graph.irtools import constant

# MXNet's and Caffe's exporters write Sum.
_ADDITIONS = ("Add", "Sum")


def residual_skips(graph: ir.Graph, quantized: Collection[ir.Node]) -> list[tuple[ir.Node, int]]:
    """Additions with the index of the input that is their skip branch, where an INT8 node feeds the other input."""
    depth = _depths(graph)
    found = []
    for add in residual_additions(graph):
        fused = [index for index, value in enumerate(add.inputs) if _fuses(value, quantized)]
        if fused:
            # Both are convolutions where a block changes resolution: the deeper is the block, the other its shortcut.
            main = max(fused, key=lambda index: depth[add.inputs[index]])
            found.append((add, 1 - main))
    return found


def residual_additions(graph: ir.Graph) -> list[ir.Node]:
    """Every addition of two computed tensors of one shape."""
    return [node for node in graph if node.op_type in _ADDITIONS and _joins_two_branches(node)]


def _joins_two_branches(add: ir.Node) -> bool:
    if len(add.inputs) != 2:
        return False
    first, second = add.inputs
    if first is None or second is None or first is second:
        return False
    constants = constant(first) is not None or constant(second) is not None
    broadcast = first.shape is not None and second.shape is not None and first.shape != second.shape
    return not constants and not broadcast


def _fuses(value: ir.Value | None, quantized: Collection[ir.Node]) -> bool:
    return value is not None and value.producer() in quantized and len(value.uses()) == 1


def _depths(graph: ir.Graph) -> dict[ir.Value | None, int]:
    """Nodes on the longest path from an input to each tensor."""
    depth: dict[ir.Value | None, int] = {}
    for node in graph:
        here = 1 + max((depth.get(value, 0) for value in node.inputs), default=0)
        depth.update(dict.fromkeys(node.outputs, here))
    return depth
