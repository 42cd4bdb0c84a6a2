"""INT8 under an accuracy budget, as a user asks for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from commands import Cli, write_images
from detector import write_detector

INT8 = ("--precision", "int8", "--backend", "none")
DATA = ("--calibration-data", "photos")
BUDGET = ("--max-drop", "50", "--eval-data", "classes")


@pytest.fixture
def classes(here: Path) -> Path:
    """``classes/<a…j>/*.png``, two images each."""
    for seed, name in enumerate("abcdefghij"):
        write_images(here / "classes" / name, 2, seed=seed)
    return here / "classes"


def test_what_is_counted_is_what_eval_counts(cli: Cli, classes: Path):
    document = cli.done("build", "net.onnx", *INT8, *DATA, *BUDGET, "--json").document
    search = document["manifest"]["quantization"]["search"]
    (chosen,) = (point for point in search["pareto"] if point["chosen"])
    before, after = cli.done("eval", "net.onnx", "net.int8.onnx", "--data", "classes", "--json").document
    assert (search["fp32_score"], chosen["score"]) == (
        pytest.approx(100 * before["top1"]),
        pytest.approx(100 * after["top1"]),
    )
    assert chosen["drop"] == pytest.approx(100 * (before["top1"] - after["top1"]))
    assert (search["metric"], search["budget"], search["images"]) == ("top1", 50, 20)
    assert set(document["seconds"]) == {"quantize", "search", "verify"}


def test_what_is_printed(cli: Cli, classes: Path):
    result = cli.done("build", "net.onnx", *INT8, *DATA, *BUDGET)
    words = " ".join(result.out.split())
    assert "INT8 MACs % latency (estimated) top-1 % points lost 95 % interval layers in FP16" in words
    assert words.count(" chosen ") == 2, "in the table, and in what it was judged on"
    assert "points lost (95 % interval " in words
    assert "20 images: the images it was chosen on" in words
    assert "counting what INT8 loses on 20 images from classes" in result.err


def test_without_labels_it_is_the_agreement(cli: Cli, here: Path):
    result = cli.done("build", "net.onnx", *INT8, *DATA, "--max-drop", "60", "--json")
    search = result.document["manifest"]["quantization"]["search"]
    assert (search["metric"], search["fp32_score"], search["images"]) == ("agreement", 100, 12)
    assert search["pareto"][-1]["int8_mac_share"] == 0


def test_a_budget_that_is_missed_writes_ranges_alone(cli: Cli, here: Path, monkeypatch: pytest.MonkeyPatch):
    """INT8 answers class 0 for every image here, whatever is in FP16; the ranges are there for the next try."""
    monkeypatch.setattr("deploy.workflows.trials.run", answers_of_one_class())
    before = set(here.iterdir())
    result = cli("build", "net.onnx", *INT8, *DATA, "--max-drop", "10")
    assert result.code == 1
    assert result.out == ""
    assert result.error.startswith("INT8 misses the accuracy budget; no graph or engine was written (got ")
    assert "points lost at best, with 0 of " in result.error
    assert {path.name for path in set(here.iterdir()) - before} == {"net.int8.calib.json"}
    monkeypatch.setattr("deploy.workflows.trials.run", answers_of_one_class())
    document = cli("build", "net.onnx", *INT8, *DATA, "--max-drop", "10", "--json").document
    assert (document["exit_code"], document["expected"]) == (1, "10 or less")


def answers_of_one_class():
    """The FP32 graph, which runs first, answers the classes in turn, and everything else class 0."""
    runs = []

    def run(graph, images, scores):
        count = sum(len(next(iter(feeds.values()))) for feeds, _ in images)
        runs.append(graph)
        return np.eye(10)[np.arange(count) % 10 if len(runs) == 1 else np.zeros(count, int)]

    return run


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (
            [*INT8, *DATA, "--eval-data", "classes"],
            "--eval-data is what --max-drop is counted on (got no --max-drop). Give --max-drop POINTS too, or measure",
        ),
        (
            ["--precision", "fp16", "--backend", "none", "--max-drop", "50"],
            "--max-drop chooses between INT8 and FP16 (got --precision fp16). Leave --max-drop out, or build with",
        ),
        ([*INT8, "--max-drop", "50"], "--max-drop runs the network on images (got no --calibration-data)."),
        ([*INT8, *DATA, "--max-drop", "0"], "--max-drop is in points of top-1 accuracy (got 0.0; expected above"),
        ([*INT8, *DATA, "--max-drop", "nan"], "--max-drop is in points of top-1 accuracy (got nan; expected above"),
        ([*INT8, *DATA, "--max-drop", "100"], "--max-drop is in points of top-1 accuracy (got 100.0; expected above"),
        (
            [*INT8, *DATA, "--max-drop", "2", "--eval-data", "classes"],
            "--max-drop is finer than one image of --eval-data (got 2 points; one of 20 images is 5; expected 50 "
            "images or more). Give more images, or --max-drop 5 or more.",
        ),
        (
            [*INT8, *DATA, "--max-drop", "2"],
            "--max-drop is finer than one image of --calibration-data (got 2 points; ",
        ),
        (
            [*INT8, *DATA, "--max-drop", "50", "--eval-data", "photos"],
            "no labelled images in photos (got 0 folders and",
        ),
        (
            [*INT8, *DATA, "--max-drop", "50", "--eval-data", "few"],
            "the folders in few are not the classes of net.onnx (got 1 folders; expected one for each of 10 classes",
        ),
    ],
)
def test_what_is_refused(cli: Cli, classes: Path, argv: list[str], error: str):
    write_images(Path("few/a"), 20)
    assert error in cli.refused(2, "build", "net.onnx", *argv)


def test_an_int8_graph_has_nothing_to_choose(cli: Cli, here: Path):
    cli.done("build", "net.onnx", *INT8, *DATA, "-o", "eight.onnx")
    refusal = cli.refused(
        2, "build", "eight.onnx", "--precision", "int8", *DATA, "--max-drop", "50", "--backend", "tensorrt_rtx"
    )
    assert refusal.startswith("eight.onnx is INT8 already: nothing to choose. Give the FP32 graph")


def test_a_detector_has_no_top1(cli: Cli, empty: Path):
    write_detector(Path("tiny.onnx"))
    write_images(Path("photos"), 4, (72, 80))
    error = cli.refused(2, "build", "tiny.onnx", *INT8, *DATA, "--max-drop", "50")
    assert error.startswith(
        "tiny.onnx is a detector: --max-drop counts the top-1 class of a classifier. Leave --max-drop"
    )
