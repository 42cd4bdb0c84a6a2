"""The verb infer on a detector: boxes in the pixels of the images, options of its own, drawn images."""

from __future__ import annotations

import errno
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort
import pytest
from commands import Cli, snapshot
from detector import ANCHORS, LABELS, SIDE, detector, write_detector
from PIL import Image

from deploy.graph import files
from deploy.specs import NmsSettings, Preprocessing

PHOTO = "photos/002.png"


@pytest.fixture
def there(here: Path) -> Path:
    """The current folder, with ``tiny.onnx`` too."""
    write_detector(here / "tiny.onnx")
    return here


def read(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def by_hand(image: Path, threshold: float = 0.25) -> list[tuple[int, float, np.ndarray]]:
    """Class, score and box, best first, by OpenCV and ONNX Runtime alone."""
    pixels = read(image)  # 80x72
    height, width = pixels.shape[:2]
    ratio = SIDE / max(height, width)
    inner = round(width * ratio), round(height * ratio)
    top, left = (SIDE - inner[1]) // 2, (SIDE - inner[0]) // 2
    canvas = np.full((SIDE, SIDE, 3), 114, np.uint8)
    canvas[top : top + inner[1], left : left + inner[0]] = cv2.resize(pixels, inner, interpolation=cv2.INTER_LINEAR)
    session = ort.InferenceSession("tiny.onnx")
    feed = {"input": (canvas.transpose(2, 0, 1)[None] / 255).astype(np.float32)}
    boxes, scores = (array[0] for array in session.run(["boxes", "scores"], feed))
    best, classes = scores.max(axis=1), scores.argmax(axis=1)
    # OpenCV's takes x, y, width, height.
    sides = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    kept = cv2.dnn.NMSBoxesBatched(sides.tolist(), best.tolist(), classes.tolist(), threshold, 0.45)
    boxes = np.clip((boxes - [left, top, left, top]) / ratio, 0, [width, height, width, height])
    return [(int(classes[i]), float(best[i]), boxes[i]) for i in sorted(kept, key=lambda i: -best[i])]


def test_detections_are_those_of_opencv_and_onnx_runtime(cli: Cli, there: Path):
    document = cli.done("infer", "--engine", "tiny.onnx", PHOTO, "--json").document
    found = document["images"][0]["detections"]
    wanted = by_hand(there / PHOTO)
    assert len(wanted) > 20
    # A grey level that was rounded otherwise can swap two boxes that score alike, or move one over a threshold.
    alike = [any(d["index"] == i and np.abs(d["box"] - box).max() < 1 for d in found) for i, _, box in wanted]
    assert np.mean(alike) > 0.8
    assert all(d["label"] == LABELS[d["index"]] for d in found)


def test_a_person_reads_score_label_and_box(cli: Cli, there: Path):
    result = cli.done("infer", "--engine", "tiny.onnx", PHOTO, "--max-detections", 2)
    first, *boxes, last = result.out.splitlines()
    assert first == PHOTO
    assert len(boxes) == 2
    for line in boxes:
        assert re.fullmatch(r" +\d+\.\d\d %  (ant|bee|cat|dog|elk) +( +\d+\.\d){4}", line)
    assert last.startswith("1 image in ")


def test_nothing_found_is_said(cli: Cli, there: Path):
    result = cli.done("infer", "--engine", "tiny.onnx", PHOTO, "--score-threshold", 1)
    assert result.out.splitlines()[1] == "  nothing found"
    result = cli.done("infer", "--engine", "tiny.onnx", PHOTO, "--score-threshold", 1, "--json")
    assert result.document["images"] == [{"image": PHOTO, "detections": []}]


def test_thresholds_select(cli: Cli, there: Path):
    def found(*flags: object) -> list[dict]:
        return cli.done("infer", "--engine", "tiny.onnx", PHOTO, *flags, "--json").document["images"][0]["detections"]

    everything = found()
    assert found("--score-threshold", 0.5) == [d for d in everything if d["score"] > 0.5]
    assert found("--max-detections", 3) == everything[:3]
    assert len(found("--iou-threshold", 0.9)) > len(everything)


@pytest.mark.parametrize("mode", ["crop", "squash", "letterbox"])
def test_boxes_fit_the_image_in_every_mode(cli: Cli, there: Path, mode: str):
    kind = "linear" if mode == "letterbox" else "bilinear"
    write_detector(there / "tiny.onnx", preprocessing=Preprocessing(70, (SIDE, SIDE), kind, mode=mode))
    Image.new("RGB", (300, 200), (90, 120, 40)).save("wide.png")
    entry = cli.done("infer", "--engine", "tiny.onnx", "wide.png", "--json", "--score-threshold", 0.05).document
    boxes = np.array([d["box"] for d in entry["images"][0]["detections"]])
    assert len(boxes) > 5
    assert (boxes >= 0).all()
    assert (boxes <= [300, 200, 300, 200]).all()
    assert boxes[:, 2].max() > SIDE, "in pixels of the image, not of the input"
    assert (boxes[:, 2:] - boxes[:, :2]).max() <= 4 * np.max(ANCHORS) * 300 / SIDE


def test_a_graph_without_a_manifest_is_known_by_its_outputs(cli: Cli, there: Path):
    model = detector()
    Path("bare.onnx").write_bytes(files.to_bytes(model))
    result = cli.done("infer", "--engine", "bare.onnx", PHOTO, "--json", "--score-threshold", 0.01)
    assert "detections" in result.document["images"][0]
    assert "assuming" in result.err


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["tiny.onnx", "--top-k", 3], "--top-k is about classes, which a detector does not answer. Leave --top-k out."),
        (["net.onnx", "--iou-threshold", 0.5], "--iou-threshold is about boxes, which a classifier does not answer."),
        (["tiny.onnx", "--score-threshold", 1.2], "the score threshold is a share (got 1.2; expected 0 to 1)"),
        (["tiny.onnx", "--iou-threshold", -1], "the iou threshold is a share (got -1.0; expected 0 to 1)"),
        (["tiny.onnx", "--max-detections", 0], "--max-detections is a count (got 0; expected 1 or more)"),
        (["tiny.onnx", "--labels", "two.txt"], "not this model's (got 2 labels; expected 5)"),
        (["tiny.onnx", "--save", "photos"], "--save photos would overwrite photos/002.png"),
        (["tiny.onnx", "--save", "two.txt"], "--save takes a folder: two.txt (got a file). Give another name."),
    ],
)
def test_what_is_refused(cli: Cli, there: Path, argv: list[object], error: str):
    Path("two.txt").write_text("cat\ndog\n")
    assert error in cli.refused(2, "infer", PHOTO, "--engine", *argv)


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (["--score-threshold", 0.2], "has dropped what scores lower (got --score-threshold 0.2; expected 0.3 or more)"),
        (["--iou-threshold", 0.6], "NMS is inside this file, at another IoU (got 0.6; expected 0.5)"),
        (["--max-detections", 101], "keeps fewer boxes (got --max-detections 101; expected 100 or fewer)"),
    ],
)
def test_what_nms_inside_cannot_do(cli: Cli, there: Path, flags: list[object], error: str):
    write_detector(there / "tiny.onnx", nms=NmsSettings(0.3, 0.5, 100))
    assert error in cli.refused(2, "infer", "--engine", "tiny.onnx", PHOTO, *flags)


def test_saved_images_have_boxes_in_them(cli: Cli, there: Path):
    before = snapshot(there / "photos")
    result = cli.done("infer", "--engine", "tiny.onnx", "photos", "--save", "drawn/here", "--json")
    assert snapshot(there / "photos") == before
    assert sorted(path.name for path in Path("drawn/here").iterdir()) == [f"{i:03}.png" for i in range(12)]
    entry = result.document["images"][2]
    assert entry["saved"] == "drawn/here/002.png"
    drawn, plain = (read(name) for name in (entry["saved"], PHOTO))
    assert drawn.shape == plain.shape
    assert (drawn != plain).any()
    again = cli.done("infer", "--engine", "tiny.onnx", PHOTO, "--save", "drawn/here")
    assert again.out.startswith(f"{PHOTO} → drawn/here/002.png\n")
    assert again.err == "warning: 1 of the files in drawn/here will be replaced\n"
    assert "replaced" not in result.err


def test_a_classifiers_answers_come_below_its_image(cli: Cli, here: Path):
    cli.done("infer", "--engine", "net.onnx", PHOTO, "--save", "drawn")
    drawn, plain = read("drawn/002.png"), read(PHOTO)
    np.testing.assert_array_equal(drawn[: len(plain), (240 - plain.shape[1]) // 2 :][:, : plain.shape[1]], plain)


def test_images_of_one_name_from_two_folders(cli: Cli, there: Path):
    for folder in ("a", "b"):
        Path(folder).mkdir()
        shutil.copy(PHOTO, f"{folder}/same.png")
    shutil.copy(PHOTO, "a/plain")  # what it is, its content says
    entries = cli.done(
        "infer", "--engine", "tiny.onnx", "a/same.png", "b", "a/plain", "--save", "out", "--json"
    ).document
    saved = [entry["saved"] for entry in entries["images"]]
    assert saved == ["out/same.png", "out/same-2.png", "out/plain.png"]
    assert all(Path(name).is_file() for name in saved)


@pytest.mark.parametrize(
    ("number", "code", "error"),
    [
        (
            errno.ENOSPC,
            3,
            "no space left to write out/002.png. Give a folder with room that can be written: --save DIR.",
        ),
        # Of one image only, its name being too long, say: the answers are given all the same.
        (errno.EACCES, 2, "warning: not saved: cannot write out/002.png (got permission denied). Give a folder with"),
    ],
)
def test_a_folder_that_cannot_be_written(
    cli: Cli, there: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int, error: str
):
    Path("out").mkdir()

    def fail(self: Path, data: bytes) -> int:
        raise OSError(number, "Permission denied" if number == errno.EACCES else "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    result = cli("infer", "--engine", "tiny.onnx", PHOTO, "--save", "out")
    assert result.code == code
    assert error in result.err
    assert list(Path("out").iterdir()) == []
    assert bool(result.out) == (number == errno.EACCES)


@pytest.mark.parametrize("suffix", [".jpg", ".PNG", ".webp", ".bmp", ".gif", ".tiff", ".ppm", ".pgm"])
def test_every_format_that_is_read_is_written(cli: Cli, there: Path, suffix: str):
    shutil.copy(PHOTO, f"one{suffix}")
    cli.done("infer", "--engine", "tiny.onnx", f"one{suffix}", "--save", "out")
    assert read(f"out/one{suffix}").shape == read(PHOTO).shape
