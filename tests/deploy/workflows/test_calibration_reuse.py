"""Calibrated ranges are used again where all agrees, and refused with the reason where something does not."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from commands import Cli, Result, foreign, write_images

CACHE = "net.int8.calib.json"


@pytest.fixture
def calibrate(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Calibrates ``net.onnx`` on ``photos/`` once; then runs the same with other arguments."""
    monkeypatch.chdir(tmp_path)
    foreign(Path("net.onnx"))
    write_images(Path("photos"), 6)

    def run(*argv: object) -> Result:
        return cli.done("build", "net.onnx", "--precision", "int8", "--backend", "none", *argv)

    assert "calibrating on 6 images" in run("--calibration-data", "photos").err
    return run


@pytest.mark.parametrize("argv", [["--calibration-data", "photos"], []])
def test_reused(calibrate, argv: list[str]):
    graph, ranges = Path("net.int8.onnx").read_bytes(), Path(CACHE).read_bytes()
    result = calibrate(*argv)
    assert f"reusing the ranges in {CACHE}" in result.err
    assert "calibrating on" not in result.err
    assert Path(CACHE).read_bytes() == ranges
    same = [onnx.load_from_string(data).graph for data in (graph, Path("net.int8.onnx").read_bytes())]
    assert same[0] == same[1]


def test_without_images_nothing_is_claimed(calibrate):
    """INT8 is judged on real images only: synthetic ones lie outside the calibrated ranges."""
    result = calibrate("--json")
    assert result.document["verdicts"] == {}
    (evidence,) = result.document["evidence"]
    assert evidence == f"net.int8.onnx: ranges from {CACHE}, not compared: no --calibration-data"


def test_a_moved_folder_is_the_same_data(calibrate):
    Path("photos").rename("moved")
    assert "reusing" in calibrate("--calibration-data", "moved").err


def other_graph() -> list[str]:
    foreign(Path("net.onnx"), classes=6)
    return ["--calibration-data", "photos"]


def other_images() -> list[str]:
    write_images(Path("photos"), 6, seed=1)
    return ["--calibration-data", "photos"]


def other_number() -> list[str]:
    return ["--calibration-data", "photos", "--calibration-images", "3"]


def other_method() -> list[str]:
    return ["--calibration-data", "photos", "--calibration-method", "max"]


def other_preprocessing() -> list[str]:
    Path(CACHE).write_text(Path(CACHE).read_text().replace('"preprocessing_sha256": "', '"preprocessing_sha256": "0'))
    return ["--calibration-data", "photos"]


def damaged() -> list[str]:
    Path(CACHE).write_text("{")
    return ["--calibration-data", "photos"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (other_graph, "it was made with another graph"),
        (other_images, "it was made with other images"),
        (other_number, "it was made with other images"),
        (other_method, "it was made with method mse, not max"),
        (other_preprocessing, "images were prepared in another way"),
        (damaged, f"the calibration cache {CACHE} cannot be read"),
    ],
)
def test_refused(calibrate, change, reason: str):
    argv = change()
    before = Path(CACHE).read_bytes()
    result = calibrate(*argv)
    assert f"not reusing {CACHE}: {reason}" in result.err
    assert "calibrating on" in result.err
    assert Path(CACHE).read_bytes() != before


def test_refused_without_data_is_an_error(calibrate, cli: Cli):
    other_graph()
    error = cli.refused(2, "build", "net.onnx", "--precision", "int8", "--backend", "none")
    assert error.startswith(
        "INT8 needs real images to calibrate with (got no --calibration-data; net.int8.calib.json: "
        "it was made with another graph). Give some hundred typical"
    )
