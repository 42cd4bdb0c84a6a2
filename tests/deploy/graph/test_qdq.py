from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.errors import InputError
from deploy.graph.fp16 import to_fp16
from deploy.graph.placement import Edge, place
from deploy.graph.qdq import insert_qdq, quantize_weight, scale_of, shared_amax


@pytest.fixture
def placement(mini):
    return place(mini)


@pytest.fixture
def amax(mini, placement, ranges):
    return ranges(mini, placement.tensors)


def _node(model, name):
    return next(node for node in model.graph if node.name == name)


def _sqnr(reference, other):
    return 10 * np.log10(np.sum(reference**2) / np.sum((other - reference) ** 2))


def test_int8_computes_what_fp32_does(mini, placement, amax, images, run):
    expected = run(mini, images)["logits"]
    quantized = insert_qdq(mini, placement, amax)
    for model in (quantized, to_fp16(quantized)):
        assert _sqnr(expected, run(model, images)["logits"]) > 25


def test_one_pair_per_tensor_shared_by_its_readers(mini, placement, amax):
    model = insert_qdq(mini, placement, amax)
    names = [node.name for node in model.graph if node.op_type == "QuantizeLinear"]
    assert sorted(names) == sorted(f"{tensor}/QuantizeLinear" for tensor in placement.tensors)
    readers = {node.name for node in _node(model, "stem/DequantizeLinear").outputs[0].consumers()}
    assert readers == {"wide_conv_node", "block_node"}
    # The conv branch of the Add and the gates read what they always did.
    assert _node(model, "block_node").inputs[0].name == "project"
    assert _node(model, "fc1_node").inputs[0].name == "pooled"


def test_the_artefact_is_fp16_around_int8(mini, placement, amax):
    model = to_fp16(insert_qdq(mini, placement, amax))
    assert model.graph.initializers["wide_conv.weight/quantized"].dtype is ir.DataType.INT8
    assert model.graph.initializers["wide/scale"].dtype is ir.DataType.FLOAT16
    assert "wide_conv.weight" not in model.graph.initializers
    assert model.graph.initializers["wide_conv.bias"].dtype is ir.DataType.FLOAT16
    # The input is quantized as it comes: no Cast before its Q, none between Q/DQ and the convolution.
    assert _node(model, "input/QuantizeLinear").inputs[0].is_graph_input()
    assert [node.outputs[0].name for node in model.graph if node.op_type == "Cast"] == ["logits"]


def test_kept_fp32_nodes_read_int8_without_casts(mini, placement, amax, images, run):
    model = to_fp16(insert_qdq(mini, placement, amax), ["deep_conv_node"])
    assert _node(model, "wide/DequantizeLinear").outputs[0].dtype is ir.DataType.FLOAT
    assert all(value.dtype is ir.DataType.FLOAT for value in _node(model, "deep_conv_node").inputs)
    run(model, images)


def test_scales_survive_fp16(mini, placement, amax):
    single = insert_qdq(mini, placement, amax).graph.initializers
    half = to_fp16(insert_qdq(mini, placement, amax)).graph.initializers
    scales = [name for name in half if name.endswith("/scale")]
    assert len(scales) == len(placement.tensors) + len(placement.weights)
    for name in scales:
        np.testing.assert_array_equal(single[name].const_value.numpy(), half[name].const_value.numpy())


def test_weights_are_quantized_with_the_stored_scale(mini, placement, amax):
    weight = mini.graph.initializers["deep_conv.weight"].const_value.numpy()
    stored = insert_qdq(mini, placement, amax).graph.initializers
    scale = stored["deep_conv.weight/scale"].const_value.numpy().reshape(-1, 1, 1, 1)
    error = stored["deep_conv.weight/quantized"].const_value.numpy() * scale - weight
    assert np.all(np.abs(error) <= scale * 0.5000001)


@given(st.floats(2**-24 * 127, 65504 * 127, exclude_max=True))
def test_scales_are_fp16_and_never_clip(amax):
    scale = float(scale_of(amax))
    assert scale == float(np.float16(scale))
    assert scale * 127 >= amax
    # One FP16 step above the exact scale at most.
    assert scale <= max(amax / 127 * (1 + 2**-10), amax / 127 + 2**-24)


def test_scale_of_a_dead_channel_is_the_smallest_fp16_number():
    quantized = quantize_weight(np.array([[0.0, 0.0], [1e-9, -1e-9], [1e-5, -1e-5]], np.float32), 0)
    np.testing.assert_array_equal(quantized.scale[:2], [2.0**-24] * 2)
    np.testing.assert_array_equal(quantized.levels[:2], 0)
    assert np.abs(quantized.levels[2]).max() >= 63


def test_weight_levels_are_symmetric():
    levels = quantize_weight(np.linspace(-1, 1, 1001, dtype=np.float32)[None], 0).levels
    assert (levels.min(), levels.max()) == (-127, 127)


def test_members_of_a_group_get_the_widest_range(mini, placement, amax):
    wide = {**amax, "left": 3.0, "joined": 5.0}
    assert shared_amax(placement, wide)["left"] == 5.0
    scales = insert_qdq(mini, placement, wide).graph.initializers
    assert scales["left/scale"].const_value.numpy() == scales["joined/scale"].const_value.numpy()


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf"), None])
def test_unusable_ranges_name_their_tensor(mini, placement, amax, bad):
    broken = {**amax, "wide": bad}
    with pytest.raises(InputError, match="tensor 'wide' has no usable range"):
        insert_qdq(mini, placement, broken)


def test_a_range_beyond_fp16_scales(mini, placement, amax):
    with pytest.raises(InputError, match="tensor 'wide' needs a scale beyond FP16"):
        insert_qdq(mini, placement, {**amax, "wide": 1e7})


def test_a_weight_with_nan(mini, placement, amax):
    broken = mini.graph.initializers["wide_conv.weight"].const_value.numpy().copy()
    broken[0] = np.nan
    mini.graph.initializers["wide_conv.weight"].const_value = ir.Tensor(broken, name="wide_conv.weight")
    with pytest.raises(InputError, match="weight 'wide_conv.weight' cannot be quantized.*nan"):
        insert_qdq(mini, placement, amax)


@pytest.mark.parametrize(
    ("other", "missing"),
    [
        ({"weights": {"nothing": 0}}, "no weight 'nothing'"),
        ({"activations": (Edge("x", "y", 0),), "shared_scale": ()}, "no tensor 'x'"),
    ],
)
def test_a_placement_of_another_graph(mini, placement, amax, other, missing):
    with pytest.raises(InputError, match=f"the placement is of another graph.*{missing}"):
        insert_qdq(mini, replace(placement, **other), {**amax, "x": 1.0})


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_nvidias_parser_and_builder_take_it(mini, placement, amax, precision):
    trt = pytest.importorskip("tensorrt_rtx")
    # A channel that batch norm folding left almost dead: its scale is subnormal in FP16.
    weight = mini.graph.initializers["deep_conv.weight"].const_value.numpy().copy()
    weight[0] *= 1e-5
    mini.graph.initializers["deep_conv.weight"].const_value = ir.Tensor(weight, name="deep_conv.weight")
    model = to_fp16(mini if precision == "fp16" else insert_qdq(mini, placement, amax))
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(ir.to_proto(model).SerializeToString()), parser.get_error(0).desc()
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    profile.set_shape("input", *[(batch, 3, 16, 16) for batch in (1, 2, 8)])
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None
