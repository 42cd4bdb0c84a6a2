"""Which channels may be rescaled together, and that rescaling them changes nothing."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from deploy.graph.channels import FIXED, Channels
from deploy.graph.irtools import typed_copy
from deploy.graph.rescale import rescale


def classes(model, name):
    graph = typed_copy(model).graph
    channels = Channels(graph)
    values = {v.name: v for v in (*graph.inputs, *(v for node in graph for v in node.outputs))}
    return channels.per_channel(values[name])


def is_free(model, name):
    found = classes(model, name)
    return found is not None and bool((found != FIXED).all())


def is_fixed(model, name):
    found = classes(model, name)
    return found is None or bool((found == FIXED).all())


def chain(net, kind, **attributes):
    """conv → ``kind`` → conv."""
    inside = net.op(kind, "inside", net.conv("first", "input", (3, 8), 3), **attributes)
    return net.model(net.conv("last", inside, (8, 4)), ["batch", 4, 16, 16])


@pytest.mark.parametrize("kind", ["Relu", "LeakyRelu", "Identity"])
def test_a_chain_shares_its_channels(net, kind):
    model = chain(net, kind)
    assert is_free(model, "first")
    np.testing.assert_array_equal(classes(model, "first"), classes(model, "inside"))
    assert len(set(classes(model, "first"))) == 8
    assert is_fixed(model, "input")
    assert is_fixed(model, "last")


@pytest.mark.parametrize("kind", ["Sigmoid", "HardSwish", "Softplus", "Exp"])
def test_what_is_not_homogeneous_ends_a_chain(net, kind):
    model = chain(net, kind)
    assert is_fixed(model, "first")
    assert is_fixed(model, "inside")


def test_an_add_ties_its_branches(net):
    stem = net.conv("stem", "input", (3, 8))
    block = net.conv("block", net.op("Relu", "relu", net.conv("wide", stem, (8, 16))), (16, 8))
    model = net.model(net.conv("head", net.op("Add", "sum", stem, block), (8, 4)), ["batch", 4, 16, 16])
    assert is_free(model, "sum")
    for name in ("stem", "block"):
        np.testing.assert_array_equal(classes(model, name), classes(model, "sum"))
    assert not set(classes(model, "wide")) & set(classes(model, "sum"))


def test_an_add_of_a_constant_fixes(net):
    shifted = net.op("Add", "shifted", net.conv("first", "input", (3, 8)), net.constant("one", np.float32([1.0])))
    model = net.model(net.conv("last", shifted, (8, 4)), ["batch", 4, 16, 16])
    assert is_fixed(model, "first")


def test_an_output_of_the_graph_fixes_what_it_is_made_of(net):
    model = net.model(net.op("Relu", "out", net.conv("only", "input", (3, 8))), ["batch", 8, 16, 16])
    assert is_fixed(model, "only")


def test_a_weight_read_twice_fixes(net):
    first = net.conv("first", "input", (3, 8))
    second = net.conv("second", first, (8, 8))
    third = net.op("Conv", "third", second, "second.weight", "second.bias")
    model = net.model(net.conv("last", third, (8, 4)), ["batch", 4, 16, 16])
    for name in ("first", "second", "third"):
        assert is_fixed(model, name)


def test_a_shuffle_is_followed_channel_by_channel(net):
    model = net.shuffle()
    graph = typed_copy(model).graph
    transposed = next(node for node in graph if node.op_type == "Transpose")
    concat = next(node for node in graph if node.op_type == "Concat")
    channels = Channels(graph)
    joined = channels.per_channel(concat.outputs[0])
    shuffled = channels.of(transposed.outputs[0]).reshape(-1)
    np.testing.assert_array_equal(shuffled, joined.reshape(2, -1).T.reshape(-1))
    assert (joined != FIXED).all()


def gated(net, pooled_by="ReduceMean"):
    """A squeeze-and-excitation block behind a ReLU, so that the tensor it pools is free as well."""
    relu = net.op("Relu", "relu", net.conv("first", "input", (3, 32)))
    axes = [net.constant("axes", np.int64([2, 3]))] if pooled_by == "ReduceMean" else []
    pool = net.op(pooled_by, "pool", relu, *axes)
    squeezed = net.op("Relu", "squeezed", net.conv("fc1", pool, (32, 8)))
    gate = net.op("Sigmoid", "gate", net.conv("fc2", squeezed, (8, 32)))
    return net.model(net.conv("last", net.op("Mul", "scaled", gate, relu), (32, 4)), ["batch", 4, 16, 16])


@pytest.mark.parametrize("pool", ["ReduceMean", "GlobalAveragePool"])
def test_a_gate_can_take_a_factor(net, pool):
    model = gated(net, pool)
    assert is_free(model, "scaled")
    assert is_fixed(model, "gate")
    np.testing.assert_array_equal(classes(model, "relu"), classes(model, "pool"))
    assert not set(classes(model, "scaled")) & set(classes(model, "relu"))


def head(net, transposed):
    pooled = net.op("GlobalAveragePool", "pool", net.op("Relu", "relu", net.conv("first", "input", (3, 8))))
    flat = net.op("Flatten", "flat", pooled)
    hidden = net.weight("fc.weight", *((6, 8) if transposed else (8, 6)))
    fc = net.op("Gemm", "fc", flat, hidden, net.weight("fc.bias", 6), transB=int(transposed))
    out = net.op("Gemm", "out", net.op("Relu", "active", fc), net.weight("out.weight", 6, 4))
    return net.model(out, ["batch", 4])


MODELS = {
    "chain": lambda net: chain(net, "Relu"),
    "shuffle": lambda net: net.shuffle(),
    "gate": gated,
    "head": lambda net: head(net, transposed=True),
    "head as it is": lambda net: head(net, transposed=False),
}


@pytest.mark.parametrize("name", MODELS)
def test_powers_of_two_change_no_bit(net, name, run):
    model, rng = MODELS[name](net), np.random.default_rng(0)
    gains = 2.0 ** rng.integers(-6, 7, Channels(typed_copy(model).graph).count)
    gains[FIXED] = 1
    images = rng.normal(size=(3, 3, 16, 16)).astype(np.float32)
    rescaled = rescale(model, gains)
    output = model.graph.outputs[0].name
    np.testing.assert_array_equal(run(rescaled, images, output)[output], run(model, images, output)[output])
    before, after = (
        {n: v.const_value.numpy() for n, v in each.graph.initializers.items()} for each in (model, rescaled)
    )
    assert any((before[name] != after[name]).any() for name in before if name.endswith("weight"))


@pytest.mark.parametrize("name", MODELS)
def test_each_tensor_is_multiplied_by_its_factor(net, name, run):
    model, rng = MODELS[name](net), np.random.default_rng(1)
    graph = typed_copy(model).graph
    channels = Channels(graph)
    gains = np.exp(rng.normal(size=channels.count))
    gains[FIXED] = 1
    images = rng.normal(size=(2, 3, 16, 16)).astype(np.float32)
    names = [v.name for node in graph for v in node.outputs]
    before, after = run(model, images, *names), run(rescale(model, gains), images, *names)
    for value in (v for node in graph for v in node.outputs):
        wanted = before[value.name] * gains[channels.of(value)]
        np.testing.assert_allclose(after[value.name], wanted, rtol=2e-4, atol=2e-5 * np.abs(wanted).max())


def test_the_given_graph_is_left_alone(net):
    model = chain(net, "Relu")
    before = {n: v.const_value.numpy().copy() for n, v in model.graph.initializers.items()}
    gains = np.full(Channels(typed_copy(model).graph).count, 2.0)
    gains[FIXED] = 1
    rescale(model, gains)
    for name, value in model.graph.initializers.items():
        np.testing.assert_array_equal(value.const_value.numpy(), before[name])


@pytest.mark.parametrize("kind", ["batch joins another axis", "batch moves", "parts of the batch"])
def test_what_takes_the_batch_apart_is_left_alone(net, kind):
    first = net.conv("first", "input", (3, 8))
    if kind == "batch joins another axis":
        net.op("Reshape", "moved", first, net.constant("shape", np.int64([-1, 4, 16, 16])))
        back = net.op("Reshape", "back", "moved", net.constant("again", np.int64([-1, 8, 16, 16])))
    elif kind == "batch moves":
        back = net.op("Transpose", "back", net.op("Transpose", "moved", first, perm=[1, 0, 2, 3]), perm=[1, 0, 2, 3])
    else:
        back = net.op("Concat", "back", first, first, axis=0)
    model = net.model(net.conv("last", back, (8, 4)), ["rows", 4, 16, 16])
    assert is_fixed(model, "first")


def test_a_second_output_is_no_channels(net):
    net.nodes.append(
        onnx.helper.make_node(
            "MaxPool", [net.conv("first", "input", (3, 8))], ["pool", "at"], name="pool", kernel_shape=[1, 1]
        )
    )
    net.op("Cast", "where", "at", to=1)
    joined = net.op("Add", "joined", "pool", "where")
    model = net.model(net.conv("last", joined, (8, 4)), ["batch", 4, 16, 16])
    assert is_fixed(model, "pool")


def test_one_gate_for_two_tensors(net, run):
    gate = net.op("Sigmoid", "gate", net.op("GlobalAveragePool", "pool", net.conv("first", "input", (3, 8))))
    parts = [net.op("Mul", f"{n}_scaled", net.conv(n, "input", (3, 8)), gate) for n in ("one", "other")]
    model = net.model(net.conv("last", net.op("Add", "sum", *parts), (8, 4)), ["batch", 4, 16, 16])
    gains = np.full(Channels(typed_copy(model).graph).count, 2.0)
    gains[FIXED] = 1
    images = np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32)
    np.testing.assert_array_equal(run(rescale(model, gains), images)["last"], run(model, images)["last"])


def test_a_weight_behind_an_identity_is_left_alone(net, run):
    """As exporters write shared weights, and a graph that nobody simplified has them."""
    shared = net.op("Identity", "shared", net.weight("first.weight", 8, 3, 1, 1))
    model = net.model(net.conv("last", net.op("Conv", "first", "input", shared), (8, 4)), ["batch", 4, 16, 16])
    assert is_fixed(model, "first")
    assert rescale(model, np.ones(Channels(typed_copy(model).graph).count)).graph.outputs[0].name == "last"


def rescaled_alike(model, run):
    """Whether factors of 2 for all channels change nothing of what a model computes."""
    gains = np.full(Channels(typed_copy(model).graph).count, 2.0)
    gains[FIXED] = 1
    images = np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32)
    output = model.graph.outputs[0].name
    return bool((run(rescale(model, gains), images)[output] == run(model, images)[output]).all())


def test_a_gate_whose_batch_has_another_name(net, run):
    """A Reshape to [-1, channels, 1, 1] ends the gate: its batch, and so the product's, are no longer ``batch``."""
    relu = net.op("Relu", "relu", net.conv("first", "input", (3, 8)))
    flat = net.op("Flatten", "flat", net.op("GlobalAveragePool", "pool", relu))
    fc = net.op("Sigmoid", "sigmoid", net.op("Gemm", "fc", flat, net.weight("fc.weight", 8, 8)))
    gate = net.op("Reshape", "gate", fc, net.constant("shape", np.int64([-1, 8, 1, 1])))
    model = net.model(net.conv("last", net.op("Mul", "scaled", relu, gate), (8, 4)), ["batch", 4, 16, 16])
    assert is_free(model, "scaled")
    assert rescaled_alike(model, run)


def test_a_gate_for_more_than_one_class_a_channel(net, run):
    """What is gated is two tensors side by side: no one number a channel takes its factors to those of the result."""
    side = net.op("Concat", "side", *(net.conv(n, "input", (3, 8)) for n in ("left", "right")), axis=3)
    gate = net.op("Sigmoid", "gate", net.op("GlobalAveragePool", "pool", side))
    model = net.model(net.conv("last", net.op("Mul", "scaled", side, gate), (8, 4)), ["batch", 4, 16, 32])
    assert is_fixed(model, "left")
    assert is_fixed(model, "scaled")
    assert rescaled_alike(model, run)


@pytest.mark.parametrize(("shape", "output"), [((8,), [2]), ((3, 8, 5), [3, 2, 5])])
def test_a_product_with_what_is_no_matrix_fixes(net, run, shape, output):
    pooled = net.op("GlobalAveragePool", "pool", net.op("Relu", "relu", net.conv("first", "input", (3, 8))))
    net.op("MatMul", "product", net.op("Flatten", "flat", pooled), net.weight("matrices", *shape))
    model = of_two_images(net.model("product", output))
    assert is_fixed(model, "relu")
    assert rescaled_alike(model, run)


def of_two_images(model):
    """The batch written into every shape: none is unknown."""
    proto = ir.to_proto(model)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    del proto.graph.value_info[:]
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def test_a_bias_read_twice_becomes_two(net, run):
    """Simplifiers make one of equal biases."""
    bias = net.constant("bias", np.linspace(-1, 1, 8, dtype=np.float32))
    for name, source, channels in (("first", "input", 3), ("second", "relu", 8)):
        net.op("Conv", name, source, net.weight(f"{name}.weight", 8, channels, 1, 1), bias)
        net.op("Relu", "relu" if name == "first" else "rectified", name)
    model = net.model(net.conv("last", "rectified", (8, 4)), ["batch", 4, 16, 16])
    assert is_free(model, "first")
    assert is_free(model, "second")
    assert rescaled_alike(model, run)
