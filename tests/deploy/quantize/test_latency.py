"""The estimate against sums done by hand."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from deploy.graph.fp16 import to_fp16
from deploy.graph.placement import place
from deploy.graph.qdq import insert_qdq
from deploy.quantize.latency import BALANCE, Estimated

IMAGE = 3 * 16 * 16
MAP = 32 * 16 * 16


def int8(model: ir.Model, *fp16: str) -> ir.Model:
    placement = place(model, dict.fromkeys(fp16, "kept"))
    return to_fp16(insert_qdq(model, placement, dict.fromkeys(placement.tensors, 4.0)), {})


@pytest.fixture
def model(net) -> ir.Model:
    """Two convolutions with activations behind them, and a residual Add."""
    first = net.op("Relu", "first.relu", net.conv("first", "input", (3, 32), 3))
    second = net.op("HardSwish", "second.swish", net.conv("second", first, (32, 32)))
    third = net.op("Add", "sum", net.conv("third", second, (32, 32)), first)
    return net.model(net.op("Relu", "out", third), ["batch", 32, 16, 16])


@pytest.mark.parametrize("batch", [1, 8])
def test_fp16_moves_two_bytes(model: ir.Model, batch: int):
    moved = [
        4 * batch * IMAGE + 2 * batch * MAP + 2 * (27 * 32 + 32),  # the input is FP32 and cast on the way
        4 * batch * MAP + 2 * (32 * 32 + 32),
        4 * batch * MAP + 2 * (32 * 32 + 32),
        2 * batch * MAP,  # the Add fuses with the third convolution, and reads the skip branch
    ]
    macs = [batch * 16 * 16 * 32 * terms for terms in (27, 32, 32)] + [0]
    expected = sum(max(count, BALANCE * size) for count, size in zip(macs, moved))
    assert Estimated(batch)(to_fp16(model, {})) == pytest.approx(expected)


def test_int8_moves_one_byte_where_all_readers_take_it(model: ir.Model):
    moved = [
        IMAGE + MAP + 27 * 32 + 2 * 32,  # biases stay FP16
        2 * MAP + 32 * 32 + 2 * 32,
        MAP + 2 * MAP + 32 * 32 + 2 * 32,  # behind the last convolution nothing is INT8
        MAP,
    ]
    assert Estimated(1)(int8(model)) == pytest.approx(BALANCE * sum(moved))


def test_computing_counts_where_it_takes_longer(net):
    """64 taps for each byte, and more: INT8 takes half the time."""
    model = net.model(net.conv("wide", net.conv("deep", "input", (3, 512)), (512, 512), 5), ["batch", 512, 16, 16])
    macs = 16 * 16 * 512 * 512 * 25
    fp16, eight = Estimated(8)(to_fp16(model, {})), Estimated(8)(int8(model))
    assert 8 * macs < fp16 < 8 * macs * 1.05
    assert 4 * macs < eight < 4 * macs * 1.05


def test_each_layer_in_fp16_takes_time(mini: ir.Model):
    everything = [str(node.name) for node in mini.graph if node.op_type in ("Conv", "Gemm")]
    times = [Estimated(8)(int8(mini, *everything[:count])) for count in (0, 1, 3, len(everything))]
    assert times == sorted(times)
    assert times[0] < 0.9 * times[-1]
    assert times[-1] == pytest.approx(Estimated(8)(to_fp16(mini, {})))


def test_an_unknown_shape_has_no_estimate(model: ir.Model):
    for node in model.graph:
        node.outputs[0].shape = None
    assert Estimated(8)(model) is None
    assert Estimated.how == "estimated"
    assert np.isfinite(BALANCE)
