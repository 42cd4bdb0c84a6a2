"""Negative controls: damage of each kind must fail the verdict that its undamaged twin passes.

The network is trained and sees scans it was not trained on; on random weights these figures would prove nothing.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from deploy.graph.files import to_bytes
from deploy.graph.fp16 import to_fp16
from deploy.graph.twin import precision_of, twin
from deploy.parity.judge import compare_runners
from deploy.parity.limits import DEFAULT_LIMITS
from deploy.runtime.onnxrt import OnnxRunner

# Every sixth convolution and both linear layers.
CONVOLUTIONS = (
    "features.0.0",
    "features.2.block.1.0",
    "features.4.block.1.0",
    "features.5.block.2.fc1",
    "features.7.block.3.0",
    "features.10.block.1.0",
    "features.11.block.2.fc1",
    "classifier.0",
    "classifier.3",
)


@pytest.fixture
def images(digit_images):
    return digit_images[0]


@pytest.fixture
def verdict(images):
    """Why a graph fails against a reference; empty where it passes."""

    def verdict(reference, judged):
        runners = [OnnxRunner(to_bytes(graph), device="cpu", threads=1) for graph in (reference, twin(judged))]
        batches = [{"input": images[start : start + 16]} for start in range(0, 64, 16)]
        (outputs,) = compare_runners(runners[0], runners[1:], batches)
        return DEFAULT_LIMITS[precision_of(judged)].failures(outputs["logits"])

    return verdict


def change(graph, name, how):
    """Replace an initializer, keeping its type."""
    value = graph.graph.initializers[name]
    array = value.const_value.numpy()
    value.const_value = ir.Tensor(how(array.copy()).astype(array.dtype), name=name)


def array(graph, name):
    return graph.graph.initializers[name].const_value.numpy()


def swap_first_two(weights):
    weights[[0, 1]] = weights[[1, 0]]
    return weights


def test_undamaged_graphs_pass(exported, int8, verdict):
    assert verdict(exported, exported) == []
    assert verdict(exported, to_fp16(exported)) == []
    assert verdict(exported, int8) == []


@pytest.mark.parametrize("layer", CONVOLUTIONS)
def test_two_swapped_output_channels_fail_fp32(exported, verdict, layer):
    damaged = exported.clone()
    change(damaged, f"{layer}.weight", swap_first_two)
    (reason,) = verdict(exported, damaged)
    assert reason.startswith("relative error")


@pytest.mark.parametrize("layer", ["features.0.0", "features.7.block.0.0", "features.9.block.0.0"])
def test_permuted_output_channels_fail_int8(exported, int8, verdict, layer):
    change(int8, f"{layer}.weight/quantized", lambda levels: np.roll(levels, 1, axis=0))
    (reason,) = verdict(exported, int8)
    assert reason.startswith("SQNR")


def test_a_swapped_scale_fails_int8(exported, int8, verdict):
    """The tensors of the widest and of the narrowest range: their scales differ by a factor of 5."""
    scales = {name: array(int8, name) for name in int8.graph.initializers if name.endswith("/scale")}
    tensors = {name: scale for name, scale in scales.items() if scale.ndim == 0}
    small, large = min(tensors, key=tensors.get), max(tensors, key=tensors.get)
    assert tensors[large] > 4 * tensors[small]
    change(int8, small, lambda scale: tensors[large])
    change(int8, large, lambda scale: tensors[small])
    (reason,) = verdict(exported, int8)
    assert reason.startswith("SQNR")


def scaled_up(graph, factor):
    """The same function, but a tensor inside is ``factor`` times as large: ReLU lets positive factors through."""
    result = graph.clone()
    for name in ("features.2.block.0.0.weight", "features.2.block.0.0.weight_bias"):
        change(result, name, lambda values: values * factor)
    change(result, "features.2.block.1.0.weight", lambda weights: weights / factor)
    return result


def test_an_fp16_overflow_fails(exported, images, verdict):
    factor = 2**15  # a power of two: FP32 computes the same bits
    weight = np.abs(array(exported, "features.2.block.0.0.weight")).max()
    assert weight * factor < 65504, "a weight beyond FP16 would be kept in FP32, and nothing would overflow"
    overflowing = scaled_up(exported, factor)
    assert verdict(exported, overflowing) == []
    assert verdict(exported, to_fp16(overflowing)) == ["NaN or infinity in the output"]
    kept = [node.name for node in overflowing.graph if node.name.startswith("features.2.block.")]
    assert verdict(exported, to_fp16(overflowing, kept)) == []


def test_a_network_that_answers_every_image_alike_proves_nothing(exported, verdict):
    constant = exported.clone()
    change(constant, "classifier.3.weight", np.zeros_like)
    (reason,) = verdict(constant, constant)
    assert "answers every input alike" in reason


def test_a_network_of_tiny_logits_proves_nothing_but_fails_all_the_same(exported, verdict):
    """Absolute tolerances would pass this one: every error is below 1e-9."""
    tiny = exported.clone()
    for name in ("classifier.3.weight", "classifier.3.bias"):
        change(tiny, name, lambda values: values * 1e-9)
    damaged = tiny.clone()
    change(damaged, "features.0.0.weight", swap_first_two)
    assert verdict(tiny, tiny) == []
    assert verdict(tiny, damaged) != []
