"""Reading ``.npz`` files row by row is compared with ``np.load``."""

from __future__ import annotations

import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deploy.data.arrays import ArraySource
from deploy.errors import InputError
from deploy.specs import TensorSpec

SPEC = TensorSpec("input", "float32", ("batch", 3, 4, 5))
MASK = TensorSpec("mask", "int64", ("batch",))


def images(count: int) -> np.ndarray:
    return np.random.default_rng(count).normal(size=(count, 3, 4, 5)).astype(np.float32)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("batch_size", [1, 4, 11, 50])
def test_equals_np_load(tmp_path: Path, save: Callable[..., None], batch_size: int) -> None:
    path = tmp_path / "data.npz"
    save(path, mask=np.arange(11), input=images(11), labels=np.zeros(3))
    source = ArraySource(path, [SPEC, MASK])
    batches = list(source.batches(batch_size))
    assert len(source) == 11
    assert all(len(feeds["input"]) <= batch_size for feeds in batches)
    with np.load(path) as stored:
        for name in ("input", "mask"):
            joined = np.concatenate([feeds[name] for feeds in batches])
            assert joined.dtype == stored[name].dtype
            np.testing.assert_array_equal(joined, stored[name])


def test_other_byte_order(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, input=images(3).astype(">f4"))
    (feeds,) = ArraySource(path, [SPEC]).batches(3)
    assert feeds["input"].dtype == np.dtype("=f4")
    np.testing.assert_array_equal(feeds["input"], images(3))


def test_limit_is_spread_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, mask=np.arange(1000))
    source = ArraySource(path, [MASK], limit=10)
    taken = np.concatenate([feeds["mask"] for feeds in source.batches(3)])
    assert [value // 100 for value in taken] == list(range(10))
    assert source.describe() == f"10 of 1000 images from {path}"


def test_digest_depends_on_contents_and_choice(tmp_path: Path) -> None:
    path, copy, other = (tmp_path / name for name in ("a.npz", "b.npz", "c.npz"))
    np.savez(path, input=images(9))
    copy.write_bytes(path.read_bytes())
    np.savez(other, input=images(9) + 1)
    digests = [ArraySource(path, [SPEC], limit).digest() for limit in (None, 4, 5)]
    assert ArraySource(copy, [SPEC]).digest() == digests[0]
    assert len({*digests, ArraySource(other, [SPEC]).digest()}) == 4


def test_fixed_batch_of_the_model_does_not_bind_the_file(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, input=images(5))
    assert len(ArraySource(path, [TensorSpec("input", "float32", (2, 3, 4, 5))])) == 5


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": images(2)}, r"lacks the array 'input' \(got \['image'\]"),
        ({"input": images(2).astype(np.float64)}, r"got float64\[2, 3, 4, 5\]; expected float32\[batch, 3, 4, 5\]"),
        ({"input": images(2)[:, :, :3]}, r"got float32\[2, 3, 3, 5\]"),
        ({"input": np.float32(1)}, r"got float32\[\]"),
        ({"input": np.array([object()] * 2)}, r"got object\[2\]"),
        ({"input": images(0)}, "got 0 images; expected at least 1"),
        ({"input": np.asfortranarray(images(2))}, r"Fortran order\. Save np\.ascontiguousarray"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, **arrays)
    with pytest.raises(InputError, match=message) as caught:
        ArraySource(path, [SPEC])
    assert "data.npz" in str(caught.value)


def test_arrays_of_different_lengths(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, input=images(3), mask=np.arange(4))
    with pytest.raises(InputError, match=r"differ in their number of images \(got \{'input': 3, 'mask': 4\}"):
        ArraySource(path, [SPEC, MASK])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite(tmp_path: Path, value: float) -> None:
    path = tmp_path / "data.npz"
    arrays = images(3)
    arrays[1, 0, 0, 0] = value
    np.savez(path, input=arrays)
    with pytest.raises(InputError, match=r"'input' of .* is not finite"):
        list(ArraySource(path, [SPEC]).batches(3))


def test_not_an_archive(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    path.write_bytes(b"no zip")
    with pytest.raises(InputError, match=r"cannot read .*data\.npz.*expected an \.npz file"):
        ArraySource(path, [SPEC])
    with pytest.raises(InputError, match="cannot read"):
        ArraySource(tmp_path / "none.npz", [SPEC])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_contents(tmp_path: Path, save: Callable[..., None]) -> None:
    path = tmp_path / "data.npz"
    save(path, input=images(40))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"'input' of .* cannot be read"):
        list(ArraySource(path, [SPEC]).batches(7))


@pytest.mark.parametrize("content", [b"", b"text", b"\x93NUMPY\x01\x00", b"\x93NUMPY\x09\x00" + b" " * 99])
def test_a_member_that_is_no_array(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("input.npy", content)
    with pytest.raises(InputError, match=r"'input' of .* cannot be read"):
        ArraySource(path, [SPEC])


@pytest.mark.parametrize("shape", ["(4611686018427387904, 3, 4, 5)", "(-1, 3, 4, 5)", "(2, 3, 4, 5)"])
def test_a_header_that_lies(tmp_path: Path, shape: str) -> None:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("input.npy", b"\x93NUMPY\x01\x00\x76\x00" + header.encode())
    with pytest.raises(InputError, match=r"'input' of .* cannot be read"):
        list(ArraySource(path, [SPEC]).batches(2))


def test_batch_size_below_one(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, input=images(2))
    with pytest.raises(InputError, match="batch size"):
        list(ArraySource(path, [SPEC]).batches(0))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, save: Callable[..., None]) -> None:
    spec = TensorSpec("input", "float32", ("batch", 3, 64, 64))
    path = tmp_path / "data.npz"
    save(path, input=np.zeros((300, 3, 64, 64), np.float32))
    one = 3 * 64 * 64 * 4
    tracemalloc.start()
    try:
        source = ArraySource(path, [spec])
        source.digest()
        for _ in source.batches(8):
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Two batches of 8 and the digest's blocks of 1 MiB; the whole array is 15 MB.
    assert 16 * one < peak < 80 * one


def test_what_follows_no_batch_is_one_array_for_all(tmp_path: Path) -> None:
    specs = [TensorSpec("factor", "float32", ()), SPEC, TensorSpec("table", "int64", (2, 3))]
    table = np.arange(6).reshape(2, 3)
    np.savez(tmp_path / "data.npz", input=images(5), factor=np.float32(2), table=table)
    batches = list(ArraySource(tmp_path / "data.npz", specs).batches(2))
    assert [len(feeds["input"]) for feeds in batches] == [2, 2, 1]
    for feeds in batches:
        assert feeds["factor"].shape == ()
        assert feeds["factor"] == 2
        np.testing.assert_array_equal(feeds["table"], table)
    np.savez(tmp_path / "wrong.npz", input=images(5), factor=np.float32(2), table=np.zeros((3, 2), np.int64))
    with pytest.raises(InputError, match=r"array 'table' of .* does not fit the model \(got int64\[3, 2\]"):
        ArraySource(tmp_path / "wrong.npz", specs)


@pytest.mark.parametrize("shape", [(), (7,)])
def test_where_no_axis_is_the_batch_samples_come_one_by_one(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=values)
    source = ArraySource(tmp_path / "data.npz", [TensorSpec("x", "float32", shape)])
    assert len(source) == 3
    np.testing.assert_array_equal(np.stack([feeds["x"] for feeds in source.batches(8)]), values)
