"""The class folders are compared with torchvision's ``ImageFolder``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torchvision_operators  # noqa: F401 - before torchvision
from torchvision.datasets import ImageFolder

from deploy.data.labelled import LabelledImages
from deploy.errors import InputError
from deploy.images.decode import decode
from deploy.images.preprocess import preprocess
from deploy.specs import Preprocessing, TensorSpec

HOW = Preprocessing(16, (16, 16))
IMAGE = TensorSpec("input", "float32", ("batch", 3, 16, 16))
PIXELS = TensorSpec("pixels", "float32", ("batch", 3, 16, 16))


@pytest.fixture
def folders(tree: Path) -> Path:
    """The tree as torchvision takes it: it stumbles over hidden folders and files."""
    (tree / ".cache" / "thumb.jpg").unlink()
    (tree / ".cache").rmdir()
    (tree / "bee" / ".hidden.jpg").unlink()
    (tree / "bee" / "deeper").mkdir()
    (tree / "bee" / "3.jpg").rename(tree / "bee" / "deeper" / "3.jpg")
    return tree


def test_equals_image_folder(folders: Path) -> None:
    expected = ImageFolder(folders)
    data = LabelledImages(folders, HOW, IMAGE)
    assert data.classes == expected.classes
    assert {str(path): label for path, label in data.labels.items()} == dict(expected.samples)
    assert len(data) == len(expected) == 12


def test_batches(folders: Path) -> None:
    data = LabelledImages(folders, HOW, PIXELS)
    seen: list[Path] = []
    for feeds, labels, paths in data.batches(5):
        assert labels.dtype == np.int64
        assert [data.classes[label] for label in labels] == [path.relative_to(folders).parts[0] for path in paths]
        np.testing.assert_array_equal(feeds["pixels"], np.stack([preprocess(decode(path), HOW) for path in paths]))
        seen += paths
    assert seen == list(data.labels)


def test_hidden_folders_do_not_shift_the_classes(tree: Path) -> None:
    assert LabelledImages(tree, HOW, IMAGE).classes == ["ant", "bee", "cat"]


def test_an_empty_class_keeps_its_index(tree: Path) -> None:
    (tree / "ass").mkdir()
    data = LabelledImages(tree, HOW, IMAGE)
    assert data.classes == ["ant", "ass", "bee", "cat"]
    assert set(data.labels.values()) == {0, 2, 3}


def test_labels_follow_their_images_past_unreadable_ones(tree: Path) -> None:
    (tree / "ant" / "1.jpg").write_bytes(b"")
    told: list[Path] = []
    data = LabelledImages(tree, HOW, IMAGE, on_error=lambda path, error: told.append(path))
    labels = np.concatenate([labels for _, labels, _ in data.batches(5)])
    assert labels.tolist() == [0] * 3 + [1] * 4 + [2] * 4
    assert told == [tree / "ant" / "1.jpg"]


@pytest.mark.parametrize(
    ("root", "got"),
    [("none", "nothing at that path"), ("notes.txt", "a file"), ("cat", "0 folders and no image in them")],
)
def test_wrong_layout(tree: Path, root: str, got: str) -> None:
    with pytest.raises(InputError, match=rf"got {got}; expected one folder per class: ROOT/CLASS/\*\.jpg"):
        LabelledImages(tree / root, HOW, IMAGE)


def test_parts_share_every_class_and_no_image(folders: Path):
    data = LabelledImages(folders, HOW, IMAGE)
    parts = [data.part(index, 2) for index in range(2)]
    assert sorted(path for part in parts for path in part.labels) == sorted(data.labels)
    assert abs(len(parts[0]) - len(parts[1])) <= 1
    assert {**parts[0].labels, **parts[1].labels} == data.labels


def test_folders_are_matched_with_the_models_labels(folders: Path):
    data = LabelledImages(folders, HOW, IMAGE)
    before = {path: data.classes[index] for path, index in data.labels.items()}
    labels = [*reversed(data.classes), "another"]
    data.match("the model", labels, len(labels))
    assert {path: labels[index] for path, index in data.labels.items()} == before


def test_folders_that_are_not_the_models_classes(folders: Path):
    data = LabelledImages(folders, HOW, IMAGE)
    data.match("the model", None, len(data.classes))
    data.match("the model", ["other"], "classes")
    with pytest.raises(
        InputError, match=r"are not the classes of the model \(got \d folders; expected one for each of"
    ):
        data.match("the model", ["other"], len(data.classes) + 1)
