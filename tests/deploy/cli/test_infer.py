"""The verb infer: predictions, and images, files and options it cannot use."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from commands import Cli, script, snapshot
from PIL import Image

PHOTO = "photos/000.png"
RANDOM = "warning: the weights are RANDOM (no checkpoint was loaded): predictions mean nothing"


def by_hand(path: str, image: str) -> np.ndarray:
    """Probabilities by Pillow, numpy and ONNX Runtime alone."""
    picture = Image.open(image).convert("RGB")
    scale = 73 / min(picture.size)
    picture = picture.resize((int(picture.width * scale), int(picture.height * scale)), Image.Resampling.BILINEAR)
    left, top = round((picture.width - 64) / 2), round((picture.height - 64) / 2)
    pixels = np.asarray(picture.crop((left, top, left + 64, top + 64)), np.float32) / 255
    values = (pixels - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    logits = ort.InferenceSession(path).run(None, {"input": values.transpose(2, 0, 1)[None]})[0][0]
    odds = np.exp(logits - logits.max())
    return odds / odds.sum()


def test_predictions_are_those_of_onnx_runtime(cli: Cli, here: Path):
    result = cli.done("infer", "--engine", "net.onnx", "photos", "--top-k", 10, "--json")
    document = result.document
    assert [entry["image"] for entry in document["images"]] == [f"photos/{i:03}.png" for i in range(12)]
    assert document["warning"] in RANDOM
    for entry in document["images"][:3]:
        wanted = by_hand("net.onnx", entry["image"])
        order = [prediction["index"] for prediction in entry["predictions"]]
        assert order == list(np.argsort(-wanted))
        given = [prediction["probability"] for prediction in entry["predictions"]]
        np.testing.assert_allclose(given, wanted[order], rtol=1e-3)
    assert np.std([entry["predictions"][0]["probability"] for entry in document["images"]]) > 0.01


def test_the_script_prints_for_people_and_for_programs(here: Path):
    plain = script("infer", "--engine", "net.onnx", PHOTO, "--top-k", 2, "--threads", 1, cwd=here)
    assert (plain.code, plain.err) == (0, f"{RANDOM}\n")
    lines = plain.out.splitlines()
    assert lines[0] == PHOTO
    assert len(lines) == 4
    assert lines[-1].endswith("executed on CPU (ONNX Runtime " + ort.__version__ + ")")
    as_json = script("infer", "--engine", "net.onnx", PHOTO, "--json", cwd=here)
    assert len(as_json.document["images"][0]["predictions"]) == 5


def test_any_batch_size_gives_the_same(cli: Cli, here: Path):
    answers = [
        cli.done("infer", "--engine", "net.onnx", "photos", "--batch-size", n, "--json").document["images"]
        for n in (1, 5, 64)
    ]
    classes = [[[p["index"] for p in entry["predictions"]] for entry in answer] for answer in answers]
    assert classes[0] == classes[1] == classes[2]


def test_labels_in_place_of_the_models_own(cli: Cli, here: Path):
    Path("names.txt").write_text("".join(f"kind {i}\n" for i in range(10)))
    result = cli.done("infer", "--engine", "net.onnx", PHOTO, "--labels", "names.txt", "--top-k", 1)
    assert "kind " in result.out


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.jpg", b"", "is not an image (got an empty file; expected JPEG, PNG, WebP, BMP, GIF, TIFF or PPM)"),
        ("text.jpg", b"hello", "is not an image (got no image format known here; expected JPEG,"),
        ("cut.jpg", b"\xff\xd8\xff\xe0" + b"x" * 100, "(got Truncated File Read)"),
    ],
)
def test_an_unreadable_image(cli: Cli, here: Path, name: str, content: bytes, reason: str):
    Path(name).write_bytes(content)
    assert cli.refused(2, "infer", "--engine", "net.onnx", name).startswith("no image could be read (got 1 unreadable")
    assert reason in cli("infer", "--engine", "net.onnx", name).err


def test_the_readable_images_are_answered_when_one_is_not(cli: Cli, here: Path):
    Path("torn.png").write_bytes(Path(PHOTO).read_bytes()[:600])
    result = cli("infer", "--engine", "net.onnx", PHOTO, "torn.png", "photos/001.png", "--json")
    assert result.code == 2
    assert [entry["image"] for entry in result.document["images"]] == [PHOTO, "photos/001.png"]
    (unreadable,) = result.document["unreadable"]
    assert unreadable["image"] == "torn.png"
    assert "warning: skipped: cannot read torn.png" in result.err
    assert "error:" not in result.err


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["--engine", "net.onnx", "nope.jpg"], "nope.jpg does not exist (expected an image or a folder of images)"),
        (
            ["--engine", "net.onnx", "folder"],
            "no images in folder (got no file of such a name; expected files ending in .bmp",
        ),
        (["--engine", "net.onnx", PHOTO, "--top-k", "0"], "--top-k is a count (got 0; expected 1 or more)"),
        (["--engine", "net.onnx", PHOTO, "--batch-size", "0"], "--batch-size is a count (got 0; expected 1 or more)"),
        (["--engine", "net.onnx", PHOTO, "--threads", "-1"], "--threads is a count (got -1; expected 1 or more)"),
        (["--engine", "net.onnx", PHOTO, "--labels", "two.txt"], "not this model's (got 2 labels; expected 10)"),
        (["--engine", "net.onnx", PHOTO, "--labels", "nope"], "cannot read the labels in nope (got no such file"),
        (["--engine", "nope.onnx", PHOTO], "no such file: nope.onnx (expected an .onnx or .plan file)"),
        (["--engine", "folder", PHOTO], "folder is a folder (expected an .onnx or .plan file)"),
        (
            ["--engine", "two.txt", PHOTO],
            "two.txt is neither a graph nor an engine (got .txt; expected .onnx or .plan)",
        ),
        (["--engine", "empty.onnx", PHOTO], "empty.onnx is empty (expected an ONNX graph)"),
        (["--engine", "text.onnx", PHOTO], "ONNX Runtime cannot load text.onnx (got "),
        (["--engine", "cut.onnx", PHOTO], "ONNX Runtime cannot load cut.onnx (got "),
        (["--engine", "text.plan", PHOTO], "text.plan is not a TensorRT plan (got 5 bytes that start with b'hell'"),
    ],
)
def test_what_is_refused(cli: Cli, here: Path, argv: list[str], error: str):
    Path("folder").mkdir()
    Path("two.txt").write_text("cat\ndog\n")
    Path("empty.onnx").touch()
    Path("text.onnx").write_text("hello, this is no graph\n" * 10)
    Path("text.plan").write_text("hello")
    data = Path("net.onnx").read_bytes()
    Path("cut.onnx").write_bytes(data[: len(data) // 2])
    assert error in cli.refused(2, "infer", *argv)


def test_cuda_that_is_not_there(cli: Cli, here: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    error = cli.refused(3, "infer", "--engine", "net.onnx", PHOTO, "--device", "cuda")
    assert error.startswith("ONNX Runtime has no CUDA here (got CPUExecutionProvider).")


def test_a_network_that_answers_nan_fails_the_check(cli: Cli, here: Path):
    model = onnx.load("net.onnx")
    bias = next(weight for weight in model.graph.initializer if weight.name.endswith("classifier.3.bias"))
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(10, np.nan, np.float32), bias.name))
    onnx.save(model, "nan.onnx")
    error = cli.refused(1, "infer", "--engine", "nan.onnx", PHOTO)
    assert error.startswith("the model's output is not finite (got 10 of 10 logits are NaN or infinite")


def test_a_damaged_manifest_is_said(cli: Cli, here: Path):
    model = onnx.load("net.onnx")
    model.metadata_props[0].value = '{"schema": 99}'
    onnx.save(model, "later.onnx")
    error = cli.refused(2, "infer", "--engine", "later.onnx", PHOTO)
    assert error.startswith(
        "the manifest of later.onnx has another schema (got 99; expected 1). Export the model again"
    )


def test_nothing_is_written(cli: Cli, here: Path):
    shutil.copytree("photos", "mine")
    before = snapshot(here)
    cli.done("infer", "--engine", "net.onnx", "mine")
    assert snapshot(here) == before


def test_a_path_that_leads_nowhere_does_not_stop_the_others(cli: Cli, here: Path):
    result = cli("infer", "--engine", "net.onnx", "photos/000.png", "missing.jpg", "--json")
    assert result.code == 2
    assert [image["image"] for image in result.document["images"]] == ["photos/000.png"]
    assert [image["image"] for image in result.document["unreadable"]] == ["missing.jpg"]
    assert "warning: skipped: missing.jpg does not exist" in result.err
    assert cli.refused(2, "infer", "--engine", "net.onnx", "no.jpg", "never.jpg").startswith("none of the paths leads")
