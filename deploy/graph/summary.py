"""What a graph consists of: operators, the precision each layer really computes in, and what it costs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import onnx_ir as ir

from deploy.graph.macs import node_macs, node_parameters

_DTYPE_NAMES = {ir.DataType.FLOAT: "fp32", ir.DataType.FLOAT16: "fp16"}
# Nodes that convert between precisions compute in none.
_BORDERS = frozenset({"Cast", "QuantizeLinear", "DequantizeLinear"})


@dataclass(frozen=True)
class Layer:
    """One node: its name, operator, precision (``int8``, ``fp16``, ``fp32`` or ``-``) and output shape as text.

    ``parameters`` are the values of the constants it computes with. ``macs`` are its multiply-accumulates for one
    image, None where a shape is unknown.
    """

    name: str
    operator: str
    precision: str
    output: str
    parameters: int = 0
    macs: int | None = 0


@dataclass(frozen=True)
class GraphSummary:
    """Counts over a graph. ``precisions`` maps precision → operator → number of nodes.

    ``parameters`` and ``macs`` are totals: a constant that several nodes read counts once, and one layer of unknown
    ``macs`` makes their total unknown.
    """

    ir_version: int
    opset: int
    nodes: int
    operators: dict[str, int]
    parameters: int
    macs: int | None
    precisions: dict[str, dict[str, int]]
    layers: tuple[Layer, ...]


def summarize(model: ir.Model) -> GraphSummary:
    """Read off what ``model`` holds. A layer is INT8 where its data input comes out of a DequantizeLinear."""
    layers = tuple(_layer(node) for node in model.graph)
    precisions: dict[str, Counter[str]] = {}
    for layer in layers:
        if layer.operator not in _BORDERS:
            precisions.setdefault(layer.precision, Counter())[layer.operator] += 1
    macs = [layer.macs for layer in layers]
    constants = {name: size for node in model.graph for name, size in node_parameters(node).items()}
    return GraphSummary(
        ir_version=int(model.ir_version or 0),
        opset=model.opset_imports.get("", 0),
        nodes=len(layers),
        operators=dict(Counter(layer.operator for layer in layers).most_common()),
        parameters=sum(constants.values()),
        macs=None if None in macs else sum(count or 0 for count in macs),
        precisions={name: dict(counts.most_common()) for name, counts in sorted(precisions.items())},
        layers=layers,
    )


def _layer(node: ir.Node) -> Layer:
    output = node.outputs[0]
    shape = "" if output.shape is None else f"[{', '.join(str(dim) for dim in output.shape)}]"
    parameters = sum(node_parameters(node).values())
    return Layer(node.name or "", node.op_type, _precision(node), shape, parameters, node_macs(node))


def _precision(node: ir.Node) -> str:
    if node.op_type in _BORDERS:
        return "-"
    # Conv and Gemm in INT8 read data and weight from DequantizeLinear; an Add whose skip branch is quantized does not.
    producers = [value.producer() for value in node.inputs[:2] if value is not None]
    if len(producers) == 2 and all(p is not None and p.op_type == "DequantizeLinear" for p in producers):
        return "int8"
    dtype = next((value.dtype for value in node.inputs if value is not None and value.dtype is not None), None)
    return _DTYPE_NAMES.get(dtype, "-") if dtype is not None else "-"
