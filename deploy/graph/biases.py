"""Biases of weighted nodes, which the simplifier leaves out where they are zero."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from deploy.graph.irtools import Array, add_initializer, constant


def takes_bias(node: ir.Node, outputs: int) -> bool:
    """Whether a Conv or Gemm adds one constant for each output channel, or nothing: a Gemm may add any tensor."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    given = constant(value)
    return value is None or (given is not None and np.broadcast_shapes(given.shape, (1, outputs)) == (1, outputs))


def bias_of(node: ir.Node, outputs: int) -> Array:
    """The bias of a Conv or Gemm that :func:`takes_bias`, float64 [outputs]; zeros where it has none."""
    given = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    return np.zeros(outputs) if given is None else np.broadcast_to(given.reshape(-1), (outputs,)).astype(np.float64)


def set_bias(graph: ir.Graph, node: ir.Node, bias: Array) -> None:
    """Give a Conv or Gemm ``bias``; another node that shares its old one keeps that."""
    name = f"{node.inputs[1].name}/bias"  # type: ignore[union-attr]
    old = node.inputs[2] if len(node.inputs) > 2 else None
    if old is None:
        node.resize_inputs(3)
    elif len(old.uses()) == 1:
        name = str(old.name)
        del graph.initializers[name]
    node.replace_input_with(2, add_initializer(graph, name, bias.astype(np.float32)))
