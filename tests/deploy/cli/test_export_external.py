"""Networks of the user's, of torchvision and of timm by the commands."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
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

    def of(kind):
        torch.manual_seed(0)
        return {"fixes": FixesBatch, "drops": AlwaysDrops, "alike": Alike}[kind](5, 16)

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

    class FixesBatch(Net):
        def forward(self, x):
            return super().forward(x).reshape(int(x.shape[0]), -1)

    class AlwaysDrops(Net):
        def forward(self, x):
            return nn.functional.dropout(super().forward(x), 0.5, training=True)

    class Alike(Net):
        def forward(self, x):
            return super().forward(0 * x)

    class Learnt(nn.Module):
        def __init__(self):
            super().__init__()
            self.token = nn.Parameter(torch.ones(1, 3, 1, 1))

        def forward(self, x):
            print("said by the network")
            return {"token": self.token * 2, "logits": (x * self.token).mean((2, 3)), "features": x.mean((2, 3))}

    class Boxes(nn.Module):
        def forward(self, x):
            corner = x.mean((2, 3)).repeat(1, 2)[:, None, :4].abs() * 10
            boxes = torch.cat([corner[..., :2], corner[..., 2:] + 20], -1).repeat(1, 3, 1)
            return {"boxes": boxes, "scores": x.mean(2)[:, :, :2].sigmoid()}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "net.py").write_text(textwrap.dedent(NET))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("net", None)


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
    assert "which output holds the scores of the classes? (got hidden float32[batch, 8], scores" in error


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
        (["--model", "net.py:of", "--option", "kind=fixes", "--image-size", "32"], "FixesBatch fixes the batch size"),
        (
            ["--model", "net.py:of", "--option", "kind=drops", "--image-size", "32"],
            "PyTorch itself gives other outputs",
        ),
        (["--model", "net.py:of", "--option", "kind=alike", "--image-size", "32"], "the export cannot be checked"),
        (["--model", "net.py"], "which function of net.py?"),
        (["--model", "torchvision:deeplabv3_resnet50"], "torchvision's deeplabv3_resnet50 is no classifier of images"),
        (["--model", "yolov5n", "--resize", "700", "--weights", "random"], "a letterbox has no resize before it"),
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


def test_what_a_network_prints_is_not_the_document(cli: Cli, here: Path):
    result = cli.done("export", "--model", "net.py:Learnt", "--image-size", "16", "--json")
    assert "said by the network" in result.err
    assert [spec["shape"] for spec in result.document["manifest"]["outputs"]][1] == ["batch", 3]
    photos = write_images(here / "photos", 1)
    classes = cli.done("infer", "--engine", "Learnt.onnx", photos, "--json").document["images"][0]["predictions"]
    assert len(classes) == 3
    error = cli.refused(2, "infer", "--engine", "Learnt.onnx", photos, "--image-size", "99")
    assert error.startswith("the file says how images are prepared for it")


def test_weights_under_timms_names_ask_for_their_preprocessing(cli: Cli, here: Path):
    import timm
    import torch

    torch.save(
        timm.create_model("tf_mobilenetv3_small_100", num_classes=3).state_dict(), "tf_mobilenetv3_small_100.pth"
    )
    argv = ("--model", "mobilenet_v3_small", "--num-classes", "3", "--image-size", "64")
    weights = ("--weights", "tf_mobilenetv3_small_100.pth")
    assert "most tf_ ones want --mean 0.5" in cli("export", *argv, *weights).err
    assert "most tf_ ones want" not in cli("export", *argv, *weights, "--mean", "0.5", "--std", "0.5").err
