"""Whether an engine keeps what the graph asks for."""

import json
from pathlib import Path

from deploy.engine.audit import audit_engine
from deploy.engine.layers import read_layers

MOBILENET = Path(__file__).with_name("mobilenet_qat_layers.json").read_text()

# ONNX node → operator, precision in the graph.
ASKED = {
    "stem": ("Conv", "int8"),
    "stem.act": ("Relu", "fp16"),
    "quantize": ("QuantizeLinear", "-"),
    "wide": ("Conv", "fp16"),
    "back": ("DequantizeLinear", "-"),
    "softmax": ("Softmax", "fp32"),
    "cast": ("Cast", "-"),
}


def layer(name, kind, nodes, reads, makes, **fields):
    return {
        "Name": name,
        "LayerType": kind,
        "Metadata": "\x1f".join(f"[ONNX Layer: {node}]" for node in nodes),
        "Inputs": [{"Name": f"{name}.in", "Format/Datatype": reads}],
        "Outputs": [{"Name": f"{name}.out", "Format/Datatype": makes}],
        **fields,
    }


def audit(*layers, asked=ASKED, io=()):
    return audit_engine(read_layers(json.dumps({"Layers": layers, "Bindings": list(io)})), asked)


def test_a_real_engine_without_its_graph():
    """17 of its quantizations are layers of their own; the one that reads the engine's input has to be."""
    found = audit_engine(read_layers(MOBILENET))
    assert (found.convolutions, found.int8_convolutions) == (2, 2)
    assert found.unfused_qdq == ("QuantizeLinear_98", "QuantizeLinear_682")
    assert found.higher_precision is None


def test_an_engine_that_does_as_it_is_told():
    found = audit(
        layer("a", "CaskConvolution", ["cast", "quantize"], "Row major linear FP32", "Row major Int8 format"),
        layer("b", "CaskConvolution", ["stem", "stem.act"], "Row major Int8 format", "Row major FP16 format"),
        layer("c", "conv", ["wide"], "Half", "Half"),
        layer("d", "kgen", ["softmax"], "Float", "Float"),
    )
    assert (found.layers, found.convolutions, found.int8_convolutions) == (4, 3, 1)
    assert (found.unfused_qdq, found.higher_precision) == ((), {})


def test_qdq_by_themselves_are_known_by_the_graph_whatever_their_names():
    lone = [layer("a", "kgen", ["quantize"], "Half", "Int8"), layer("b", "kgen", ["back"], "Int8", "Half")]
    assert audit(*lone).unfused_qdq == ("quantize", "back")
    assert audit(*lone, asked=None).unfused_qdq == ()
    assert audit(layer("a", "kgen", ["x/QuantizeLinear"], "Half", "Int8"), asked=None).unfused_qdq == (
        "x/QuantizeLinear",
    )


def test_qdq_at_the_engines_border_have_nothing_to_fuse_with():
    assert audit(layer("a", "kgen", ["quantize"], "Float", "Int8"), io=["a.in"]).unfused_qdq == ()


def test_layers_in_a_higher_precision():
    found = audit(
        layer("a", "CaskConvolution", ["stem", "stem.act"], "Row major FP16 format", "Row major FP16 format"),
        layer("b", "CaskConvolution", ["wide"], "Row major linear FP32", "Row major linear FP32"),
    )
    assert found.int8_convolutions == 0
    assert found.higher_precision == {
        "stem + stem.act": "int8 in the graph, fp16 in the engine",
        "wide": "fp16 in the graph, fp32 in the engine",
    }


def test_int8_that_only_the_weights_show():
    """An activation is quantized within the layer."""
    weights = {"Weights": {"Type": "Int8", "Count": 864}}
    found = audit(layer("a", "CaskConvolution", ["quantize", "stem"], "Half", "Half", **weights))
    assert (found.int8_convolutions, found.higher_precision) == (1, {})
