"""The verb verify: verdicts, and damaged graphs that must not pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from commands import NETWORK, Cli, foreign
from damage import damaged, replace, scale_layer, weight
from onnx import numpy_helper


@pytest.fixture
def precise(cli: Cli, here: Path) -> None:
    """``net.fp16.onnx`` and ``net.int8.onnx`` beside ``net.onnx``."""
    cli.done("build", "net.onnx", "--precision", "fp16", "--backend", "none")
    cli.done("build", "net.onnx", "--precision", "int8", "--calibration-data", "photos", "--backend", "none")


def swap_scales(model: onnx.ModelProto) -> None:
    """The smallest and the largest activation scale change places."""
    used = {node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    tensors = sorted((weight(model, name) for name in used), key=lambda t: float(numpy_helper.to_array(t)))
    small, large = (numpy_helper.to_array(tensor) for tensor in (tensors[0], tensors[-1]))
    replace(tensors[0], large)
    replace(tensors[-1], small)


def swap_channels(model: onnx.ModelProto) -> None:
    """BGR in place of RGB."""
    tensor = weight(model, "features.0.0.weight")
    replace(tensor, numpy_helper.to_array(tensor)[:, ::-1].copy())


def test_what_is_sound_passes(cli: Cli, here: Path, precise: None):
    result = cli.done("verify", "net.onnx", "net.onnx", "net.fp16.onnx", "net.int8.onnx", "--data", "photos", "--json")
    verdicts = result.document["verdicts"]
    assert [verdict["precision"] for verdict in verdicts] == ["fp32", "fp16", "int8"]
    assert all(verdict["passed"] for verdict in verdicts)
    assert verdicts[0]["outputs"]["logits"]["max_abs"] == 0
    assert verdicts[1]["outputs"]["logits"]["sqnr_db"] > verdicts[2]["outputs"]["logits"]["sqnr_db"] + 10
    assert all(verdict["outputs"]["logits"]["samples"] == 12 for verdict in verdicts)
    assert result.document["inputs"] == "12 images from photos"
    assert "twin of the INT8 graph" in verdicts[2]["execution"]


def test_a_planted_overflow_fails_in_fp16_and_not_in_fp32(cli: Cli, here: Path, precise: None):
    cli.done("verify", "net.onnx", damaged("net.onnx", scale_layer(2.0**10)))
    result = cli("verify", "net.onnx", damaged("net.fp16.onnx", scale_layer(2.0**10)), "--json")
    assert result.code == 1
    assert result.document["verdicts"][0]["failures"] == ["logits: NaN or infinity in the output"]


def test_int8_that_passes_far_from_its_reference_is_said_to_be_far(cli: Cli, here: Path, precise: None, monkeypatch):
    argv = ["verify", "net.onnx", "net.onnx", "net.fp16.onnx", "net.int8.onnx", "--data", "photos"]
    decibel = cli.done(*argv, "--json").document["verdicts"][2]["outputs"]["logits"]["sqnr_db"]
    note = "net.int8.onnx: nothing is broken, but it is far from the reference: python -m deploy eval tells"
    for limit, far in ((decibel + 0.1, True), (decibel - 0.1, False)):
        monkeypatch.setattr("deploy.cli.verify._FAR_DB", limit)
        out = cli.done(*argv).out
        assert (note in out, out.count("nothing is broken")) == (far, far)


def test_a_swapped_scale_fails(cli: Cli, here: Path, precise: None):
    result = cli("verify", "net.onnx", damaged("net.int8.onnx", swap_scales), "--data", "photos")
    assert result.code == 1
    assert "damaged.onnx failed: logits: SQNR" in result.out
    assert "FAILED" in result.out


@pytest.mark.parametrize("graph", ["net.onnx", "net.fp16.onnx"])
def test_swapped_channels_fail(cli: Cli, here: Path, precise: None, graph: str):
    result = cli("verify", "net.onnx", damaged(graph, swap_channels), "--json")
    assert (result.code, result.document["passed"]) == (1, False)


def test_a_tighter_tolerance_decides(cli: Cli, here: Path, precise: None):
    result = cli("verify", "net.onnx", "net.fp16.onnx", "--tolerance", "1e-6")
    assert result.code == 1
    assert "net.fp16.onnx failed: logits: relative error" in result.out


def test_a_model_by_name_is_a_reference(cli: Cli, here: Path):
    result = cli.done("verify", "mobilenet_v3_small", "net.onnx", *NETWORK, "--json")
    assert result.document["reference_execution"].startswith("executed on CPU (PyTorch ")
    assert result.document["verdicts"][0]["outputs"]["logits"]["relative"] < 1e-4


def test_int8_is_judged_on_real_images_only(cli: Cli, here: Path, precise: None):
    error = cli.refused(2, "verify", "net.onnx", "net.int8.onnx")
    assert error == "INT8 is judged on real images only (got no --data). Give some: --data DIR."


def test_another_preprocessing_is_refused(cli: Cli, here: Path):
    foreign(Path("foreign.onnx"))
    error = cli.refused(2, "verify", "net.onnx", "foreign.onnx")
    assert error.startswith(
        "foreign.onnx prepares images differently from net.onnx (got resize 37 bilinear, crop 32x32; expected resize "
        "73 bilinear, crop 64x64)"
    )


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["net.onnx", "nope.onnx"], "no such file: nope.onnx (expected an .onnx or .plan file)"),
        (["net.onnx", "mobilenet_v4"], "there is no model named 'mobilenet_v4'. Did you mean"),
        (["net.onnx"], "the following arguments are required: OTHER. See verify.py --help."),
        (["net.onnx", "net.onnx", "--tolerance", "0"], "a tolerance is a relative error (got 0.0; expected more than"),
        (
            ["net.onnx", "net.onnx", "--tolerance", "nan"],
            "a tolerance is a relative error (got nan; expected more than",
        ),
        (
            ["net.onnx", "net.onnx", "--data", "nope"],
            "nope (got nothing at that path; expected a folder of images or an .npz",
        ),
        (["net.onnx", "net.onnx", "--data", "photos", "--images", "0"], "(got 0; expected 1 or more)"),
    ],
)
def test_what_is_refused(cli: Cli, here: Path, argv: list[str], error: str):
    assert error in cli.refused(2, "verify", *argv)


def test_a_reference_that_is_not_finite(cli: Cli, here: Path):
    broken = damaged(
        "net.onnx", lambda m: replace(weight(m, "features.0.0.weight"), np.full((8, 3, 3, 3), np.nan, "f"))
    )
    assert "the reference itself gives NaN or infinity" in cli.refused(2, "verify", broken, "net.onnx")
