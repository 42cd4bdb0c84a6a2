from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from deploy.graph.fp16 import to_fp16
from deploy.graph.placement import place
from deploy.graph.qdq import insert_qdq
from deploy.graph.twin import precision_of, twin
from deploy.specs import Precision


def _quantized(mini, ranges):
    placement = place(mini)
    return insert_qdq(mini, placement, ranges(mini, placement.tensors))


@pytest.fixture
def int8(mini, ranges):
    return to_fp16(_quantized(mini, ranges))


def _set(model, name, change):
    value = model.graph.initializers[name]
    array = value.const_value.numpy()
    value.const_value = ir.Tensor(change(array).astype(array.dtype), name=name)


def test_precision_is_read_from_the_graph(mini, int8):
    assert precision_of(mini) is Precision.FP32
    assert precision_of(to_fp16(mini)) is Precision.FP16
    assert precision_of(int8) is Precision.INT8


def test_the_twin_of_fp32_computes_the_same(mini, images, run):
    np.testing.assert_array_equal(run(twin(mini), images)["logits"], run(mini, images)["logits"])


def test_fp16_twin_agrees_with_onnx_reference_arithmetic(mini, images, run):
    # numpy rounds every tensor to FP16, in code that is neither ours nor ONNX Runtime's.
    half = to_fp16(mini)
    reference = ReferenceEvaluator(ir.to_proto(half)).run(None, {"input": images})[0]
    single = run(mini, images)["logits"]
    got = run(twin(half), images)["logits"]
    peak = np.abs(single).max()
    assert np.abs(got - reference).max() < 3e-3 * peak
    assert 1e-5 * peak < np.abs(got - single).max() < 1e-2 * peak


def test_int8_twin_agrees_with_onnx_reference_arithmetic(int8, images, run):
    reference = ReferenceEvaluator(ir.to_proto(int8)).run(None, {"input": images})[0]
    got = run(twin(int8), images)["logits"]
    # One INT8 step somewhere, where sums round differently.
    assert np.abs(got - reference).max() < 0.05 * np.abs(reference).max()
    assert np.mean((got - reference) ** 2) < 1e-4 * np.mean(reference**2)


def test_every_fp16_tensor_of_the_precise_graph_is_rounded(int8):
    held = {v.name for node in int8.graph for v in node.outputs if v.dtype is ir.DataType.FLOAT16}
    activations = {name for name in held if not name.endswith("weight/dequantized")}
    graph = twin(int8).graph
    down = [node for node in graph if node.op_type == "Cast" and node.outputs[0].dtype is ir.DataType.FLOAT16]
    assert {node.inputs[0].name for node in down} == activations
    stored = {v.dtype for v in graph.initializers.values()}
    assert ir.DataType.FLOAT16 not in stored


def test_folded_weights_are_those_the_artefact_holds(int8):
    levels = int8.graph.initializers["wide_conv.weight/quantized"].const_value.numpy()
    scale = int8.graph.initializers["wide_conv.weight/scale"].const_value.numpy()
    expected = (levels * scale.astype(np.float32).reshape(-1, 1, 1, 1)).astype(np.float16)
    folded = twin(int8).graph.initializers["wide_conv.weight/dequantized"].const_value.numpy()
    np.testing.assert_array_equal(folded, expected)


LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_planted_overflow_shows_at_every_optimization_level(mini, images, ranges, level, precision):
    # One channel leaves FP16's range and the next layer scales it back: FP32 sees nothing.
    _set(mini, "wide_conv.weight", lambda w: np.concatenate([w[:1] * 1e5, w[1:]]))
    _set(mini, "deep_conv.weight", lambda w: np.concatenate([w[:1] / 1e5, w[1:]]))
    model = to_fp16(mini) if precision == "fp16" else to_fp16(_quantized(mini, ranges))
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    outputs = {}
    for name, graph in (("fp32", mini), ("twin", twin(model))):
        proto = ir.to_proto(graph)
        proto.graph.output.append(onnx.helper.make_empty_tensor_value_info("wide"))
        if name == "twin":
            proto.graph.output[-1].name = "wide/rounded"
        session = ort.InferenceSession(proto.SerializeToString(), options)
        outputs[name] = session.run(None, {"input": images})
    assert np.isfinite(outputs["fp32"][0]).all()
    assert np.isinf(outputs["twin"][1]).any()


def test_an_overflow_reaches_the_outputs_of_the_fp16_twin(mini, images, run):
    _set(mini, "top_conv.weight", lambda w: w * 3e4)
    _set(mini, "head.weight", lambda w: w / 3e4)
    assert np.isfinite(run(mini, images)["logits"]).all()
    assert not np.isfinite(run(twin(to_fp16(mini)), images)["logits"]).all()


def test_keeping_the_nodes_that_overflow_cures_it(mini, images, run):
    _set(mini, "top_conv.weight", lambda w: w * 3e4)
    _set(mini, "head.weight", lambda w: w / 3e4)
    kept = to_fp16(mini, ["top_conv_node", "top_node", "average_node", "flat_node", "logits_node"])
    expected = run(mini, images)["logits"]
    np.testing.assert_allclose(run(twin(kept), images)["logits"], expected, atol=0.01 * np.abs(expected).max())


def test_a_swapped_scale_shows(mini, int8, images, run):
    expected = run(mini, images)["logits"]
    sound = run(twin(int8), images)["logits"]
    first, second = (int8.graph.initializers[name] for name in ("flat/scale", "stem/scale"))
    first.const_value, second.const_value = second.const_value, first.const_value
    swapped = run(twin(int8), images)["logits"]
    assert np.mean((swapped - expected) ** 2) > 5 * np.mean((sound - expected) ** 2)


def test_a_swapped_weight_scale_shows(mini, ranges, images, run):
    _set(mini, "wide_conv.weight", lambda w: w * np.linspace(0.2, 2, 32).reshape(-1, 1, 1, 1))
    int8 = to_fp16(_quantized(mini, ranges))
    expected = run(mini, images)["logits"]
    sound = run(twin(int8), images)["logits"]
    _set(int8, "wide_conv.weight/scale", lambda scale: scale[::-1])
    swapped = run(twin(int8), images)["logits"]
    assert np.mean((swapped - expected) ** 2) > 5 * np.mean((sound - expected) ** 2)


def test_inputs_and_outputs_in_fp16(net, run):
    """As a network exported in half precision has them."""
    model = ir.to_proto(net.model(net.conv("out", "input", (3, 16)), ["batch", 16, 16, 16]))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    del model.graph.value_info[:]
    for weight in model.graph.initializer:
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), weight.name))
    image = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float16)
    (result,) = run(twin(ir.from_proto(model)), image).values()
    assert result.shape == (2, 16, 16, 16)
    assert np.isfinite(result).all()
