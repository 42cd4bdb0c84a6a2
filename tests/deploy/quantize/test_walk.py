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
