"""What became of a graph's INT8 and FP16 in the engine: Q/DQ that did not fuse, layers in a higher precision."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from deploy.engine.layers import EngineLayer, EngineLayers, nodes_named

# ONNX node → its operator and the precision that the graph computes it in: int8, fp16, fp32, or - for none.
Asked = Mapping[str, tuple[str, str]]

_QDQ = frozenset({"QuantizeLinear", "DequantizeLinear"})
# As exporters name them: "x/QuantizeLinear", "/stem/DequantizeLinear_1", "QuantizeLinear_2".
_QDQ_NAME = re.compile(r"(?:.*/)?(?:Quantize|Dequantize)Linear(?:_\d+)?")
_RANK = {"int8": 0, "fp16": 1, "bf16": 1, "fp32": 2}


@dataclass(frozen=True)
class EngineAudit:
    """The findings. Names are those of ONNX nodes where the engine tells them, else of its layers.

    Attributes:
        layers: how many the engine has.
        convolutions: layers that convolve.
        int8_convolutions: those of them that read INT8.
        unfused_qdq: Q/DQ that are layers of their own, each a copy through memory. Those that read or write the
            engine's own inputs and outputs have nothing to fuse with, and are not among them.
        higher_precision: layer → what the graph asks and what the engine does; None where the graph is not known.
    """

    layers: int
    convolutions: int
    int8_convolutions: int
    unfused_qdq: tuple[str, ...]
    higher_precision: Mapping[str, str] | None = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def audit_engine(engine: EngineLayers, asked: Asked | None = None) -> EngineAudit:
    """Compare an engine with the graph it was built from.

    Args:
        engine: what its inspector told.
        asked: the graph's nodes; without them Q/DQ are known by their usual names, and precisions not judged.
    """
    graph = asked or {}
    convolutions = [layer for layer in engine.layers if _convolves(layer, graph)]
    lone = [layer for layer in engine.layers if _only_qdq(layer, graph) and not _at_border(layer, engine.tensors)]
    return EngineAudit(
        layers=len(engine.layers),
        convolutions=len(convolutions),
        int8_convolutions=sum("int8" in (*layer.inputs.values(), layer.weights) for layer in convolutions),
        unfused_qdq=tuple(dict.fromkeys(_name(layer) for layer in lone)),
        higher_precision=None if asked is None else _higher(engine, asked),
    )


def _convolves(layer: EngineLayer, asked: Asked) -> bool:
    return "conv" in layer.kind.lower() or any(asked.get(node, ("",))[0] == "Conv" for node in _nodes(layer))


def _only_qdq(layer: EngineLayer, asked: Asked) -> bool:
    nodes = _nodes(layer)
    return layer.qdq or (bool(nodes) and all(_is_qdq(node, asked) for node in nodes))


def _is_qdq(node: str, asked: Asked) -> bool:
    return asked[node][0] in _QDQ if node in asked else _QDQ_NAME.fullmatch(node) is not None


def _at_border(layer: EngineLayer, tensors: frozenset[str]) -> bool:
    return not tensors.isdisjoint((*layer.inputs, *layer.outputs))


def _higher(engine: EngineLayers, asked: Asked) -> dict[str, str]:
    """Layers none of whose tensors has the precision that one of their nodes is to be computed in."""
    found = {}
    for layer in engine.layers:
        wanted = [asked[node][1] for node in _nodes(layer) if node in asked and asked[node][1] in _RANK]
        if wanted and layer.types:
            want, got = min(wanted, key=_rank), min(layer.types, key=_rank)
            if _rank(got) > _rank(want):
                found[_name(layer)] = f"{want} in the graph, {got} in the engine"
    return found


def _nodes(layer: EngineLayer) -> frozenset[str]:
    """TensorRT before 10 has no metadata: there the name tells."""
    return layer.nodes or nodes_named(layer.name)


def _rank(precision: str) -> int:
    return _RANK[precision]


def _name(layer: EngineLayer) -> str:
    return " + ".join(sorted(layer.nodes)) or layer.name
