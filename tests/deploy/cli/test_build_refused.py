"""What the verb build refuses, before it has written anything."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from commands import Cli

INT8 = ("--precision", "int8")
GRAPH = ("--backend", "none")


@pytest.fixture(autouse=True)
def rtx():
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX has no package for this platform")


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["nope.onnx"], "no ONNX file at nope.onnx. Export it again: python export.py --model NAME."),
        (["photos"], "no ONNX file at photos."),
        (["empty.onnx"], "empty.onnx holds no graph (got 0 bytes)."),
        (["text.onnx"], "text.onnx is not an ONNX file, or it is truncated (got "),
        (["cut.onnx"], "cut.onnx is not an ONNX file, or it is truncated (got "),
        (["net.onnx", "--batch", "8:1:32"], "a batch profile must not decrease and starts at 1 or more (got 8:1:32;"),
        (["net.onnx", "--batch", "0"], "starts at 1 or more (got 0:0:0; expected MIN:OPT:MAX, for example 1:8:32)"),
        (["net.onnx", "--batch", "1:2"], "cannot read the batch profile (got 1:2; expected MIN:OPT:MAX"),
        (["net.onnx", "--batch", "x"], "cannot read the batch profile (got x; expected MIN:OPT:MAX"),
        (["net.onnx", "-o", "out.onnx"], "an engine is not an .onnx file: out.onnx (expected -o FILE.plan)"),
        (["net.onnx", "-o", "out.plan", *GRAPH], "--backend none makes a graph (got out.plan; expected -o FILE.onnx)"),
        (
            ["net.onnx", "--log", "log", *GRAPH],
            "--log is about the builder (got --backend none). Leave one of them out.",
        ),
        (["net.onnx", "--workspace", "1", *GRAPH], "--workspace is about the builder (got --backend none)."),
        (["net.onnx", "--strip-weights", *GRAPH], "--strip-weights is about the builder (got --backend none)."),
        (["net.onnx", "-o", "net.onnx", *GRAPH], "net.onnx is the graph to build from: it will not be overwritten."),
        (["net.onnx", "-o", "missing/x.plan"], "cannot write missing/x.fp16.onnx (got no such file or directory)."),
        (["net.onnx", "--log", "missing/log"], "cannot write missing/log (got no such file or directory)."),
        (["net.onnx", "--workspace", "0"], "the workspace is in GiB (got 0.0; expected more than 0)"),
        (
            ["net.onnx", "--tactic-memory", "1"],
            "TensorRT-RTX has no tactic memory (got 1 GiB). Leave",
        ),
        (["net.onnx", "--aux-streams", "-1"], "auxiliary streams are a count (got -1; expected 0 or more)"),
        (
            ["net.onnx", "--log", "x.plan", "-o", "x.plan"],
            "two files of this build would be x.plan. Give them",
        ),
        (["net.onnx", "--log", "x.plan.json", "-o", "x.plan"], "two files of this build would be x.plan.json."),
        (["net.onnx", "--timing-cache", "t"], "TensorRT-RTX has no timing cache (got t). Leave --timing-cache out"),
        (
            ["net.onnx", "--compute-capability", "1.0"],
            "cannot build for this compute capability (got 1.0; expected one",
        ),
        (["net.onnx", "--calibration-images", "0"], "--calibration-images is a count (got 0; expected 1 or more)"),
        (
            ["half.onnx", "--precision", "fp32"],
            "half.onnx is an FP16 graph already (expected the FP32 graph, or --prec",
        ),
        (["half.onnx", *INT8], "half.onnx is an FP16 graph already (expected the FP32 graph, or --precision fp16)"),
    ],
)
def test_what_is_refused(cli: Cli, here: Path, argv: list[str], error: str):
    cli.done("build", "net.onnx", "--precision", "fp16", *GRAPH, "-o", "half.onnx")
    Path("empty.onnx").touch()
    Path("text.onnx").write_text("hello, this is no graph\n" * 10)
    data = Path("net.onnx").read_bytes()
    Path("cut.onnx").write_bytes(data[: len(data) // 2])
    precision = [] if "--precision" in argv else ["--precision", "fp16"]
    backend = [] if "--backend" in argv else ["--backend", "tensorrt_rtx"]
    assert error in cli.refused(2, "build", *argv, *precision, *backend)


def test_the_full_tensorrt_that_is_not_installed(cli: Cli, here: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    error = cli.refused(3, "build", "net.onnx", "--precision", "fp16", "--backend", "tensorrt")
    assert error == "TensorRT is not installed. pip install '.[gpu]'"


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ([], "INT8 needs real images to calibrate with (got neither --calibration-data nor net.int8.calib.json)."),
        (["folder"], "no images in folder (got no file of such a name; expected files ending in .bmp"),
        (["nope"], "nope (got nothing at that path; expected a folder of images or an .npz file)"),
        (["net.onnx"], "net.onnx (got a file of another kind; expected a folder of images or an .npz file)"),
        (["text.npz"], "cannot read text.npz (got File is not a zip file; expected an .npz file)"),
        (["names.npz"], "names.npz lacks the array 'input' (got ['other']; expected an array for each input)"),
        (["shape.npz"], "does not fit the model (got float32[3, 3, 32, 32]; expected float32[batch, 3, 64, 64])"),
        (["dtype.npz"], "does not fit the model (got float64[3, 3, 64, 64]; expected float32[batch, 3, 64, 64])"),
        (["nan.npz"], "the array 'input' of nan.npz is not finite (got NaN or infinity in row 2; expected numbers)"),
    ],
)
def test_calibration_data_that_cannot_be_used(cli: Cli, here: Path, data: list[str], error: str):
    Path("folder").mkdir()
    Path("text.npz").write_text("no archive")
    np.savez("names.npz", other=np.zeros((3, 3, 64, 64), np.float32))
    np.savez("shape.npz", input=np.zeros((3, 3, 32, 32), np.float32))
    np.savez("dtype.npz", input=np.zeros((3, 3, 64, 64)))
    nan = np.zeros((3, 3, 64, 64), np.float32)
    nan[2, 0, 0, 0] = np.nan
    np.savez("nan.npz", input=nan)
    argv = ["--calibration-data", *data] if data else []
    assert error in cli.refused(2, "build", "net.onnx", *INT8, *argv)
