from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from deploy.errors import InputError
from deploy.graph.fp16 import audited_tensors, range_audit, to_fp16, weights_outside_fp16


def _types(model):
    return {v.name: v.dtype for node in model.graph for v in node.outputs}


def _ops(model):
    return [node.op_type for node in model.graph]


def _scale_weight(model, name, factor):
    value = model.graph.initializers[name]
    value.const_value = ir.Tensor(value.const_value.numpy() * np.float32(factor), name=name)


def test_arithmetic_is_fp16_between_fp32_borders(mini, images, run):
    half = to_fp16(mini)
    assert [v.dtype for v in (*half.graph.inputs, *half.graph.outputs)] == [ir.DataType.FLOAT] * 2
    assert _ops(half).count("Cast") == 2
    inner = {name: dtype for name, dtype in _types(half).items() if name != "logits"}
    assert set(inner.values()) == {ir.DataType.FLOAT16}
    stored = {v.dtype for v in half.graph.initializers.values()}
    assert stored == {ir.DataType.FLOAT16, ir.DataType.INT64}
    expected, got = run(mini, images)["logits"], run(half, images)["logits"]
    assert expected.std() > 0.1
    np.testing.assert_allclose(got, expected, atol=0.01 * np.abs(expected).max())


def test_input_model_is_unchanged(mini):
    before = ir.to_proto(mini).SerializeToString(deterministic=True)
    to_fp16(mini, ["project_node"])
    assert ir.to_proto(mini).SerializeToString(deterministic=True) == before


def test_kept_nodes_compute_in_fp32_with_one_cast_per_border(mini, images, run):
    half = to_fp16(mini, ["wide_conv_node", "wide_node"])
    types = _types(half)
    assert types["wide_conv"] is types["wide"] is ir.DataType.FLOAT
    assert types["stem"] is types["deep"] is ir.DataType.FLOAT16
    assert half.graph.initializers["wide_conv.weight"].dtype is ir.DataType.FLOAT
    # input and logits, into wide_conv, out of wide: none between the two kept nodes.
    assert _ops(half).count("Cast") == 4
    run(half, images)


def test_a_kept_last_node_writes_the_output_itself(mini, images, run):
    half = to_fp16(mini, ["logits_node"])
    assert half.graph.outputs[0].producer().op_type == "Gemm"
    run(half, images)


def test_overflowing_and_vanishing_weights_keep_their_node(mini, images, run):
    _scale_weight(mini, "wide_conv.weight", 1e6)
    _scale_weight(mini, "project.weight", 1e-8)
    _scale_weight(mini, "stem_conv.bias", 1e-12)
    found = weights_outside_fp16(mini)
    assert set(found) == {"wide_conv_node", "project_node"}
    assert "65504" in found["wide_conv_node"]
    assert "flushes" in found["project_node"]
    types = _types(to_fp16(mini))
    assert types["wide_conv"] is types["project"] is ir.DataType.FLOAT


def test_shape_arithmetic_stays_fp32(net, images, run):
    conv = net.conv("conv", "input", (3, 16))
    shape = net.op("Cast", "shape", net.op("Shape", "sizes", conv), to=1)
    # 4099 needs 13 bits of mantissa: FP16 has 11.
    odd = net.op("Add", "odd", shape, net.constant("odd_term", np.array([0, 4083, 0, 0], np.float32)))
    back = net.op("Cast", "back", net.op("Sub", "even", odd, "odd_term"), to=7)
    model = net.model(net.op("Reshape", "out", conv, back), ["batch", 16, 16, 16])
    half = to_fp16(model)
    assert _types(half)["odd"] is ir.DataType.FLOAT
    assert _types(half)["conv"] is ir.DataType.FLOAT16
    assert run(half, images)["out"].shape == (8, 16, 16, 16)


def test_inputs_that_onnx_has_in_fp32_only_stay_fp32(net, images, run):
    scales = net.constant("scales", np.array([1, 1, 2, 2], np.float32))
    conv = net.conv("conv", "input", (3, 16))
    half = to_fp16(net.model(net.op("Resize", "out", conv, "", scales, mode="nearest"), ["batch", 16, 32, 32]))
    assert half.graph.initializers["scales"].dtype is ir.DataType.FLOAT
    run(half, images)


def test_casts_in_the_graph_follow(net, images, run):
    mask = net.op("Cast", "mask", net.op("Greater", "above", "input", net.constant("zero", np.float32(0))), to=1)
    model = net.model(net.op("Mul", "out", "input", mask), ["batch", 3, 16, 16])
    half = to_fp16(model)
    assert _types(half)["mask"] is ir.DataType.FLOAT16
    np.testing.assert_allclose(run(half, images)["out"], run(model, images)["out"], rtol=1e-3)


def test_constants_become_fp16_initializers_and_types_are_inferred(net, images, run):
    net.op("Constant", "two", value_float=2.0)
    model = net.model(net.op("Mul", "out", "input", "two"), ["batch", 3, 16, 16])
    next(iter(model.graph)).outputs[0].type = None
    half = to_fp16(model)
    assert half.graph.initializers["two"].dtype is ir.DataType.FLOAT16
    assert "Constant" not in _ops(half)
    run(half, images)


def test_unnamed_nodes_can_be_told_apart(mini, images, run):
    for node in mini.graph:
        node.name = ""
    half = to_fp16(mini, ["Conv/wide_conv"])
    assert _types(half)["wide_conv"] is ir.DataType.FLOAT
    run(half, images)


def test_audit_keeps_producer_and_readers(mini):
    reasons = range_audit(mini, {"wide": 20_000.0, "deep": 100.0, "top": 1e-6})
    assert set(reasons) == {"wide_node", "deep_conv_node", "top_node", "average_node"}
    assert reasons["wide_node"] == "'wide' reaches 2e+04, FP16 ends at 65504"
    assert set(reasons) <= {node.name for node in mini.graph}
    assert range_audit(mini, {"wide": 20_000.0}, headroom=2.0) == {}
    assert range_audit(mini, {}) == {}


def test_audited_tensors_are_all_computed_floats(mini):
    names = audited_tensors(mini)
    assert names[0] == "stem_conv"
    assert names[-1] == "logits"
    assert len(names) == len(list(mini.graph))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda model: to_fp16(model, ["nothing"]), "no node has this name (got nothing)"),
        (lambda model: to_fp16(to_fp16(model)), "the graph holds FP16 already"),
    ],
)
def test_wrong_input(mini, change, text):
    with pytest.raises(InputError) as caught:
        change(mini)
    assert text in str(caught.value)


def test_old_opset(net):
    model = net.model(net.conv("out", "input", (3, 16)), ["batch", 16, 16, 16], opset=17)
    with pytest.raises(InputError, match="opset is too old.*got 17; expected 19 or newer"):
        to_fp16(model)
