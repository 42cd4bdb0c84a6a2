"""What inspectors tell of an engine's layers: real text of TensorRT, and both forms that it has had since 10."""

import json
from pathlib import Path

import pytest

from deploy.engine.layers import layer_nodes, nodes_named, read_layers

# Real: see its "Source". Names alone tell of nodes there, as before TensorRT 10.
MOBILENET = Path(__file__).with_name("mobilenet_qat_layers.json").read_text()


LAYERS = [
    {
        "Name": "Reformatting CopyNode for Input Tensor 0 to features.0/Conv + features.1/Relu",
        "LayerType": "Reformat",
        "Inputs": [{"Name": "x", "Dimensions": [8, 3, 224, 224], "Format/Datatype": "Row major linear FP16 format"}],
        "Metadata": "",
    },
    {
        "Name": "features.0/Conv + features.1/Relu",
        "LayerType": "CaskConvolution",
        "TacticName": "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32",
        "StreamId": 0,
        "Metadata": "[ONNX Layer: x/QuantizeLinear]\x1f[ONNX Layer: features.0/Conv]\x1e[ONNX Layer: features.1/Relu]",
    },
    {"Name": "__myl_FcMul", "LayerType": "gemm", "Metadata": "[ONNX Layer: a/Gemm][ONNX Layer: b[0]/Mul | f (Block)]"},
    {"Name": "Unnamed Layer 3", "LayerType": "Constant"},
    "names alone",
]
NODES = {
    LAYERS[0]["Name"]: frozenset({"x/QuantizeLinear", "features.0/Conv", "features.1/Relu"}),
    LAYERS[1]["Name"]: frozenset({"x/QuantizeLinear", "features.0/Conv", "features.1/Relu"}),
    "__myl_FcMul": frozenset({"a/Gemm", "b[0]/Mul"}),
}
TENSORRT_10 = {"Layers": LAYERS, "Bindings": ["input", "logits"]}
# What became of Bindings, and of a tensor's Format/Datatype: NVIDIA's "Migrating IEngineInspector Usage".
TENSORRT_11 = {
    "Layers": [
        {**layer, "Inputs": [{"Name": "x", "Format": "Row major linear FP16 format (kLINEAR)", "DataType": "Half"}]}
        if isinstance(layer, dict)
        else layer
        for layer in LAYERS
    ],
    "I/O Tensors": [{"Name": "input", "IOMode": "Input", "DataType": "Float", "Dimensions": [-1, 3, 224, 224]}],
}


@pytest.mark.parametrize("document", [TENSORRT_10, TENSORRT_11], ids=["10", "11"])
def test_both_forms_of_the_inspectors_json(document):
    assert layer_nodes(json.dumps(document)) == NODES


def test_control_characters_may_come_as_they_are():
    text = json.dumps(TENSORRT_10).replace("\\u001f", "\x1f").replace("\\u001e", "\x1e")
    assert "\x1f" in text
    assert layer_nodes(text) == NODES


@pytest.mark.parametrize(
    "text",
    ["", "Layers: a, b", "[]", "{}", '{"Layers": null}', '{"Layers": [{}, {"Name": 3}, {"Name": "a", "Metadata": 7}]}'],
)
def test_text_that_tells_of_no_layer(text):
    assert layer_nodes(text) == {}
    assert read_layers(text).tensors == frozenset()


@pytest.mark.parametrize("document", [TENSORRT_10, TENSORRT_11], ids=["10", "11"])
def test_types_of_tensors_in_both_forms(document):
    layers = {layer.name: layer for layer in read_layers(json.dumps(document)).layers}
    assert layers[LAYERS[0]["Name"]].inputs == {"x": "fp16"}
    assert "names alone" not in layers


def test_the_engines_own_tensors_in_both_forms():
    assert read_layers(json.dumps(TENSORRT_10)).tensors == {"input", "logits"}
    assert read_layers(json.dumps(TENSORRT_11)).tensors == {"input"}


def test_real_text():
    engine = read_layers(MOBILENET)
    layers = {layer.name: layer for layer in engine.layers}
    assert engine.tensors == {"input1", "1179"}
    quantize = layers["QuantizeLinear_682"]
    assert (quantize.kind, quantize.qdq) == ("Reformat", True)
    assert (quantize.inputs, quantize.outputs) == ({"994": "fp32"}, {"997": "int8"})
    depthwise = layers["features.1.conv.0.0.weight + QuantizeLinear_25 + Conv_29 + PWN(Clip_33)"]
    assert (depthwise.kind, depthwise.weights, depthwise.types) == ("CudaDepthwiseConvolution", "int8", {"int8"})
    assert layers["GlobalAveragePool_843"].types == {"fp16"}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Row major linear FP32", "fp32"),
        ("Channel major FP16 format where channel % 8 == 0", "fp16"),
        ("Thirty-two wide channel vectorized row major Int8 format", "int8"),
        ("Half", "fp16"),
        ("Float", "fp32"),
        ("BFloat16", "bf16"),
        ("Int64", "-"),
        ("N/A due to dynamic shapes", "-"),
    ],
)
def test_types_in_words(text, kind):
    """Sentences and types that TensorRT 8 to 10 print."""
    layer = {"Name": "a", "Inputs": [{"Name": "x", "Format/Datatype": text}]}
    assert read_layers(json.dumps({"Layers": [layer]})).layers[0].inputs == {"x": kind}


def test_nodes_in_a_layers_name():
    assert nodes_named("w + /q + /a/Conv + PWN(/a/Relu) || /b/Conv") == {"w", "/q", "/a/Conv", "/a/Relu", "/b/Conv"}
