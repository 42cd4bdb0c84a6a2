"""FP16's range: judged on real images, with the figures kept, or said not to have been judged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from commands import SMALL, Cli, foreign

ARRAYS = ("--calibration-data", "arrays.npz")
WARNING = "warning: FP16's range was NOT audited: no images were given"


@pytest.fixture(autouse=True)
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    monkeypatch.chdir(tmp_path)
    foreign(Path("net.onnx"), classes=16)
    images = np.random.default_rng(0).standard_normal((9, 3, 32, 32)).astype(np.float32)
    np.savez("arrays.npz", image=images)
    return images


def scale(name: str, factor: float) -> None:
    """Multiply a weight of ``net.onnx``."""
    model = onnx.load("net.onnx")
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * np.float32(factor), name))
    onnx.save(model, "net.onnx")


def facts(cli: Cli, precision: str, *argv: str) -> dict[str, object]:
    argv = ("net.onnx", "--precision", precision, "--backend", "none", *argv)
    return cli.done("build", *argv, "--json").document["manifest"]["quantization"]


def peak(images: np.ndarray) -> float:
    """The largest |x| that the convolution of ``net.onnx`` computes."""
    model = onnx.load("net.onnx")
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info("convolved"))
    (found,) = ort.InferenceSession(model.SerializeToString()).run(["convolved"], {"image": images})
    return float(np.abs(found).max())


@pytest.mark.parametrize("argv", [["fp16"], ["int8", "--without", "equalization"]])
def test_the_nearest_tensors_are_kept_in_the_manifest(cli: Cli, images: np.ndarray, argv: list[str]):
    scale("kernel", 100)
    found = facts(cli, *argv, *ARRAYS)
    assert found["range_audit"] == "real images"
    assert found["fp32_nodes"] == {}
    first, second, *rest = found["fp16_headroom"]
    assert first["tensor"] == "convolved"
    assert first["max"] == pytest.approx(peak(images), rel=1e-5)
    assert first["headroom"] == 65504 / first["max"]
    assert second["headroom"] > first["headroom"]
    assert len(rest) == 3


def test_a_tensor_that_would_overflow_stays_fp32_and_needs_no_headroom(cli: Cli, images: np.ndarray):
    scale("kernel", 1e4)
    found = facts(cli, "fp16", *ARRAYS)
    assert 4 * peak(images) > 65504
    assert found["fp32_nodes"].keys() >= {"conv", "relu"}
    assert "convolved" not in [each["tensor"] for each in found["fp16_headroom"]]
    assert all(each["headroom"] >= 4 for each in found["fp16_headroom"])


def test_ranges_that_are_reused_bring_their_peaks(cli: Cli):
    assert facts(cli, "int8", *ARRAYS) == facts(cli, "int8")


def test_for_people(cli: Cli, images: np.ndarray):
    scale("kernel", 100)
    out = cli.done("build", "net.onnx", "--precision", "fp16", *ARRAYS, "--backend", "none").out
    row = f"FP16 headroom smallest {65504 / peak(images):,.0f}× at convolved, which reaches {peak(images):.4g}"
    assert row in " ".join(out.split())
    assert row in " ".join(cli.done("inspect", "net.fp16.onnx").out.split())


def test_without_images_nobody_claims_it(cli: Cli):
    result = cli.done("build", "net.onnx", "--precision", "fp16", "--backend", "none")
    assert WARNING in result.err
    assert "FP16 headroom not audited: no images were given" in " ".join(result.out.split())
    assert "fp16_headroom" not in facts(cli, "fp16")
    assert WARNING not in cli.done("build", "net.onnx", "--precision", "fp16", *ARRAYS, "--backend", "none").err


def test_random_weights_are_no_evidence(cli: Cli):
    cli.done("export", *SMALL, "-o", "random.onnx")
    np.savez("images.npz", input=np.random.default_rng(0).standard_normal((2, 3, 64, 64)).astype(np.float32))
    for precision in ("fp16", "int8"):
        argv = ("random.onnx", "--precision", precision, "--calibration-data", "images.npz", "--backend", "none")
        result = cli.done("build", *argv)
        assert "FP16 headroom not judged: random weights" in " ".join(result.out.split())
        assert WARNING not in result.err
        assert "fp16_headroom" not in cli.done("build", *argv, "--json").document["manifest"]["quantization"]
