"""The verbs that only look: eval and inspect."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from commands import NETWORK, Cli, write_images

CLASSES = "abcdefghij"


@pytest.fixture
def classes(here: Path) -> Path:
    """``classes/<a…j>/*.png``, two images each."""
    for seed, name in enumerate(CLASSES):
        write_images(here / "classes" / name, 2, seed=seed)
    return here / "classes"


def test_accuracy_is_counted_right(cli: Cli, classes: Path):
    """Against the predictions of infer, which another test holds to ONNX Runtime's."""
    answers = cli.done("infer", "--engine", "net.onnx", "classes", "--top-k", 10, "--json").document["images"]
    ranks = []
    for answer in answers:
        order = [prediction["index"] for prediction in answer["predictions"]]
        ranks.append(order.index(CLASSES.index(Path(answer["image"]).parent.name)))
    (result,) = cli.done("eval", "net.onnx", "--data", "classes", "--json").document
    assert result["images"] == 20
    assert result["top1"] == sum(rank == 0 for rank in ranks) / 20
    assert result["top5"] == sum(rank < 5 for rank in ranks) / 20
    assert 0 < result["top5"] < 1
    assert result["interval"][0] <= result["top1"] <= result["interval"][1]


def test_several_artefacts_and_a_model_by_name(cli: Cli, classes: Path):
    cli.done("build", "net.onnx", "--precision", "fp16", "--backend", "none")
    results = cli.done(
        "eval", "net.onnx", "net.fp16.onnx", "mobilenet_v3_small", *NETWORK, "--data", "classes", "--json"
    )
    fp32, fp16, torch = results.document
    assert [fp32["precision"], fp16["precision"]] == ["fp32", "fp16"]
    assert torch["top5"] == fp32["top5"]
    assert results.err.count("RANDOM") == 3
    table = cli.done("eval", "net.onnx", "--data", "classes").out
    assert "top-1 %" in table


def test_what_a_later_file_loses_to_the_first_is_counted_image_by_image(cli: Cli, classes: Path):
    """A network whose classes are turned round is right where the first is wrong, and nowhere else."""
    graph = onnx.load("net.onnx")
    (gemm,) = (node for node in graph.graph.node if node.output[0] == "logits")
    for tensor in graph.graph.initializer:
        if tensor.name in gemm.input[1:]:
            array = onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.roll(array, 1, array.shape.index(10)), tensor.name))
    onnx.save(graph, "turned.onnx")
    shown = cli.done("eval", "net.onnx", "net.onnx", "turned.onnx", "--data", "classes", "--json")
    first, same, turned = shown.document
    assert first["lost"] == same["lost"]
    assert same["lost"]["points"] == 0
    assert turned["lost"]["points"] == pytest.approx(100 * (first["top1"] - turned["top1"]))
    assert turned["lost"]["low"] < turned["lost"]["points"] < turned["lost"]["high"]
    table = cli.done("eval", "net.onnx", "turned.onnx", "--data", "classes").out
    assert "points lost to the first" in table
    assert "lost" not in cli.done("eval", "net.onnx", "--data", "classes").out


def test_folders_that_are_not_the_classes(cli: Cli, classes: Path):
    """An index by position would be another class: 0 % would be reported as if it were true."""
    write_images(classes / "k", 1)
    expected = "expected one for each of 10 classes, or folders named as the model's labels)"
    for count in (11, 9):
        error = cli.refused(2, "eval", "net.onnx", "--data", "classes")
        assert error == f"the folders in classes are not the classes of net.onnx (got {count} folders; {expected}"
        for name in ("j", "k"):
            shutil.rmtree(classes / name, ignore_errors=True)


def test_folders_named_as_labels_are_those_classes(cli: Cli, classes: Path):
    """Two of ten, so that their positions say nothing."""
    graph = onnx.load("net.onnx")
    (entry,) = graph.metadata_props
    entry.value = json.dumps({**json.loads(entry.value), "labels": [f"label {index}" for index in range(10)]})
    onnx.save(graph, "labelled.onnx")
    predicted = cli.done("infer", "--engine", "labelled.onnx", "photos", "--top-k", 1, "--json").document["images"]
    for image in predicted:
        folder = Path("named") / image["predictions"][0]["label"]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(image["image"], folder)
    (Path("named") / "label 9").mkdir(exist_ok=True)
    assert cli.done("eval", "labelled.onnx", "--data", "named", "--json").document[0]["top1"] == 1


@pytest.mark.parametrize(
    ("last", "error"),
    [
        ("nope.onnx", "no such file: nope.onnx"),
        ("nope.plan", "no such file: nope.plan"),
        ("random.plan", "random.plan is not a TensorRT plan"),
    ],
)
def test_what_cannot_run_is_said_before_the_others_run(
    cli: Cli, classes: Path, monkeypatch: pytest.MonkeyPatch, last: str, error: str
):
    def evaluate(*_: object) -> None:
        pytest.fail("it ran")

    Path("random.plan").write_bytes(bytes(range(256)))
    monkeypatch.setattr("deploy.workflows.evaluate.evaluate", evaluate)
    assert error in cli.refused(2, "eval", "net.onnx", last, "--data", "classes")


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (
            ["net.onnx", "--data", "photos"],
            "no labelled images in photos (got 0 folders and no image in them; expected",
        ),
        (["net.onnx", "--data", "nope"], "no labelled images in nope (got nothing at that path; expected one folder"),
        (["net.onnx", "--data", "net.onnx"], "no labelled images in net.onnx (got a file; expected one folder per"),
        (["net.onnx", "--data", "classes", "--batch-size", "0"], "the batch size is a number of images (got 0;"),
        (["nope", "--data", "classes"], "there is no model named 'nope'"),
        (["net.onnx"], "the following arguments are required: --data. See eval.py --help."),
    ],
)
def test_what_eval_refuses(cli: Cli, classes: Path, argv: list[str], error: str):
    assert error in cli.refused(2, "eval", *argv)


def test_inspect_a_graph(cli: Cli, here: Path):
    cli.done("build", "net.onnx", "--precision", "int8", "--calibration-data", "photos")
    document = cli.done("inspect", "net.int8.onnx", "--json").document
    model = onnx.load("net.int8.onnx")
    assert document["graph"]["nodes"] == len(model.graph.node)
    assert document["graph"]["operators"]["QuantizeLinear"] == sum(
        node.op_type == "QuantizeLinear" for node in model.graph.node
    )
    assert document["graph"]["precisions"].keys() >= {"int8", "fp16"}
    assert document["manifest"]["precision"] == "int8"
    assert document["graph"]["macs"] == document["manifest"]["macs"] > 0
    assert document["graph"]["parameters"] == sum(layer["parameters"] for layer in document["graph"]["layers"]) > 0
    plain = cli.done("inspect", "net.int8.onnx", "--layers").out
    assert "features.0.0/Conv" in plain
    assert "RANDOM" not in plain
    plan = cli.done("inspect", "net.int8.rtx.plan", "--json").document
    assert plan["kind"].startswith("TensorRT-RTX ")
    assert plan["manifest"]["engine"]["onnx_file"] == "net.int8.onnx"
    assert "built on" in cli.done("inspect", "net.int8.rtx.plan").out
    Path("net.int8.rtx.plan.json").unlink()
    assert cli.done("inspect", "net.int8.rtx.plan", "--json").document["manifest"] is None


def test_inspect_a_model(cli: Cli, empty: Path):
    document = cli.done("inspect", "mobilenet_v3_large", "--json").document
    assert document["parameters"] == document["cost"]["parameters"] == 5_483_032
    assert round(document["cost"]["macs"] / 1e9, 3) == document["gmacs"]
    plain = cli.done("inspect", "mobilenet_v3_large").out
    assert "Searching for MobileNetV3" in plain
    assert re.search(r"cost +of one image, 1x3x224x224", plain)
    assert re.search(r"MACs +0\.217 G", plain)
    assert re.search(r"FLOPs +0\.433 G", plain)
    assert "features.0.0" not in plain
    assert not list(empty.iterdir())


def test_inspect_the_layers_of_a_model_without_its_weights(cli: Cli, empty: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("deploy.runtime.networks.load_weights", None)
    network = ("mobilenet_v3_small", "--num-classes", "10", "--image-size", "64", "--option", "width_mult=0.5")
    cost = cli.done("inspect", *network, "--json").document["cost"]
    assert cost["inputs"] == [[1, 3, 64, 64]]
    stem, last = [next(x for x in cost["layers"] if x["path"] == path) for path in ("features.0.0", "classifier.3")]
    assert stem == {
        "path": "features.0.0",
        "type": "Conv2d",
        "outputs": [[1, 8, 32, 32]],
        "parameters": 8 * 27,
        "macs": 8 * 27 * 32 * 32,
        "activations": 8 * 32 * 32,
    }
    assert last["outputs"] == [[1, 10]]
    for what in ("parameters", "macs", "activations"):
        assert cost[what] == sum(layer[what] for layer in cost["layers"])
    assert cost["flops"] == 2 * cost["macs"]
    table = cli.done("inspect", *network, "--layers").out
    share = f"{100 * stem['macs'] / cost['macs']:.2f}"
    assert re.search(rf"features\.0\.0 +Conv2d +\[1, 8, 32, 32\] +216 +221,184 +{share} +8,192", table)
    assert re.search(r"features\.0\.1 +BatchNorm2d +\[1, 8, 32, 32\] +16 *\n", table)


def test_an_image_that_a_network_does_not_take(cli: Cli, empty: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("models.resolve.create_model", lambda *_, **__: torch.nn.Conv2d(3, 4, 7))
    refused = cli("inspect", "mobilenet_v3_small", "--image-size", "4")
    assert refused.code == 2
    assert refused.error.startswith("mobilenet_v3_small cannot be counted for inputs of 1x3x4x4 (got ")
    assert "Kernel size can't be greater than actual input size" in refused.err


@pytest.mark.parametrize("option", [("--image-size", "64"), ("--num-classes", "3"), ("--option", "width_mult=2")])
@pytest.mark.parametrize("file", ["net.onnx", "net.plan"])
def test_a_file_is_of_one_architecture(cli: Cli, here: Path, file: str, option: tuple[str, str]):
    error = cli.refused(2, "inspect", file, *option)
    assert error.startswith(f"{file} is made for its classes and image size already (expected --num-classes,")


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("nope.onnx", "no ONNX file at nope.onnx."),
        ("nope.plan", "cannot read the plan nope.plan (got no such file or directory)"),
        ("text.plan", "text.plan is not a TensorRT plan (got 5 bytes that start with b'hell'"),
        ("photos", "photos cannot be inspected (expected an .onnx or .plan file, or a model's name)"),
        ("mobilenet_v3_tiny", "there is no model named 'mobilenet_v3_tiny'. Did you mean"),
    ],
)
def test_what_inspect_refuses(cli: Cli, here: Path, what: str, error: str):
    Path("text.plan").write_text("hello")
    assert error in cli.refused(2, "inspect", what)


def test_a_plan_cannot_run_without_a_gpu_and_says_what_can(cli: Cli, here: Path, monkeypatch: pytest.MonkeyPatch):
    cli.done("build", "net.onnx", "--precision", "fp16", "--backend", "tensorrt_rtx")
    monkeypatch.setattr("deploy.hardware.devices", list)
    for verb, *argv in (
        ("infer", "--engine", "net.fp16.rtx.plan", "photos"),
        ("verify", "net.onnx", "net.fp16.rtx.plan"),
    ):
        error = cli.refused(3, verb, *argv)
        assert error.startswith(
            "net.fp16.rtx.plan cannot run on this machine (got no NVIDIA GPU; expected TensorRT-RTX"
        )
        assert error.endswith("Run its graph here: python infer.py --engine net.fp16.onnx IMAGE.")
