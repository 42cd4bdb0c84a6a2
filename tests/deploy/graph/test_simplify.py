from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxsim
import pytest
from onnx import helper

from deploy.errors import CheckFailed
from deploy.graph.files import to_bytes
from deploy.graph.simplify import leftovers, simplify


def _batch_norm(net, out, source, channels):
    positive = [np.abs(net.rng.standard_normal(channels)).astype(np.float32) + 0.5 for _ in range(2)]
    values = {"scale": positive[0], "var": positive[1]}
    values |= {name: net.rng.standard_normal(channels).astype(np.float32) for name in ("bias", "mean")}
    names = [net.constant(f"{out}.{name}", values[name]) for name in ("scale", "bias", "mean", "var")]
    return net.op("BatchNormalization", out, source, *names)


def _plain(net):
    return net.conv("conv", "input", (3, 4), 3)


def _identity(net):
    return net.op("Identity", "same", _plain(net))


def _dropout(net):
    return net.op("Dropout", "dropped", _plain(net))


def _dropout_of_a_ratio(net):
    """As onnx's version converter leaves those of older opsets."""
    return net.op("Dropout", "dropped", _plain(net), net.constant("ratio", np.float32(0.2)))


def _constant_cast_like(net):
    """As torch's exporter leaves a convolution's missing bias where it is told not to optimize."""
    zero = net.op("CastLike", "cast", net.constant("zero", np.zeros(4)), "input")
    weight = net.weight("w", 4, 3, 1, 1)
    return net.op("Conv", "conv", "input", weight, zero)


def _constant_node(net):
    two = helper.make_tensor("two", onnx.TensorProto.FLOAT, [], [2.0])
    return net.op("Mul", "twice", _plain(net), net.op("Constant", "two", value=two))


def _constant_arithmetic(net):
    ones = net.constant("ones", np.ones((1, 4, 1, 1), np.float32))
    return net.op("Add", "more", _plain(net), net.op("Exp", "e", net.op("Neg", "minus", ones)))


def _batch_norm_after_conv(net):
    return _batch_norm(net, "norm", _plain(net), 4)


PLANTED = {
    _identity: "Identity",
    _dropout: "Dropout",
    _dropout_of_a_ratio: "Dropout",
    _constant_node: "Constant",
    _constant_arithmetic: "Neg",
    _batch_norm_after_conv: "BatchNormalization",
}


def _finish(net, tensor):
    return net.model(net.op("Relu", "logits", tensor), ["batch", 4, 16, 16])


@pytest.mark.parametrize("plant", PLANTED)
def test_what_is_planted_is_found_and_removed(net, plant, images, run):
    model = _finish(net, plant(net))
    before = to_bytes(model)
    assert any(found.startswith(f"{PLANTED[plant]} '") for found in leftovers(model))
    simple = simplify(model)
    assert leftovers(simple) == []
    assert len(simple.graph) < len(model.graph)
    np.testing.assert_allclose(run(simple, images)["logits"], run(model, images)["logits"], rtol=1e-4, atol=1e-5)
    assert to_bytes(model) == before


def test_a_cast_to_the_type_of_an_input_is_folded(net, images, run):
    model = _finish(net, _constant_cast_like(net))
    simple = simplify(model)
    assert [node.op_type for node in simple.graph] == ["Conv", "Relu"]
    np.testing.assert_allclose(run(simple, images)["logits"], run(model, images)["logits"], rtol=1e-4, atol=1e-5)


def test_a_dropout_in_training_stays(net):
    yes, ratio = net.constant("yes", np.array(True)), net.constant("ratio", np.float32(0.2))
    model = _finish(net, net.op("Dropout", "dropped", _plain(net), ratio, yes))
    assert "Dropout" in {node.op_type for node in simplify(model, strict=False).graph}
    with pytest.raises(CheckFailed, match="Dropout"):
        simplify(model)


def test_a_clean_graph_keeps_every_node(mini, images, run):
    assert leftovers(mini) == []
    simple = simplify(mini)
    assert sorted(node.op_type for node in simple.graph) == sorted(node.op_type for node in mini.graph)
    np.testing.assert_allclose(run(simple, images)["logits"], run(mini, images)["logits"], rtol=1e-4, atol=1e-5)


def test_batch_norms_that_cannot_be_folded_are_no_leftovers(net):
    """One follows no convolution, of the others' convolutions something else reads the result too."""
    first = _batch_norm(net, "first", "input", 3)
    shared = net.conv("shared", first, (3, 4))
    both = net.op("Add", "both", _batch_norm(net, "second", shared, 4), shared)
    seen = net.conv("seen", both, (4, 4))
    model = _finish(net, _batch_norm(net, "third", seen, 4))
    model.graph.outputs.append(next(node.outputs[0] for node in model.graph if node.name == "seen_node"))
    assert leftovers(model) == []
    assert sum(node.op_type == "BatchNormalization" for node in simplify(model).graph) == 3


def test_quantized_weights_stay_quantized(net):
    levels = net.constant("levels", net.rng.integers(-127, 127, (4, 3, 1, 1)).astype(np.int8))
    weight = net.op("DequantizeLinear", "weight", levels, net.constant("scale", np.float32(0.1)))
    assert leftovers(_finish(net, net.op("Conv", "conv", "input", weight))) == []


def test_random_numbers_are_not_constant(net):
    noise = net.op("RandomNormal", "noise", shape=[1, 4, 1, 1], seed=1.0)
    assert leftovers(_finish(net, net.op("Add", "noisy", _plain(net), noise))) == []


def test_the_exported_network(exported, digit_images, run):
    images = digit_images[0][:8]
    simple = simplify(exported)
    assert len(simple.graph) <= len(exported.graph)
    assert simple.ir_version == exported.ir_version == 10
    assert simple.opset_imports == exported.opset_imports
    np.testing.assert_allclose(run(simple, images)["logits"], run(exported, images)["logits"], rtol=1e-3, atol=1e-4)
    names = [node.name for node in simple.graph]
    assert all(names)
    assert len(set(names)) == len(names)


def test_a_simplifier_that_leaves_something_fails(net, monkeypatch):
    model = _finish(net, _identity(net))
    monkeypatch.setattr(onnxsim, "simplify", lambda proto: (proto, True))
    with pytest.raises(CheckFailed, match=r"still holds .*got Identity 'same_node'\). Export with --no-simplify"):
        simplify(model)


def test_a_simplifier_that_gives_up_fails(mini, monkeypatch):
    monkeypatch.setattr(onnxsim, "simplify", lambda proto: (proto, False))
    with pytest.raises(CheckFailed, match="got onnxsim gave up"):
        simplify(mini)


def test_a_graph_that_onnxsim_refuses(mini):
    mini.graph[0].replace_input_with(0, ir.Value(name="nowhere"))
    with pytest.raises(CheckFailed, match=r"onnxsim cannot read the graph \(got .*nowhere"):
        simplify(mini)


def test_a_simplifier_that_raises_the_ir_version_is_overruled(mini, monkeypatch):
    """Newer versions do not load in JetPack's parsers."""

    def newer(proto):
        proto.ir_version = 12
        return proto, True

    monkeypatch.setattr(onnxsim, "simplify", newer)
    assert simplify(mini).ir_version == 10
