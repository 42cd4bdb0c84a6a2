"""Factors for channels: the model of the noise, its minimum, and what comes of them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from deploy.errors import InputError
from deploy.graph.channels import FIXED
from deploy.graph.placement import place
from deploy.graph.qdq import insert_qdq
from deploy.quantize.calibrate import calibrate, observe
from deploy.quantize.equalize import (
    STEPS,
    _Activation,
    _Weight,
    decode,
    encode,
    equalization,
    equalized,
    factors,
    fits,
    scaled,
    tensor_gains,
)
from deploy.quantize.noise import importance, observed_tensors
from deploy.quantize.observers import ChannelObserver


@pytest.fixture
def data(images, photos):
    return photos(np.concatenate([images, 2 * images, images[::-1]]))


def seen_of(model, data):
    placement = place(model)
    seen = {name: ChannelObserver() for name in observed_tensors(model, placement)}
    observe(model, seen, data)
    return placement, seen


@pytest.fixture
def narrow(net):
    """conv → ReLU → depthwise → ReLU → conv, half of whose inner channels are a hundred times narrower."""
    net.conv("first", "input", (3, 32))
    net.conv("deep", net.op("Relu", "relu", "first"), (32, 32), 3, group=32)
    model = net.model(net.conv("last", net.op("Relu", "deep_relu", "deep"), (32, 16)), ["batch", 16, 16, 16])
    thin = np.where(np.arange(32) % 2, 1, 100).astype(np.float32)
    for name, change in {
        "first.weight": lambda w: w / thin.reshape(-1, 1, 1, 1),
        "first.bias": lambda b: b / thin,
        "deep.weight": lambda w: w * thin.reshape(-1, 1, 1, 1),
    }.items():
        value = model.graph.initializers[name]
        value.const_value = ir.Tensor(change(value.const_value.numpy()).astype(np.float32), name=name)
    return model, thin


def sqnr(run, reference, precise, images):
    (wanted,), (got,) = (run(model, images).values() for model in (reference, precise))
    return 10 * np.log10(np.square(wanted).sum() / np.square(got - wanted).sum())


def quantized(model, data):
    placement, seen = seen_of(model, data)
    counted = importance(model, placement, seen)
    return insert_qdq(model, placement, calibrate(model, placement.tensors, data, importance=counted).amax)


def test_narrow_channels_are_widened_and_the_noise_falls(narrow, data, images, run):
    model, thin = narrow
    placement, seen = seen_of(model, data)
    steps = equalization(model, placement, seen)
    gain = tensor_gains(model, encode(steps))["relu"].reshape(-1)
    ratio = gain[thin == 100].mean() / gain[thin == 1].mean()
    assert 50 < ratio < 200
    better = equalized(model, encode(steps))
    assert sqnr(run, model, better, images) > 100  # the same function
    assert sqnr(run, model, quantized(better, data), images) > sqnr(run, model, quantized(model, data), images) + 3


def test_what_was_seen_is_scaled_without_looking_again(narrow, data):
    model, _ = narrow
    placement, seen = seen_of(model, data)
    steps = equalization(model, placement, seen)
    _, again = seen_of(equalized(model, encode(steps)), data)
    for name, observer in scaled(model, steps, seen).items():
        np.testing.assert_allclose(observer.peaks, again[name].peaks, rtol=1e-3)
        np.testing.assert_allclose(observer.mean_square, again[name].mean_square, rtol=1e-3)
        assert observer.amax == pytest.approx(again[name].amax, rel=1e-3)


def test_equal_channels_are_left_alone_where_nothing_is_gained(mini, data):
    placement, seen = seen_of(mini, data)
    steps = equalization(mini, placement, seen)
    assert steps[0] == 0
    assert np.abs(steps).max() <= 3 * STEPS  # within a factor of 8: these weights are alike


def difference(source, logarithm, index):
    step = np.zeros_like(logarithm)
    step[index] = 1e-5
    return (source.noise(logarithm + step)[0] - source.noise(logarithm - step)[0]) / 2e-5


@pytest.mark.parametrize("kind", ["activation", "weight"])
def test_gradients_are_those_of_the_noise(kind):
    rng = np.random.default_rng(0)
    classes = rng.permutation(12).reshape(2, 6)
    logarithm = rng.normal(size=12)
    if kind == "activation":
        source = _Activation(classes.reshape(-1), rng.uniform(1, 9, 12), rng.uniform(0, 1, 12))
    else:
        source = _Weight(classes, rng.uniform(0, 1, (2, 5, 6)), rng.uniform(1, 2, (2, 6)))
    _, gradient = source.noise(logarithm)
    for position, index in enumerate(classes.reshape(-1)):
        assert gradient.reshape(-1)[position] == pytest.approx(
            difference(source, logarithm, index), rel=1e-4, abs=1e-12
        )


def test_one_factor_for_all_changes_no_noise():
    rng = np.random.default_rng(1)
    source = _Activation(np.arange(6), rng.uniform(1, 9, 6), rng.uniform(0, 1, 6))
    assert source.noise(np.full(6, 2.0))[0] == pytest.approx(source.noise(np.zeros(6))[0])


def test_factors_travel_as_text(narrow, data):
    model, _ = narrow
    steps = equalization(model, *seen_of(model, data))
    np.testing.assert_array_equal(decode(encode(steps)), steps)
    assert fits(model, encode(steps))
    np.testing.assert_allclose(factors(np.int8([0, STEPS, -2 * STEPS])), [1, 2, 0.25])


def test_factors_of_another_graph_are_refused(narrow):
    model, _ = narrow
    text = encode(np.zeros(7, np.int8))
    assert not fits(model, text)
    with pytest.raises(InputError, match="not from this FP32 graph"):
        equalized(model, text)
    with pytest.raises(InputError, match="cannot be read"):
        decode("no base64!")


@pytest.mark.parametrize("tokens", [16, 256])
def test_products_of_tokens_have_no_channels_to_equalize(net, data, images, run, tokens):
    """Axis 1 counts the tokens, and with 16 of them there are as many as values."""
    values = 4096 // tokens
    shape = net.constant("shape", np.int64([0, tokens, values]))
    first = net.op("Reshape", "tokens", net.conv("stem", "input", (3, 16), 3), shape)
    hidden = net.op("Relu", "relu", net.op("MatMul", "product", first, net.weight("product.weight", values, tokens)))
    last = net.op("MatMul", "last", hidden, net.weight("last.weight", tokens, 16))
    model = net.model(last, ["batch", tokens, 16])
    placement, seen = seen_of(model, data)
    assert {"product.weight", "last.weight"} <= set(placement.weights)
    steps = equalization(model, placement, seen)
    assert not steps[FIXED]
    (wanted,), (got,) = (run(each, images).values() for each in (model, equalized(model, encode(steps))))
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
