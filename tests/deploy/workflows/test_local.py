"""One wrong weight or scale must be found wherever it is, although the output may hardly show it."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
import pytest

from deploy.data.arrays import ArraySource
from deploy.graph.fp16 import to_fp16
from deploy.specs import TensorSpec
from deploy.workflows.local import local_failures

# Below this ratio some swaps cost less than the choice of another calibration method: on tensors with long tails a
# factor of 2 lost 7 dB, one of 3 lost 10 dB. Above it one of 13 still does.
TOLD_APART = 4.0


@pytest.fixture
def data(digit_images, tmp_path):
    np.savez(tmp_path / "scans.npz", input=digit_images[0])
    return ArraySource(tmp_path / "scans.npz", [TensorSpec("input", "float32", ("batch", 3, 64, 64))])


def arrays(graph, suffix, dimensions):
    values = {name: value.const_value.numpy() for name, value in graph.graph.initializers.items()}
    return {name: array for name, array in values.items() if name.endswith(suffix) and array.ndim == dimensions}


def store(graph, name, array):
    value = graph.graph.initializers[name]
    value.const_value = ir.Tensor(np.array(array, value.const_value.numpy().dtype), name=name)


def test_undamaged_graphs_pass(exported, int8, data):
    assert local_failures(exported, to_fp16(exported), data) == []
    assert local_failures(exported, int8, data) == []
    assert local_failures(None, int8, None) == []


def test_swapped_activation_scales_are_found(int8, data):
    scales = list(arrays(int8, "/scale", 0).items())
    pairs = [(a, b) for a, b in itertools.combinations(scales, 2) if max(a[1] / b[1], b[1] / a[1]) >= TOLD_APART]
    assert len(pairs) >= 8
    found = 0
    for (one, first), (two, second) in pairs:
        damaged = int8.clone()
        store(damaged, one, second)
        store(damaged, two, first)
        found += any("does not fit it" in reason for reason in local_failures(None, damaged, data))
    assert found >= 0.9 * len(pairs), f"{found} of {len(pairs)}"


def test_rolled_channels_are_found_in_every_layer(exported, int8):
    layers = arrays(int8, ".weight/quantized", 4) | arrays(int8, ".weight/quantized", 2)
    assert len(layers) == 35
    for name, levels in layers.items():
        damaged = int8.clone()
        store(damaged, name, np.roll(levels, 1, axis=0))
        (reason,) = local_failures(exported, damaged, None)
        node = name.removesuffix(".weight/quantized")
        assert reason.startswith(f"the weight of {node}/")
        assert "is not the reference's" in reason


def test_reversed_channel_scales_are_found(exported, int8):
    scales = arrays(int8, ".weight/scale", 1)
    assert len(scales) == 35
    for name, scale in scales.items():
        damaged = int8.clone()
        store(damaged, name, scale[::-1])
        assert len(local_failures(exported, damaged, None)) == 1, name


def test_the_worst_three_are_named_and_the_rest_counted(exported, int8):
    for name, levels in list(arrays(int8, ".weight/quantized", 4).items())[:5]:
        store(int8, name, -levels)
    reasons = local_failures(exported, int8, None)
    assert len(reasons) == 4
    assert reasons[-1] == "and 2 more like it"


def test_batch_norms_in_the_reference_leave_weights_unjudged(exported, int8):
    value = exported.graph.outputs[0]
    norm = ir.Node("", "BatchNormalization", [value], name="norm")
    exported.graph.append(norm)
    store(int8, "features.0.0.weight/quantized", -arrays(int8, "features.0.0.weight/quantized", 4).popitem()[1])
    assert local_failures(exported, int8, None) == []
