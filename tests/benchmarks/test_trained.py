"""The networks that benchmarks train: their images, their files, and that no training is done twice."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from deploy.errors import InputError
from deploy.images.decode import decode
from deploy.images.preprocess import preprocess
from deploy.images.synthetic import synthetic_images
from deploy.specs import Preprocessing
from models import create_model, get_spec, load_weights

MODEL, CLASSES = "mobilenet_v3_small", 4
TICK = 0.5  # seconds between two looks at the clock: an epoch of one batch looks three times, so it takes one second
MINUTES = 2 / 60


@pytest.fixture
def textures(benchmark_module):
    return benchmark_module("_textures")


@pytest.fixture
def augment(benchmark_module):
    return benchmark_module("_augment")


@pytest.fixture
def subjects(benchmark_module, monkeypatch):
    """The module, for few small images, with a clock that knows no load of the machine."""
    module = benchmark_module("_trained")
    clock = itertools.count(step=TICK)
    monkeypatch.setattr(benchmark_module("_training"), "perf_counter", lambda: next(clock))
    for name, value in {"CLASSES": CLASSES, "SIZE": 32, "CALIBRATION_IMAGES": 6}.items():
        monkeypatch.setattr(module, name, value)
    return module


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, pixels in enumerate(synthetic_images(2, (50, 70))):
        Image.fromarray(pixels).save(folder / f"photo {index}.png")
    return folder


def test_a_texture_is_made_of_its_number_alone(textures):
    first, again = textures.texture(3, 64), textures.texture(3, 64)
    assert first.shape == (64, 64, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)


def test_textures_differ_in_more_than_their_mean_colour(textures):
    images = np.stack([textures.texture(index, 64) for index in range(12)]) / 255
    assert np.ptp(images.mean((1, 2)), axis=0).max() < 0.03
    assert np.ptp(images.std((1, 2)), axis=0).max() < 0.03
    flat = images.reshape(len(images), -1)
    similar = np.corrcoef(flat) - np.eye(len(flat))
    assert np.abs(similar).max() < 0.5


def test_views_are_drawn_from_the_generator_and_differ(augment):
    images = torch.from_numpy(np.stack(synthetic_images(3, (48, 48)))).permute(0, 3, 1, 2)
    first, again, other = (augment.augmented(images, 32, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert first.shape == (3, 3, 32, 32)
    assert 0 <= first.min() < first.max() <= 1
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert (first - other).abs().mean() > 0.02


def test_the_plain_view_is_what_deployment_sees(augment):
    (pixels,) = synthetic_images(1, (48, 48))
    seen = augment.normalised(augment.plain(torch.from_numpy(pixels).permute(2, 0, 1)[None], 32))
    wanted = torch.from_numpy(preprocess(pixels, Preprocessing(32, (32, 32))))
    # A step of the 8-bit image that is between the resize and the rest, at the least deviation.
    torch.testing.assert_close(seen[0], wanted, rtol=0, atol=1.01 / 255 / 0.224)


def test_what_is_trained_is_in_files_that_deployment_reads(subjects, tmp_path):
    subject = subjects.trained(MODEL, tmp_path / "work", None, MINUTES, lambda line: None)
    assert subject.name == f"{MODEL} on textures"
    assert (subject.num_classes, subject.image_size) == (CLASSES, 32)
    model = create_model(MODEL, num_classes=CLASSES)
    assert load_weights(model, get_spec(MODEL), str(subject.weights)).source == "file"
    assert len(list(subject.evaluation.glob("*/texture.jpg"))) == CLASSES
    assert len(list(subject.calibration.iterdir())) == 6


def test_training_goes_on_where_it_stopped_and_is_not_done_again(subjects, tmp_path):
    lines = []
    folder = tmp_path / "work"
    subject = subjects.trained(MODEL, folder, None, MINUTES, lines.append)
    assert [line.split(",")[0] for line in lines[1:]] == ["epoch 1", "epoch 2"]
    weights = subject.weights.read_bytes()
    assert subjects.trained(MODEL, folder, None, MINUTES / 2, lines.append) == subject
    assert len(lines) == 3
    subjects.trained(MODEL, folder, None, 2 * MINUTES, lines.append)
    assert [line.split(",")[0] for line in lines[3:]] == ["epoch 3", "epoch 4"]
    assert subject.weights.read_bytes() != weights
    assert (folder / "training.log").read_text().splitlines() == lines[1:]


def test_other_images_are_another_training(subjects, photos, tmp_path):
    folder = tmp_path / "work"
    subjects.trained(MODEL, folder, None, MINUTES, lambda line: None)
    lines = []
    subject = subjects.trained(MODEL, folder, photos, MINUTES, lines.append)
    assert subject.name == f"{MODEL} on photographs"
    assert subject.num_classes == 2
    assert lines[1].startswith("epoch 1, ")
    evaluation = sorted(subject.evaluation.rglob("*.jpg"))
    assert [path.relative_to(subject.evaluation).as_posix() for path in evaluation] == [
        "0000/photo 0.jpg",
        "0001/photo 1.jpg",
    ]
    assert decode(evaluation[0]).shape == (128, 128, 3)


def test_images_are_learnt(subjects, monkeypatch, tmp_path):
    """Well above guesses, 12.5 % and a loss of 2.08: a mistake in labels, rates or averages would show."""
    monkeypatch.setattr(subjects, "CLASSES", 8)
    monkeypatch.setattr(subjects, "SIZE", 64)
    lines = []
    subjects.trained(MODEL, tmp_path / "work", None, 40 / 60, lines.append)
    assert lines[-1].startswith("epoch 40, ")
    words = lines[-1].split()
    assert float(words[words.index("loss") + 1].rstrip(",")) < 1.5
    assert float(words[-2]) >= 50  # % of the plain images


def test_one_photograph_cannot_be_told_apart(subjects, photos, tmp_path):
    (photos / "photo 1.png").unlink()
    with pytest.raises(InputError, match="nothing to tell apart"):
        subjects.trained(MODEL, tmp_path / "work", photos, MINUTES, lambda line: None)


def test_photo1000_is_known_by_its_layout(subjects, tmp_path):
    for name in ("eval/b", "eval/a", "eval/c", "calibration"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "mobilenet_v3_small.pth").touch()
    subject = subjects.photo1000(tmp_path)
    assert (subject.model, subject.num_classes, subject.image_size) == ("mobilenet_v3_small", 3, 128)
    assert subject.weights == tmp_path / "mobilenet_v3_small.pth"
    assert subject.calibration == tmp_path / "calibration"


def test_a_folder_of_another_layout_is_told(subjects, tmp_path):
    with pytest.raises(InputError, match="mobilenet_v3_small.pth"):
        subjects.photo1000(tmp_path)
