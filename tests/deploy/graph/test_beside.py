"""Errors computed inside one graph are those of graphs that run apart, and of arithmetic done by hand."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from deploy.errors import InputError
from deploy.graph.beside import beside
from deploy.graph.fp16 import round_to_fp16, to_fp16
from deploy.graph.placement import place
from deploy.graph.qdq import insert_qdq, quantize_weight
from deploy.graph.twin import twin


@pytest.fixture
def int8(mini, ranges):
    placement = place(mini)
    return to_fp16(insert_qdq(mini, placement, ranges(mini, placement.tensors)))


def run_only(run, pair, images, *names):
    return run(pair.only(names), images)


def test_the_error_is_the_twins(mini, int8, images, run):
    pair = beside(mini, int8)
    error = run_only(run, pair, images, pair.error("top_conv"))[pair.error("top_conv")]
    apart = run(twin(int8), images, "top_conv/rounded")["top_conv/rounded"] - run(mini, images, "top_conv")["top_conv"]
    assert np.abs(apart).max() > 1e-3
    np.testing.assert_allclose(error, apart, atol=1e-5)


def test_the_own_error_of_a_quantized_layer_by_hand(mini, int8, images, run):
    pair = beside(mini, int8)
    seen = {**run(mini, images, "joined", "top_conv")}
    (quantizer,) = next(shared for shared in pair.tensors if shared.name == "top_conv").quantizers
    levels = np.clip(np.rint(round_to_fp16(seen["joined"]) / np.float32(quantizer.scale)), -128, 127)
    weight = mini.graph.initializers["top_conv.weight"].const_value.numpy()
    bias = mini.graph.initializers["top_conv.bias"].const_value.numpy()
    rounded = round_to_fp16(quantize_weight(weight, 0).dequantized())[:, :, 0, 0]
    inputs = round_to_fp16(levels * np.float32(quantizer.scale))
    output = np.einsum("oi,nihw->nohw", rounded, inputs) + round_to_fp16(bias).reshape(1, -1, 1, 1)
    own = run_only(run, pair, images, pair.own_error("top_conv"))[pair.own_error("top_conv")]
    # A sum that lies between two FP16 numbers may be rounded to either.
    np.testing.assert_allclose(own, round_to_fp16(output) - seen["top_conv"], atol=2e-3)
    assert np.square(own).mean() == pytest.approx(np.square(round_to_fp16(output) - seen["top_conv"]).mean(), rel=0.01)


def test_the_first_layer_has_no_other_error_than_its_own(mini, int8, images, run):
    pair = beside(mini, int8)
    names = [pair.error("stem_conv"), pair.own_error("stem_conv")]
    accumulated, own = run_only(run, pair, images, *names).values()
    np.testing.assert_array_equal(accumulated, own)


def test_a_node_kept_in_fp32_loses_nothing_itself(mini, images, run):
    pair = beside(mini, to_fp16(mini, ["stem_conv_node"]))
    own = run_only(run, pair, images, pair.own_error("stem_conv"))[pair.own_error("stem_conv")]
    assert not own.any()


def test_only_what_is_asked_for_is_computed(mini, int8):
    pair = beside(mini, int8)
    part = pair.only([pair.own_error("stem_conv")])
    assert {node.op_type for node in part.graph} <= {"Conv", "Cast", "QuantizeLinear", "DequantizeLinear", "Sub"}
    assert "twin::head.weight/quantized" not in part.graph.initializers
    assert [value.name for value in pair.only(["input", "stem"]).graph.outputs] == ["stem"]


def equalized(mini, gains):
    """Channels of ``left`` times ``gains``: the weights before it multiplied, those behind it divided."""
    changed = mini.clone()
    column = gains.reshape(-1, 1, 1, 1)
    for name, change in {
        "left_conv.weight": lambda w: w * column,
        "left_conv.bias": lambda b: b * gains,
        "right_conv.weight": lambda w: w / column.reshape(1, -1, 1, 1),
        "top_conv.weight": lambda w: w / np.concatenate([gains, np.ones(16)]).reshape(1, -1, 1, 1),
    }.items():
        value = changed.graph.initializers[name]
        value.const_value = ir.Tensor(change(value.const_value.numpy()).astype(np.float32), name=name)
    return changed


def test_gains_are_divided_out(mini, images, run):
    gains = 2.0 ** np.arange(-4, 12).astype(np.float32)
    both = np.concatenate([gains, np.ones(16, np.float32)])
    precise = to_fp16(equalized(mini, gains))
    column, whole = gains.reshape(1, -1, 1, 1), both.reshape(1, -1, 1, 1)
    known = beside(mini, precise, {"left_conv": column, "left": column, "joined": whole})
    plain, unknown = beside(mini, to_fp16(mini)), beside(mini, precise)
    for tensor in ("left_conv", "left", "joined", "right_conv", "top_conv"):
        power = {}
        for name, pair in {"plain": plain, "known": known, "unknown": unknown}.items():
            errors = run_only(run, pair, images, pair.error(tensor), pair.own_error(tensor)).values()
            power[name] = np.array([np.square(error).mean() for error in errors])
        # Powers of two move no bit of what FP16 holds.
        np.testing.assert_allclose(power["known"], power["plain"], rtol=0.05)
        assert power["unknown"].max() > 1e3 * power["plain"].max()


def test_the_exact_tensor_with_gains_is_what_the_precise_graph_would_hold(mini, images, run):
    gains = 2.0 ** np.arange(-4, 12).astype(np.float32)
    pair = beside(mini, to_fp16(equalized(mini, gains)), {"left": gains.reshape(1, -1, 1, 1)})
    exact = run_only(run, pair, images, pair.exact("left"))[pair.exact("left")]
    np.testing.assert_array_equal(exact, run(mini, images, "left")["left"] * gains.reshape(1, -1, 1, 1))
    assert pair.exact("top") == "top"


def test_the_graphs_given_stay_as_they_are(mini, int8):
    before = [ir.to_proto(graph).SerializeToString(deterministic=True) for graph in (mini, int8)]
    beside(mini, int8).only(["top_conv"])
    assert [ir.to_proto(graph).SerializeToString(deterministic=True) for graph in (mini, int8)] == before


def test_a_reference_that_is_not_fp32_is_refused(mini, int8):
    with pytest.raises(InputError, match="layers are compared with the FP32 graph \\(got a reference in FP16\\)"):
        beside(to_fp16(mini), int8)


def test_other_inputs_are_refused(mini, int8):
    int8.graph.inputs.append(ir.Value(name="mask", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1])))
    with pytest.raises(InputError, match="the graphs take different inputs"):
        beside(mini, int8)


def test_another_name_of_the_only_input_is_none_the_less_it(mini, images, run):
    renamed = to_fp16(mini)
    renamed.graph.inputs[0].name = "image"
    pair = beside(mini, renamed)
    error = run_only(run, pair, images, pair.error("top"))[pair.error("top")]
    assert 0 < np.abs(error).max() < 0.1


def test_other_opsets_are_refused(mini, int8):
    int8.opset_imports[""] = 21
    with pytest.raises(InputError, match="the graphs are of different opsets"):
        beside(mini, int8)
