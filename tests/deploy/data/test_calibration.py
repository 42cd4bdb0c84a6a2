from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deploy.data.arrays import ArraySource
from deploy.data.calibration import ImageSource, open_calibration_data
from deploy.errors import InputError
from deploy.images.decode import decode
from deploy.images.preprocess import preprocess
from deploy.specs import Preprocessing, TensorSpec

HOW = Preprocessing(16, (16, 16))
IMAGE = TensorSpec("input", "float32", ("batch", 3, 16, 16))
PIXELS = TensorSpec("pixels", "float32", ("batch", 3, 16, 16))


def test_image_source_feeds_the_input(tree: Path) -> None:
    source = ImageSource([tree], HOW, PIXELS)
    batches = list(source.batches(8))
    assert len(source) == 12
    assert [list(feeds) for feeds in batches] == [["pixels"], ["pixels"]]
    expected = np.stack([preprocess(decode(path), HOW) for path in source.files])
    np.testing.assert_array_equal(np.concatenate([feeds["pixels"] for feeds in batches]), expected)
    assert source.describe() == f"12 images from {tree}"


def test_image_source_can_be_gone_through_again(tree: Path) -> None:
    source = ImageSource([tree], HOW, IMAGE, limit=5)
    first, second = (next(iter(source.batches(5)))["input"] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_limit_takes_from_each_class(tree: Path) -> None:
    source = ImageSource([tree], HOW, IMAGE, limit=3)
    assert [path.parent.name for path in source.files] == ["ant", "bee", "cat"]
    assert sum(len(feeds["input"]) for feeds in source.batches(2)) == len(source) == 3
    assert source.describe() == f"3 of 12 images from {tree}"


def test_digest_is_of_the_images_used(tree: Path) -> None:
    limited = ImageSource([tree], HOW, IMAGE, limit=3)
    digest = limited.digest()
    assert digest != ImageSource([tree], HOW, IMAGE).digest()
    unused = next(path for path in sorted(tree.rglob("[0-9].jpg")) if path not in limited.files)
    unused.write_bytes(b"")
    assert ImageSource([tree], HOW, IMAGE, limit=3).digest() == digest
    limited.files[0].write_bytes(b"")
    assert ImageSource([tree], HOW, IMAGE, limit=3).digest() != digest


def test_unreadable_images_are_told(tree: Path) -> None:
    bad = tree / "bee" / "2.jpg"
    bad.write_bytes(b"?")
    told: list[Path] = []
    source = ImageSource([tree], HOW, IMAGE, on_error=lambda path, error: told.append(path))
    assert sum(len(feeds["input"]) for feeds in source.batches(4)) == 11
    assert told == [bad]


def test_open_a_folder(tree: Path) -> None:
    source = open_calibration_data(tree, [IMAGE], HOW, limit=4)
    assert isinstance(source, ImageSource)
    assert [feeds["input"].shape for feeds in source.batches(3)] == [(3, 3, 16, 16), (1, 3, 16, 16)]


def test_open_an_npz(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, input=np.zeros((7, 3, 16, 16), np.float32))
    source = open_calibration_data(path, [IMAGE], None, limit=4)
    assert isinstance(source, ArraySource)
    assert len(source) == 4


def test_a_model_of_a_fixed_batch(tree: Path) -> None:
    fixed = TensorSpec("input", "float32", (8, 3, 16, 16))
    assert len(open_calibration_data(tree, [fixed], HOW)) == 12


def test_a_folder_needs_preprocessing(tree: Path) -> None:
    with pytest.raises(
        InputError, match=r"does not say how images are prepared.*Give an \.npz file with arrays named input"
    ):
        open_calibration_data(tree, [IMAGE], None)


def test_a_folder_feeds_one_input(tree: Path) -> None:
    mask = TensorSpec("mask", "float32", ("batch", 4))
    with pytest.raises(InputError, match="got 2 inputs: input, mask"):
        open_calibration_data(tree, [IMAGE, mask], HOW)


@pytest.mark.parametrize(
    "spec", [TensorSpec("input", "float32", ("batch", 3, 32, 32)), TensorSpec("input", "float32", ())]
)
def test_images_must_fit_the_input(tree: Path, spec: TensorSpec) -> None:
    with pytest.raises(InputError, match=r"'input' does not fit the model \(got float32\[1, 3, 16, 16\]"):
        open_calibration_data(tree, [spec], HOW)


def test_neither_folder_nor_npz(tree: Path) -> None:
    for path, got in ((tree / "notes.txt", "a file of another kind"), (tree / "none", "nothing at that path")):
        with pytest.raises(InputError, match=rf"got {got}; expected a folder of images or an \.npz file"):
            open_calibration_data(path, [IMAGE], HOW)


def test_a_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images in"):
        open_calibration_data(tmp_path, [IMAGE], HOW)


def test_a_sample_is_drawn_from_all_of_it(tmp_path):
    """Folders are sorted by class: the first images alone would be those of one class."""
    values = np.arange(200, dtype=np.float32).reshape(200, 1)
    np.savez(tmp_path / "x.npz", x=values)
    whole = ArraySource(tmp_path / "x.npz", [TensorSpec("x", "float32", ("batch", 1))])
    sample = whole.sample(20)
    seen = np.concatenate([feeds["x"] for feeds in sample.batches(8)])[:, 0]
    assert len(sample) == len(seen) == 20
    assert np.bincount((seen // 50).astype(int)).tolist() == [5, 5, 5, 5]
    assert len(whole) == 200
    assert len(whole.sample(500)) == 200


@pytest.mark.parametrize("count", [2, 3])
def test_parts_hold_every_image_once(tree: Path, tmp_path: Path, count: int) -> None:
    np.savez(tmp_path / "images.npz", input=np.arange(7 * 768, dtype=np.float32).reshape(7, 3, 16, 16))
    for source in (ImageSource([tree], HOW, IMAGE), ArraySource(tmp_path / "images.npz", [IMAGE])):
        whole, *parts = (
            np.concatenate([feeds["input"] for feeds in data.batches(4)])
            for data in (source, *(source.part(index, count) for index in range(count)))
        )
        for index, part in enumerate(parts):
            np.testing.assert_array_equal(part, whole[index::count])
        assert len(source.part(0, count)) == len(parts[0])
