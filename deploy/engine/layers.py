"""The layers of an engine, read from the inspector's JSON: the ONNX nodes each computes, and the types it works in.

TensorRT 10 names the engine's inputs and outputs in ``Bindings``, 11 describes them in ``I/O Tensors``. A layer's
tensors have ``Format/Datatype``, a sentence or (where TensorRT's compiler made the layer) a type such as ``Half``; in
11 ``Format`` and ``DataType``. Source: NVIDIA, "Migrating IEngineInspector Usage from TensorRT 10.x to 11.x".
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

# The parser's importerUtils.cpp (onnx-tensorrt): "[ONNX Layer: <name> | <function it was inlined from> …]". A fused
# layer has one for each node, behind one another or apart by a control character.
_NODE = re.compile(r"\[ONNX Layer: (.+?)(?: \| .*?)?\](?=[\x1e\x1f]|\[ONNX Layer: |\s*$)")
_REFORMAT = re.compile(r"Reformatting CopyNode for (?:Input|Output) Tensor \d+ to (.+)")
# Words in a tensor's format → type. The first that is found counts: "BFloat16" holds "Float".
_TYPES = {
    "INT8": "int8",
    "BFLOAT16": "bf16",
    "BF16": "bf16",
    "FP16": "fp16",
    "HALF": "fp16",
    "FP32": "fp32",
    "FLOAT": "fp32",
}
_TYPE_KEYS = ("DataType", "Datatype", "Format/Datatype", "Format")


@dataclass(frozen=True)
class EngineLayer:
    """One layer.

    Attributes:
        name: as the profiler reports it.
        kind: TensorRT's type of it, for example ``CaskConvolution``.
        nodes: the ONNX nodes it computes; empty where it tells of none.
        inputs: tensor → type: ``int8``, ``fp16``, ``bf16``, ``fp32``, or ``-`` for others and unknown ones.
        outputs: the same.
        weights: the type of its weights, or ``-``.
        qdq: TensorRT says that all it does is to quantize or dequantize.
    """

    name: str
    kind: str
    nodes: frozenset[str]
    inputs: dict[str, str]
    outputs: dict[str, str]
    weights: str = "-"
    qdq: bool = False

    @property
    def types(self) -> set[str]:
        """The floating-point and INT8 types among its tensors and weights."""
        return {*self.inputs.values(), *self.outputs.values(), self.weights} - {"-"}


@dataclass(frozen=True)
class EngineLayers:
    """``layers`` in the order in which they run; ``tensors`` are the engine's inputs and outputs, by name."""

    layers: tuple[EngineLayer, ...]
    tensors: frozenset[str]


def read_layers(information: str) -> EngineLayers:
    """Parse the JSON of ``get_engine_information``.

    An engine built without ``ProfilingVerbosity.DETAILED`` lists names alone, which tell of nothing: no layers. Neither
    are there any in text that is no such JSON.
    """
    try:
        document = json.loads(information, strict=False)  # the control characters may come as they are
    except json.JSONDecodeError:
        return EngineLayers((), frozenset())
    if not isinstance(document, dict):
        return EngineLayers((), frozenset())
    found = [each for each in _list(document, "Layers") if isinstance(each, dict) and isinstance(each.get("Name"), str)]
    tensors = [*_list(document, "Bindings"), *_list(document, "I/O Tensors")]
    names = [each.get("Name") if isinstance(each, dict) else each for each in tensors]
    return EngineLayers(tuple(map(_layer, found)), frozenset(map(str, names)))


def layer_nodes(information: str) -> dict[str, frozenset[str]]:
    """Engine layer → the ONNX nodes in it, from the inspector's JSON; layers that tell of none are left out.

    A copy between layouts counts to the layer that it is for.
    """
    found = {layer.name: layer.nodes for layer in read_layers(information).layers}
    for name in found:
        if not found[name] and (copy := _REFORMAT.fullmatch(name)):
            found[name] = found.get(copy[1], frozenset())
    return {name: nodes for name, nodes in found.items() if nodes}


def nodes_named(name: str) -> frozenset[str]:
    """The ONNX nodes in the name of a fused layer: ``a + PWN(b) || c + d`` → a, b, c, d."""
    parts = re.split(r" \+ | \|\| ", name)
    return frozenset(re.sub(r"^PWN\((.*)\)$", r"\1", part.strip()) for part in parts if part.strip())


def _layer(fields: dict[str, Any]) -> EngineLayer:
    weights = fields.get("Weights", fields.get("ConvWeights"))
    return EngineLayer(
        name=fields["Name"],
        kind=str(fields.get("LayerType", fields.get("ParameterType", "-"))),
        nodes=frozenset(_NODE.findall(str(fields.get("Metadata", "")))),
        inputs=_tensors(fields, "Inputs"),
        outputs=_tensors(fields, "Outputs"),
        weights=_type(str(weights.get("Type"))) if isinstance(weights, dict) else "-",
        qdq=fields.get("Origin") == "QDQ",
    )


def _tensors(fields: dict[str, Any], side: str) -> dict[str, str]:
    tensors = [each for each in _list(fields, side) if isinstance(each, dict)]
    return {str(each.get("Name")): _type_of(each) for each in tensors}


def _type_of(tensor: dict[str, Any]) -> str:
    return next((_type(str(tensor[key])) for key in _TYPE_KEYS if key in tensor), "-")


def _type(text: str) -> str:
    return next((kind for word, kind in _TYPES.items() if word in text.upper()), "-")


def _list(fields: dict[str, Any], key: str) -> list[Any]:
    found = fields.get(key)
    return found if isinstance(found, list) else []
