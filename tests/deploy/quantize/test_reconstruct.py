"""Corrections layer by layer: what each part does to a network's error on images it was not fitted to."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from deploy.errors import InputError
from deploy.graph.placement import place
from deploy.graph.qdq import insert_qdq, quantize_weight
from deploy.quantize.calibrate import calibrate, observe
from deploy.quantize.least_squares import Moments
from deploy.quantize.noise import importance, observed_tensors
from deploy.quantize.observers import ChannelObserver
from deploy.quantize.patches import Layer
from deploy.quantize.recipe import PARTS, RECIPES, Recipe
from deploy.quantize.reconstruct import corrected_biases, reconstruct


@pytest.fixture
def held_out():
    return np.random.default_rng(7).normal(size=(64, 3, 16, 16)).astype(np.float32)


@pytest.fixture
def data(photos):
    return photos(np.random.default_rng(3).normal(size=(96, 3, 16, 16)).astype(np.float32))


@pytest.fixture
def coarse(mini, data):
    """Ranges that clip a good part of the values: errors that a layer can foresee."""
    placement = place(mini)
    amax = calibrate(mini, placement.tensors, data, "max").amax
    return placement, {name: 0.35 * value for name, value in amax.items()}


def only(*parts):
    return Recipe("best", tuple(part for part in RECIPES["best"] if part in parts))


def error(mini, coarse, data, held_out, run, recipe, output="logits"):
    placement, amax = coarse
    found = reconstruct(mini, placement, amax, data, recipe)
    graph = insert_qdq(corrected_biases(mini, placement, found), placement, amax, found.weights)
    wanted, got = run(mini, held_out)[output], run(graph, held_out)[output]
    return np.square(got - wanted).sum() / np.square(wanted).sum()


@pytest.fixture
def plain(mini, coarse, data, held_out, run):
    return error(mini, coarse, data, held_out, run, Recipe("best", ()))


def test_without_any_part_weights_are_rounded_to_nearest(mini, coarse, data):
    """What that does to a layer's mean is made up for by its bias all the same."""
    placement, amax = coarse
    found = reconstruct(mini, placement, amax, data, Recipe("best", ()))
    for name, weight in found.weights.items():
        nearest = quantize_weight(mini.graph.initializers[name].const_value.numpy(), weight.axis)
        np.testing.assert_array_equal(weight.levels, nearest.levels)
        np.testing.assert_array_equal(weight.scale, nearest.scale)


def test_reconstruction_reads_what_it_needs_where_it_is_precise(net, data, held_out, run):
    """Each channel comes twice, once twenty times narrower, and only the narrow one is read: INT8 leaves little of
    it. The wide one, which nobody reads, says the same."""
    net.conv("last", net.op("Relu", "relu", net.conv("first", "input", (3, 32))), (32, 16))
    model = net.model("last", ["batch", 16, 16, 16])
    narrow, first = np.arange(32) >= 16, model.graph.initializers["first.weight"].const_value.numpy().copy()
    first[narrow] = first[~narrow] / 20
    last = model.graph.initializers["last.weight"].const_value.numpy() * np.where(narrow, 20, 0).reshape(1, -1, 1, 1)
    for name, array in {"first.weight": first, "first.bias": np.zeros(32), "last.weight": last}.items():
        model.graph.initializers[name].const_value = ir.Tensor(array.astype(np.float32), name=name)
    placement = place(model)
    ranges = placement, calibrate(model, placement.tensors, data, "max").amax
    before = error(model, ranges, data, held_out, run, Recipe("best", ()), "last")
    after = error(model, ranges, data, held_out, run, only("reconstruction"), "last")
    assert before > 1e-3
    assert after < before / 2


def test_bias_correction_takes_some_of_it_back(mini, coarse, data, held_out, run, plain):
    assert error(mini, coarse, data, held_out, run, only("bias-correction")) < plain


@pytest.mark.parametrize("part", [part for part in PARTS if part != "equalization"])
def test_no_part_does_harm(mini, coarse, data, held_out, run, plain, part):
    assert error(mini, coarse, data, held_out, run, only(part)) < 1.02 * plain


def test_the_whole_recipe_is_better_than_nothing(mini, coarse, data, held_out, run, plain):
    assert error(mini, coarse, data, held_out, run, Recipe.of("best")) < 0.95 * plain


def test_the_same_images_give_the_same_weights(mini, coarse, data):
    first, again = (reconstruct(mini, *coarse, data, Recipe.of("best")) for _ in range(2))
    assert first.images == again.images == 96
    for name, weight in first.weights.items():
        np.testing.assert_array_equal(weight.levels, again.weights[name].levels)
        np.testing.assert_array_equal(weight.scale, again.weights[name].scale)


def test_every_quantized_layer_is_corrected_and_told_of(mini, coarse, data):
    done = []
    found = reconstruct(mini, *coarse, data, Recipe.of("best"), lambda *step: done.append(step))
    assert set(found.weights) == set(coarse[0].weights)
    assert done == [(index + 1, len(found.weights)) for index in range(len(found.weights))]


def test_a_layer_without_a_bias_gets_one(net, photos, data, run, held_out):
    inner = net.op("Conv", "inner", net.conv("stem", "input", (3, 16)), net.weight("inner.weight", 16, 16, 1, 1))
    model = net.model(net.conv("last", net.op("Relu", "relu", inner), (16, 16)), ["batch", 16, 16, 16])
    placement = place(model)
    amax = dict.fromkeys(placement.tensors, 20.0)
    found = reconstruct(model, placement, amax, data, only("bias-correction"))
    corrected = corrected_biases(model, placement, found)
    node = next(node for node in corrected.graph if node.name == "inner_node")
    assert len(node.inputs) == 3
    np.testing.assert_array_equal(node.inputs[2].const_value.numpy(), found.biases["inner_node"])
    assert np.abs(found.biases["inner_node"]).max() > 0
    run(corrected, held_out)


def test_layers_that_return_to_fp16_keep_their_own_biases(mini, coarse, data):
    found = reconstruct(mini, *coarse, data, Recipe.of("best"))
    fewer = place(mini, {"left_conv_node": "a test"})
    graph = corrected_biases(mini, fewer, found).graph
    own = mini.graph.initializers["left_conv.bias"].const_value.numpy()
    np.testing.assert_array_equal(graph.initializers["left_conv.bias"].const_value.numpy(), own)
    np.testing.assert_array_equal(
        graph.initializers["right_conv.bias"].const_value.numpy(), found.biases["right_conv_node"]
    )


def test_one_image_is_not_enough(mini, coarse, photos, images):
    with pytest.raises(InputError, match="corrections need images"):
        reconstruct(mini, *coarse, photos(images[:1]), Recipe.of("best"))


@pytest.mark.parametrize("batch", [1, 4])
def test_a_fixed_batch(net, photos, batch):
    """Its Reshape has the batch written into it."""
    model = net.model(fixed(net, batch), [batch, 20])
    model.graph.inputs[0].shape = ir.Shape([batch, 3, 16, 16])
    data = photos(np.random.default_rng(3).normal(size=(10, 3, 16, 16)).astype(np.float32))
    placement = place(model)
    amax = dict.fromkeys(placement.tensors, 4.0)
    assert reconstruct(model, placement, amax, data, Recipe.of("best")).images == 10 - 10 % batch


def fixed(net, batch):
    pooled = net.op("GlobalAveragePool", "pool", net.op("Relu", "relu", net.conv("first", "input", (3, 32))))
    flat = net.op("Reshape", "flat", pooled, net.constant("shape", np.int64([batch, 32])))
    return net.op("Gemm", "out", flat, net.weight("out.weight", 32, 20))


def test_tokens_in_place_of_channels(net, data, run, held_out):
    """A product along the last axis of three, as transformers have: it is quantized, and its scale counts all alike."""
    tokens = net.op(
        "Reshape", "tokens", net.conv("stem", "input", (3, 16), 3), net.constant("shape", np.int64([0, 16, 256]))
    )
    product = net.op("MatMul", "product", net.op("Sigmoid", "soft", tokens), net.weight("product.weight", 256, 24))
    model = net.model(product, ["batch", 16, 24])
    placement = place(model)
    assert "soft" in placement.tensors
    seen = {name: ChannelObserver() for name in observed_tensors(model, placement)}
    observe(model, seen, data)
    counted = importance(model, placement, seen)
    amax = calibrate(model, placement.tensors, data, importance=counted).amax
    found = reconstruct(model, placement, amax, data, Recipe.of("best"))
    assert "product.weight" not in found.weights
    run(insert_qdq(corrected_biases(model, placement, found), placement, amax, found.weights), held_out)


@pytest.mark.parametrize("added", ["computed", "a row for each image"])
def test_what_a_gemm_adds_need_not_be_a_bias(net, data, run, held_out, added):
    """A residual addition that was fused into the product stays what it is."""
    pooled = net.op("GlobalMaxPool", "pool", net.op("Relu", "relu", net.conv("stem", "input", (3, 24), 3)))
    flat = net.op("Flatten", "flat", pooled)
    other = flat if added == "computed" else net.weight("rows", 64, 24)
    last = net.op("Gemm", "last", net.op("Relu", "again", flat), net.weight("last.weight", 24, 24), other)
    model = net.model(last, ["batch", 24])
    placement = place(model)
    assert "last.weight" in placement.weights
    amax = calibrate(model, [*placement.tensors], data.sample(64), "max", batch_size=64).amax
    found = reconstruct(model, placement, amax, data.sample(64), Recipe.of("best"))
    graph = insert_qdq(corrected_biases(model, placement, found), placement, amax, found.weights)
    wanted, got = run(model, held_out)["last"], run(graph, held_out)["last"]
    assert np.square(got - wanted).sum() < 1e-3 * np.square(wanted).sum()


def test_a_layer_too_wide_to_be_fitted_has_no_second_moments(net, photos, monkeypatch):
    """Square in its inputs: of the 25088 of VGG's first product they would be 5 GB each."""
    flat = net.op("Flatten", "flat", net.op("Relu", "relu", net.conv("first", "input", (3, 32), 3)))
    model = net.model(net.op("Gemm", "out", flat, net.weight("out.weight", 8192, 20)), ["batch", 20])
    placement, seen = place(model), {}
    of = Moments.of

    def watched(patches, results, second=True):
        found = of(patches, results, second)
        seen[patches.shape[2]] = found.pp.size
        return found

    monkeypatch.setattr(Moments, "of", watched)
    data = photos(np.random.default_rng(3).normal(size=(8, 3, 16, 16)).astype(np.float32))
    found = reconstruct(model, placement, dict.fromkeys(placement.tensors, 4.0), data, Recipe.of("best"))
    assert seen == {27: 27 * 27, 8192: 0}
    np.testing.assert_array_equal(
        found.weights["out.weight"].levels,
        quantize_weight(model.graph.initializers["out.weight"].const_value.numpy(), 1).levels,
    )


def test_patches_are_summed_in_bounded_memory(mini, coarse, data, monkeypatch):
    wanted = reconstruct(mini, *coarse, data, Recipe.of("best"))
    largest = []
    patches = Layer.patches

    def watched(layer, x):
        found = patches(layer, x)
        largest.append(found.size * 12)
        return found

    monkeypatch.setattr(Layer, "patches", watched)
    monkeypatch.setattr("deploy.quantize.reconstruct.PATCH_MEMORY", 1 << 20)
    found = reconstruct(mini, *coarse, data, Recipe.of("best"))
    assert max(largest) <= 1 << 20
    for name, bias in wanted.biases.items():
        np.testing.assert_allclose(found.biases[name], bias, atol=0.05 * np.abs(bias).max())


def test_a_fixed_batch_is_filled_whatever_memory_holds(net, photos, monkeypatch):
    monkeypatch.setattr("deploy.quantize.reconstruct.MEMORY", 1)
    model = net.model(fixed(net, 8), [8, 20])
    model.graph.inputs[0].shape = ir.Shape([8, 3, 16, 16])
    images = np.random.default_rng(3).normal(size=(20, 3, 16, 16)).astype(np.float32)
    placement = place(model)
    amax = dict.fromkeys(placement.tensors, 4.0)
    assert reconstruct(model, placement, amax, photos(images), Recipe.of("best")).images == 8
    with pytest.raises(InputError, match=r"got 7 readable of 7 arrays; expected 8, better some hundred"):
        reconstruct(model, placement, amax, photos(images[:7]), Recipe.of("best"))
