"""The committed network keeps what its README says, judged by torchvision's transform on scikit-learn's scans."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models import create_model, get_spec, load_weights

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
CHECKPOINT = DIGITS / "digits.safetensors"


@pytest.fixture(scope="module")
def network():
    """The network that the README's flags describe."""
    model = create_model("mobilenet_v3_small", num_classes=10, width_mult=0.75, reduced_tail=True).eval()
    info = load_weights(model, get_spec("mobilenet_v3_small"), str(CHECKPOINT))
    assert info.source == "file"
    return model


@pytest.fixture(scope="module")
def transform(torchvision_models):
    """``--image-size 64``: the model's own 256 and 224 in proportion."""
    from torchvision import transforms

    steps = [transforms.Resize(73), transforms.CenterCrop(64), transforms.ToTensor()]
    return transforms.Compose([*steps, transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])


@pytest.fixture(scope="module")
def scans():
    spec = importlib.util.spec_from_file_location("digits_scans", DIGITS / "scans.py")
    sys.modules["digits_scans"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def classify(network, transform, images):
    with torch.inference_mode():
        return network(torch.stack([transform(image.convert("RGB")) for image in images])).argmax(1).tolist()


def test_the_checkpoint_is_small():
    assert CHECKPOINT.stat().st_size < 4_000_000


def test_the_samples_are_recognised(network, transform):
    paths = sorted((DIGITS / "samples").glob("*.png"))
    labels = (DIGITS / "labels.txt").read_text(encoding="utf-8").split()
    guesses = classify(network, transform, [Image.open(path) for path in paths])
    assert [labels[guess] for guess in guesses] == [path.stem for path in paths] == [str(digit) for digit in range(10)]


def test_held_out_accuracy(network, transform, scans):
    held_out = scans.load_scans()[1]
    guesses = classify(network, transform, [Image.fromarray(scan.pixels) for scan in held_out])
    assert len(held_out) == 450
    # 444 on the machine that trained it; other instruction sets may flip an image at the border.
    assert sum(guess == scan.digit for guess, scan in zip(guesses, held_out, strict=True)) >= 442


def test_data_is_written_as_folders(scans, tmp_path):
    scans.write_data(tmp_path)
    learnt, held_out = scans.load_scans()
    for part, chosen in (("heldout", held_out), ("calibration", scans.first_of_each(learnt, 20))):
        written = {path.relative_to(tmp_path / part): path for path in (tmp_path / part).rglob("*.png")}
        assert written.keys() == {Path(str(scan.digit), f"{scan.number:04}.png") for scan in chosen}
        for scan in chosen[::50]:
            pixels = np.asarray(Image.open(written[Path(str(scan.digit), f"{scan.number:04}.png")]))
            assert np.array_equal(pixels, scan.pixels)


def test_the_samples_were_held_out(scans):
    for scan in scans.first_of_each(scans.load_scans()[1], 1):
        assert np.array_equal(np.asarray(Image.open(DIGITS / "samples" / f"{scan.digit}.png")), scan.pixels)
