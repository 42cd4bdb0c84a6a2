"""Networks of the user's, of torchvision and of timm by the commands."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
import torchvision_operators  # noqa: F401 - before torchvision and timm
from commands import Cli, write_images

NET = """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self, num_classes, width):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
            self.head = nn.Linear(width, num_classes)

        def forward(self, x):
            return self.head(self.body(x).mean((2, 3)))

    def make(num_classes=5, width=16):
        torch.manual_seed(0)
        return Net(num_classes, width)

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(10, 8), nn.Linear(8, 4)
            self.example_inputs = {"ids": torch.zeros(2, 5, dtype=torch.int64), "x": torch.zeros(2, 8)}

        def forward(self, x, ids):
            hidden = self.table(ids).mean(1) + x
            return {"hidden": hidden, "scores": self.head(hidden)}

    class Boxes(nn.Module):
        def forward(self, x):
            corner = x.mean((2, 3)).repeat(1, 2)[:, None, :4].abs() * 10
            boxes = torch.cat([corner[..., :2], corner[..., 2:] + 20], -1).repeat(1, 3, 1)
            return {"boxes": boxes, "scores": x.mean(2)[:, :, :2].sigmoid()}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net.py").write_text(textwrap.dedent(NET))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_factory_through_the_whole_job(cli: Cli, here: Path):
    argv = ("--model", "net.py:make", "--image-size", "32x48", "--num-classes", "3", "--option", "width=24")
    result = cli.done("export", *argv, "--json")
    assert "assuming resize 37, crop 32x48" in result.err
    manifest = result.document["manifest"]
    assert result.document["file"] == "make.onnx"
    assert (manifest["task"], manifest["weights"]["source"]) == ("classification", "code")
    assert manifest["inputs"] == [{"name": "input", "dtype": "float32", "shape": ["batch", 3, 32, 48]}]
    photos = write_images(here / "photos", 8)
    cli.done("build", "make.onnx", "--precision", "int8", "--calibration-data", photos, "--backend", "none")
    answers = cli.done("infer", "--engine", "make.int8.onnx", photos, "--json").document["images"]
    assert [len(image["predictions"]) for image in answers] == [3] * 8
    network = ("--num-classes", "3", "--option", "width=24", "--image-size", "32x48")
    assert cli.done("verify", "net.py:make", "make.onnx", *network, "--json").document["passed"]


def test_several_inputs_and_outputs(cli: Cli, here: Path):
    document = cli.done("export", "--model", "net.py:Two", "--json").document
    manifest = document["manifest"]
    assert [(spec["name"], spec["dtype"]) for spec in manifest["inputs"]] == [("x", "float32"), ("ids", "int64")]
    assert [spec["name"] for spec in manifest["outputs"]] == ["hidden", "scores"]
    assert (manifest["task"], manifest["preprocessing"]) == ("other", None)
    assert manifest["macs"] == 8 * 4
    cli.done("build", "Two.onnx", "--precision", "fp16", "--backend", "tensorrt_rtx")
    error = cli.refused(2, "infer", "--engine", "Two.onnx", write_images(here / "photos", 1))
    assert "nothing says how images are prepared for this graph" in error


def test_boxes_and_scores_make_a_detector(cli: Cli, here: Path):
    document = cli.done("export", "--model", "net.py:Boxes", "--image-size", "32", "--json").document
    assert document["manifest"]["task"] == "detection"
    photos = write_images(here / "photos", 2)
    answers = cli.done("infer", "--engine", "Boxes.onnx", photos, "--json").document["images"]
    assert all(image["detections"] for image in answers)


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:resnet10t"])
def test_others_networks(cli: Cli, here: Path, name: str):
    argv = ("--model", name, "--weights", "random", "--image-size", "64", "--num-classes", "4")
    document = cli.done("export", *argv, "--json").document
    assert document["file"] == f"{name.split(':')[1]}.onnx"
    assert document["parity"]["simplified"]["relative"] < 1e-4
    assert document["operators"]["Conv"] >= 10
    assert "BatchNormalization" not in document["operators"]


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["--model", "net.py:mak"], "net.py has no function 'mak' (got nothing of that name; expected"),
        (["--model", "net.py:make"], "net.py:make does not say which images it takes. Give --image-size"),
        (["--model", "net.py:make", "--image-size", "2x"], "got 2x, expected pixels: 640, or height and width"),
        (
            ["--model", "net.py:Two", "--weights", "random"],
            "random weights are fitted to images, which net.py:Two",
        ),
        (["--model", "yolov5n", "--image-size", "650"], "expected a multiple of 32: 640 or 672"),
    ],
)
def test_what_is_refused(cli: Cli, here: Path, argv: list[str], error: str):
    assert error in cli("export", *argv).error


def test_a_network_beyond_what_one_file_holds(cli: Cli, here: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("deploy.graph.files.LIMIT", 1000)
    monkeypatch.setattr("deploy.graph.files._SMALLEST_OUTSIDE", 64)
    result = cli.done("export", "--model", "net.py:make", "--image-size", "32", "--option", "width=64")
    assert "not simplified: onnxsim takes graphs of 2 GB at most" in result.err
    assert sorted(path.name for path in here.glob("make*")) == ["make.onnx", "make.onnx.data"]
    answers = cli.done("infer", "--engine", "make.onnx", write_images(here / "photos", 1), "--json").document["images"]
    assert len(answers[0]["predictions"]) == 5
