"""A graph run piece by piece, against the same graph run at once."""

from __future__ import annotations

import numpy as np
import pytest

from deploy.graph.irtools import typed_copy
from deploy.quantize.walk import Walk, images_in


@pytest.fixture
def graph(mini):
    return typed_copy(mini)


def computed(graph):
    return [value.name for node in graph.graph for value in node.outputs]


def test_every_tensor_is_that_of_the_whole_graph(graph, images, run):
    whole, walk = run(graph, images, *computed(graph)), Walk(graph, {"input": images})
    for name in computed(graph):
        np.testing.assert_allclose(walk.value(name), whole[name], rtol=1e-4, atol=1e-5)
        walk.forget()


@pytest.mark.parametrize("step", [2, 3, 7])
def test_tensors_in_between_need_not_be_asked_for(graph, images, run, step):
    names = computed(graph)[::step]
    whole, walk = run(graph, images, *names), Walk(graph, {"input": images})
    for name in names:
        np.testing.assert_allclose(walk.value(name), whole[name], rtol=1e-4, atol=1e-5)
        walk.forget()


def test_more_images_than_pass_at_once(graph, run):
    images = np.random.default_rng(2).normal(size=(70, 3, 16, 16)).astype(np.float32)
    walk = Walk(graph, {"input": images})
    np.testing.assert_allclose(walk.value("logits"), run(graph, images, "logits")["logits"], rtol=1e-4, atol=1e-5)


def test_sizes_that_the_graph_computes(net, run):
    """Of 70 images the last chunk is smaller: the batch that a Shape tells is another there."""
    net.op(
        "Slice",
        "count",
        net.op("Shape", "shape", "input"),
        net.constant("low", np.int64([0])),
        net.constant("high", np.int64([1])),
    )
    for name, source in (("first", "input"), ("second", "first_more"), ("third", "second_more")):
        conv = net.conv(name, source, (3, 3))
        size = net.op("Concat", f"{name}_size", "count", net.constant(f"{name}_rest", np.int64([3, 1, 16])), axis=0)
        row = net.op("Expand", f"{name}_row", net.weight(f"{name}_token", 1, 3, 1, 16), size)
        net.op("Concat", f"{name}_more", conv, row, axis=2)
    graph = typed_copy(net.model("third_more", ["batch", 3, 19, 16]))
    images = np.random.default_rng(2).normal(size=(70, 3, 16, 16)).astype(np.float32)
    names, walk = ("first_more", "second_more", "third_more"), Walk(graph, {"input": images})
    whole = run(graph, images, *names)
    for name in names:
        np.testing.assert_allclose(walk.value(name), whole[name], rtol=1e-4, atol=1e-5)
        walk.forget()


def test_a_changed_weight_is_seen_behind_it_only(graph, images, run):
    before = run(graph, images, "stem_conv", "left_conv", "logits")
    walk = Walk(graph, {"input": images})
    np.testing.assert_allclose(walk.value("stem_conv"), before["stem_conv"], rtol=1e-4, atol=1e-5)
    weight = graph.graph.initializers["left_conv.weight"].const_value.numpy()
    walk.replace("left_conv.weight", 2 * weight)
    after = run(graph, images, "left_conv", "logits")
    assert np.abs(after["left_conv"] - before["left_conv"]).max() > 0.1
    np.testing.assert_allclose(walk.value("left_conv"), after["left_conv"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(walk.value("logits"), after["logits"], rtol=1e-4, atol=1e-5)


def test_what_nothing_reads_any_more_is_forgotten(graph, images):
    walk = Walk(graph, {"input": images})
    walk.value("left_conv")
    walk.forget()
    kept = {value.name for value in walk._arrays}
    assert kept == {"left_conv"}
    walk.value("top_conv")
    walk.forget()
    assert {value.name for value in walk._arrays} == {"top_conv"}


def test_images_are_as_many_as_memory_holds(graph):
    # The widest moment: deep_conv's input and output, and the stem that the residual Add waits for.
    one = images_in(graph, 1)
    assert one == 2  # fewer say nothing
    many = images_in(graph, 100 << 20)
    largest = 32 * 16 * 16 * 4
    assert (100 << 20) / (4 * largest) <= many <= (100 << 20) / (2 * largest)
