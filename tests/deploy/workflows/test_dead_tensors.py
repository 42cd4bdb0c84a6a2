"""Tensors that are zero on every calibration image have no range: what reads them stays FP16."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import pytest

from deploy.data.arrays import ArraySource
from deploy.specs import Precision, TensorSpec
from deploy.workflows.quantize import Calibration, prepare_int8
from deploy.workflows.source import Source


@pytest.fixture
def quantize(images, tmp_path):
    """The facts of a graph quantized on :func:`images`."""

    def quantize(model):
        np.savez(tmp_path / "images.npz", input=images)
        data = ArraySource(tmp_path / "images.npz", [TensorSpec("input", "float32", ("batch", 3, 16, 16))])
        source = Source(Path("net.onnx"), model, SimpleNamespace(preprocessing=None), Precision.FP32)
        return prepare_int8(source, Calibration(data, tmp_path / "net.calib.json")).quantized({}).facts

    return quantize


def kill(model, conv, channels):
    """Make the first ``channels`` outputs of a convolution so negative that nothing passes its ReLU."""
    value = model.graph.initializers[f"{conv}.bias"]
    bias = value.const_value.numpy().copy()
    bias[:channels] = -1e3
    value.const_value = ir.tensor(bias, name=value.name)


def test_nothing_is_dead(net, quantize):
    assert quantize(net.shuffle())["left_out"] == {}


def test_readers_behind_a_split_of_a_dead_tensor_stay_fp16(net, quantize):
    model = net.shuffle()
    kill(model, "stem_conv", 32)
    reason = "its input 'stem' was zero on every calibration image"
    assert quantize(model)["left_out"] == {"first.conv_node": reason}


def test_what_a_dead_tensor_leaves_uncalibrated_stays_fp16_too(net, quantize):
    """Where the second unit is not INT8, the first quantizes the half it filters, which calibration has not seen."""
    model = net.shuffle()
    kill(model, "stem_conv", 16)
    kill(model, "first.conv", 16)
    assert quantize(model)["left_out"] == {
        "first.conv_node": "its input 'first.b' was not calibrated",
        "second.conv_node": "its input 'first' was zero on every calibration image",
    }
