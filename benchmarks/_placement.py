"""What a graph quantizes, and what our rules would: for quantizers that are told, and to say how far they come.

python benchmarks/_placement.py net.onnx placement.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx_ir as ir

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from deploy.graph import files
from deploy.graph.irtools import constant, typed_copy
from deploy.graph.macs import node_macs
from deploy.graph.placement import Placement, place

Reader = tuple[str, str]  # a quantized activation, and a node that reads it as INT8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("graph", type=Path)
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    args.output.write_text(json.dumps(instructions(files.load(args.graph)), indent=1), encoding="utf-8")


def instructions(model: ir.Model) -> dict[str, Any]:
    """Our placement for a quantizer that takes nodes.

    ``nodes``: node with a quantized input → its operator. ``residuals``: each addition among them → the node whose
    output it reads unquantized.
    """
    nodes = {str(node.name): node for node in model.graph}
    edges = place(model).activations
    return {
        "nodes": {edge.node: nodes[edge.node].op_type for edge in edges},
        "residuals": {
            edge.node: nodes[edge.node].inputs[1 - edge.index].producer().name
            for edge in edges
            if nodes[edge.node].op_type in ("Add", "Sum")
        },
    }


def expected(placement: Placement) -> set[Reader]:
    return {(edge.tensor, edge.node) for edge in placement.activations}


def readers(model: ir.Model) -> set[Reader]:
    """Who reads which activation through Q/DQ, in any graph. Casts on the way count as nothing."""
    found = set()
    for node in model.graph:
        source = _source(node.inputs[0]) if node.op_type == "QuantizeLinear" else None
        if source is not None and constant(source) is None:
            found |= {(str(source.name), name) for name in _readers(node.outputs[0])}
    return found


def int8_mac_share(reference: ir.Model, model: ir.Model) -> float:
    """Part of the multiply-accumulates of ``reference`` that ``model`` does on quantized activations, 0 to 1."""
    macs = {str(node.name): node_macs(node) or 0 for node in typed_copy(reference).graph}
    return sum(macs.get(name, 0) for name in {name for _, name in readers(model)}) / sum(macs.values())


def difference(placement: Placement, model: ir.Model) -> str:
    """In words, what ``model`` quantizes more and less than ``placement``; nothing where they are the same."""
    ours, theirs = expected(placement), readers(model)
    counts = {"more": len(theirs - ours), "fewer": len(ours - theirs)}
    return ", ".join(f"{count} {word}" for word, count in counts.items() if count)


def _source(value: ir.Value | None) -> ir.Value | None:
    """The tensor behind Casts."""
    node = value.producer() if value is not None else None
    return _source(node.inputs[0]) if node is not None and node.op_type == "Cast" else value


def _readers(value: ir.Value) -> Iterator[str]:
    for node in value.consumers():
        if node.op_type in ("DequantizeLinear", "Cast"):
            yield from _readers(node.outputs[0])
        else:
            yield str(node.name)


if __name__ == "__main__":
    main()
