"""The whole job on real scans: the trained network through export, FP16, INT8 and real engines keeps its accuracy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.cli.main import main
from deploy.data.labelled import LabelledImages
from deploy.runtime.onnxrt import OnnxRunner

ROOT = Path(__file__).parent.parent
DIGITS = ROOT / "examples" / "digits"
NETWORK = ("--option", "width_mult=0.75", "--option", "reduced_tail=true", "--num-classes", "10", "--image-size", "64")
WEIGHTS = ("--weights", str(DIGITS / "digits.safetensors"))
ONE_POINT = 0.01


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What ``make demo`` makes of the digits: graphs, engines, scans."""
    into = tmp_path_factory.mktemp("digits")
    subprocess.run([sys.executable, str(DIGITS / "train.py"), "--write-data", str(into)], check=True, cwd=ROOT)
    graph = str(into / "digits.onnx")
    labels = ("--labels", str(DIGITS / "labels.txt"))
    assert main(["--model", "mobilenet_v3_small", *NETWORK, *WEIGHTS, *labels, "-o", graph], "export") == 0
    for precision in ("fp32", "fp16", "int8"):
        data = ("--calibration-data", str(into / "calibration"))
        assert main([graph, "--precision", precision, *data, "-o", str(into)], "build") == 0
    return into


@pytest.fixture(scope="module")
def accuracy(folder):
    """top-1 of PyTorch and of each graph, by ``eval``, on 450 scans that neither training nor calibration saw."""
    names = ["mobilenet_v3_small", *(str(folder / f"digits{infix}.onnx") for infix in ("", ".fp16", ".int8"))]
    script = [sys.executable, "-m", "deploy", "eval", *names, "--data", str(folder / "heldout"), *NETWORK, *WEIGHTS]
    done = subprocess.run([*script, "--json"], check=True, cwd=ROOT, capture_output=True, text=True)
    results = json.loads(done.stdout)
    assert [result["images"] for result in results] == [450] * 4
    return dict(zip(("pytorch", "fp32", "fp16", "int8"), (result["top1"] for result in results)))


def test_the_network_reads_digits(accuracy):
    assert accuracy["pytorch"] >= 0.98
    assert accuracy["fp32"] == accuracy["pytorch"]


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_twin_of_each_precision_is_within_a_point(accuracy, precision):
    assert abs(accuracy[precision] - accuracy["fp32"]) <= ONE_POINT


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_real_graph_is_within_a_point(folder, accuracy, precision):
    """The file itself in ONNX Runtime, not its twin."""
    with OnnxRunner(folder / f"digits.{precision}.onnx", device="cpu") as runner:
        images = LabelledImages(folder / "heldout", runner.manifest.preprocessing, runner.inputs[0])
        right = sum(
            int((runner.infer(feeds)["logits"].argmax(axis=1) == labels).sum())
            for feeds, labels, _ in images.batches(50)
        )
    assert abs(right / 450 - accuracy["fp32"]) <= ONE_POINT


def test_engines_lie_beside_their_graphs(folder):
    plans = {path.name for path in folder.glob("*.plan")}
    assert plans == {f"digits.{precision}.rtx.plan" for precision in ("fp32", "fp16", "int8")}
    for plan in plans:
        manifest = json.loads((folder / f"{plan}.json").read_text())
        assert (folder / manifest["engine"]["onnx_file"]).is_file()
        assert manifest["labels"] == [str(digit) for digit in range(10)]
