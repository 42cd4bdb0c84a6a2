"""Where a graph loses its accuracy: planted faults must be named, on a trained network and real scans."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
import pytest

from deploy.data.arrays import ArraySource
from deploy.errors import InputError
from deploy.graph.fp16 import range_audit, to_fp16
from deploy.quantize import calibrate
from deploy.specs import TensorSpec
from deploy.workflows.layers import check_layers, layer_report

DAMAGED = "features.5.block.0.0"


@pytest.fixture
def data(digit_images, tmp_path):
    np.savez(tmp_path / "scans.npz", input=digit_images[0])
    return ArraySource(tmp_path / "scans.npz", [TensorSpec("input", "float32", ("batch", 3, 64, 64))])


def change(graph, name, how):
    value = graph.graph.initializers[name]
    array = value.const_value.numpy()
    value.const_value = ir.Tensor(np.array(how(array), array.dtype), name=name)


def by_layer(report):
    return {loss.layer: loss for loss in report.tensors}


def test_a_sound_graph_loses_what_eight_bits_lose(exported, int8, data):
    report = layer_report(exported, int8, data)
    assert report.images == 64
    assert len(report.tensors) == sum(len(node.outputs) for node in exported.graph)
    quantized = [loss for loss in report.layers if loss.quantized]
    gates = [loss for loss in report.layers if loss.is_layer and not loss.quantized]
    assert len(quantized) > 35
    assert len(gates) == 19  # 18 of squeeze-and-excitation, and the last, which has 10 channels
    # A step of 1/127 of the range, between a uniform and a long-tailed tensor; FP16's 11 bits.
    assert all(20 < loss.own_sqnr_db < 55 for loss in quantized)
    assert all(60 < loss.own_sqnr_db < 80 for loss in gates)
    assert all(loss.sqnr_db <= loss.own_sqnr_db + 1 for loss in quantized)
    assert report.findings == ()


def test_fp16_loses_what_eleven_bits_lose(exported, data):
    report = layer_report(exported, to_fp16(exported), data)
    assert report.ranges == ()
    assert all(55 < loss.own_sqnr_db < 90 for loss in report.layers)
    assert all(loss.fp16 and loss.headroom > 1000 for loss in report.layers)


def test_rolled_channels_are_the_largest_own_loss(exported, int8, data):
    sound = by_layer(layer_report(exported, int8, data))
    change(int8, f"{DAMAGED}.weight/quantized", lambda levels: np.roll(levels, 1, axis=0))
    report = layer_report(exported, int8, data)
    assert report.largest_own_loss.layer == f"{DAMAGED}/Conv"
    assert report.largest_step.layer == f"{DAMAGED}/Conv"
    damaged = by_layer(report)
    assert damaged.pop(f"{DAMAGED}/Conv").own_sqnr_db < 5
    # Every other layer alone is as it was: the fault before it does not reach what it reads.
    assert all(loss.own_sqnr_db == sound[layer].own_sqnr_db for layer, loss in damaged.items())


def test_a_wrong_scale_is_the_largest_own_loss(exported, int8, data):
    tensor = next(
        q
        for loss in layer_report(exported, int8, data).layers
        if loss.layer == f"{DAMAGED}/Conv"
        for q in loss.quantized
    )
    for part in (f"{tensor}/scale", f"{tensor}/scale/fp16"):
        if part in int8.graph.initializers:
            change(int8, part, lambda scale: scale / 32)
    report = layer_report(exported, int8, data)
    assert tensor in report.largest_own_loss.quantized
    assert tensor in report.largest_step.quantized
    (found,) = (each for each in report.ranges if each.tensor == tensor)
    assert found.clip < 0.1 * found.peak
    assert found.clipped > 0.1


def test_an_overflow_is_named(exported, data):
    change(exported, f"{DAMAGED}.weight", lambda w: w * 3e4)
    report = layer_report(exported, to_fp16(exported), data)
    assert report.largest_own_loss.layer == report.largest_step.layer == f"{DAMAGED}/Conv"
    assert (report.largest_own_loss.own_sqnr_db, report.largest_own_loss.finite) == (-math.inf, False)
    assert report.largest_own_loss.headroom < 1
    (finding,) = (found for found in report.findings if found.layer == f"{DAMAGED}/Conv")
    assert finding.why.startswith(f"'{DAMAGED}/Conv' reaches ")
    assert finding.outcome == "is held in FP16 and overflows"


def test_what_the_audit_keeps_is_said_to_stay_fp32(exported, data):
    change(exported, f"{DAMAGED}.weight", lambda w: w * 3e4)
    peaks = {loss.tensor: loss.peak for loss in layer_report(exported, to_fp16(exported), data).tensors}
    kept = range_audit(exported, peaks)
    assert f"{DAMAGED}/Conv" in kept
    report = layer_report(exported, to_fp16(exported, kept), data, facts={"fp32_nodes": kept})
    assert {found.outcome for found in report.findings} == {"stays FP32 (range audit of the build)"}
    assert {found.layer for found in report.findings} <= kept.keys()
    assert all(loss.finite for loss in report.tensors)
    assert by_layer(report)[f"{DAMAGED}/Conv"].fp16 is False


def test_batches_and_passes_make_no_difference(exported, int8, data, monkeypatch):
    whole = layer_report(exported, int8, data)
    monkeypatch.setattr(calibrate, "MEMORY", 500_000)  # less than one image's tensors
    calls = []
    pieces = layer_report(exported, int8, data, progress=lambda done, total: calls.append((done, total)))
    for one, other in zip(whole.ranges, pieces.ranges, strict=True):
        assert (other.tensor, other.clip, other.limit) == (one.tensor, one.clip, one.limit)
        assert sum(other.counts) == sum(one.counts)
        assert np.abs(np.subtract(one.counts, other.counts)).sum() < 1e-3 * sum(one.counts)
    for one, other in zip(whole.tensors, pieces.tensors, strict=True):
        assert other.sqnr_db == pytest.approx(one.sqnr_db, abs=0.02)
        assert other.own_sqnr_db == pytest.approx(one.own_sqnr_db, abs=0.02)
        assert other.peak == pytest.approx(one.peak, rel=1e-4)
    assert calls[-1][0] == calls[-1][1] > 2 * 64
    assert calls == sorted(calls)


def test_the_search_of_the_artefact_is_handed_on(exported, int8, data):
    search = {"metric": "top1", "budget": 1.0, "sensitivity": [], "pareto": []}
    assert layer_report(exported, int8, data, facts={"search": search}).to_dict()["search"] == search


def test_a_reference_that_is_not_finite_is_refused(exported, int8, data):
    change(exported, f"{DAMAGED}.weight", lambda w: w * np.nan)
    with pytest.raises(InputError, match=f"tensor '{DAMAGED}/Conv' holds NaN or infinity"):
        layer_report(exported, int8, data)


def test_an_engine_names_the_graph_to_give(tmp_path):
    with pytest.raises(InputError) as raised:
        check_layers("net.onnx", ["net.int8.rtx.plan"], tmp_path)
    assert raised.value.headline == (
        "an engine has no inner tensors to look at (got net.int8.rtx.plan). Give the graph it was built from: "
        "net.int8.onnx."
    )
