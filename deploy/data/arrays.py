"""Arrays in an ``.npz`` file → batches, read row by row: neither the file nor an array is ever in memory whole."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from deploy.artifacts import sha256_file
from deploy.data.files import spread
from deploy.data.loading import check_batch_size
from deploy.errors import InputError
from deploy.specs import TensorSpec, batch_of, follows_batch

Array = npt.NDArray[Any]


class ArraySource:
    """Arrays named as the inputs of a network, first axis = images, or ``limit`` images drawn evenly from them.

    An input that does not follow the batch of the others has one array of its own shape, which all images share.

    ``np.savez`` and ``np.savez_compressed`` write such files. Other arrays in the file are ignored; pickled objects are
    never loaded.

    Raises:
        InputError: the file cannot be read, the array of an input is missing, does not fit, or has another number of
            images than the others, or ``limit`` is below 1; from :meth:`batches`: it is damaged, holds NaN or infinity.
    """

    def __init__(self, path: Path, inputs: Sequence[TensorSpec], limit: int | None = None, seed: int = 0) -> None:
        self._path = path
        self._batch = batch_of(inputs)
        # Where no axis is the batch, each call takes one sample.
        self._inputs = tuple(spec for spec in inputs if self._batch is None or follows_batch(spec, self._batch))
        shared = [spec for spec in inputs if spec not in self._inputs]
        with _opened(path, inputs) as rows:
            self._shared = {spec.name: _whole(rows[spec.name], spec) for spec in shared}
            counts = {spec.name: _count(rows[spec.name], self._of_any_number(spec)) for spec in self._inputs}
        if len(set(counts.values())) != 1:
            raise InputError(
                f"the arrays of {path} differ in their number of images", got=counts, expected="one number"
            )
        self._found = next(iter(counts.values()))
        self._chosen = spread(self._found, limit, seed)

    def __len__(self) -> int:
        return len(self._chosen)

    def digest(self) -> str:
        """SHA-256 in hex over the file and which of its images are used."""
        return hashlib.sha256(f"{sha256_file(self._path)} {list(self._chosen)}".encode()).hexdigest()

    def batches(self, batch_size: int) -> Iterator[dict[str, Array]]:
        """Feeds by input name: new arrays, the caller's own."""
        check_batch_size(batch_size)
        size = batch_size if self._batch is not None else 1
        with _opened(self._path, self._inputs) as rows:
            for start in range(0, len(self), size):
                indices = self._chosen[start : start + size]
                arrays = {name: reader.read(indices) for name, reader in rows.items()}
                if self._batch is None:
                    arrays = {name: array[0, ...] for name, array in arrays.items()}
                yield {**self._shared, **arrays}

    def _of_any_number(self, spec: TensorSpec) -> TensorSpec:
        """What the array of an input looks like: its first axis counts images."""
        sample = spec.shape if self._batch is None else spec.shape[1:]
        return TensorSpec(spec.name, spec.dtype, ("batch", *sample))

    def describe(self) -> str:
        whole = "" if len(self) == self._found else f" of {self._found}"
        return f"{len(self)}{whole} images from {self._path}"

    def sample(self, limit: int) -> ArraySource:
        """At most ``limit`` of the images, drawn evenly."""
        sampled = copy.copy(self)
        sampled._chosen = [self._chosen[index] for index in spread(len(self), limit, seed=0)]
        return sampled

    def part(self, index: int, of: int) -> ArraySource:
        """Every ``of``-th image from number ``index`` on."""
        part = copy.copy(self)
        part._chosen = self._chosen[index::of]
        return part


class _Rows:
    """One array of an archive, read from front to back; ``what`` names it in errors."""

    def __init__(self, what: str, stream: IO[bytes]) -> None:
        self.what = what
        self._stream = stream
        self._next = 0
        with _damage(what):
            self.shape, fortran, self.dtype = _read_header(self._stream)
            # An array of this shape and dtype that takes no memory.
            self.outline = np.broadcast_to(np.empty((), self.dtype), self.shape)
        if fortran:
            raise InputError(f"{self.what} is in Fortran order", fix="Save np.ascontiguousarray(array).")

    def read(self, indices: Sequence[int]) -> Array:
        """The rows at ascending ``indices``, none of which was passed before."""
        batch = np.empty((len(indices), *self.shape[1:]), self.dtype.newbyteorder("="))
        with _damage(self.what):
            for place, index in enumerate(indices):
                batch[place] = self._row(index)
        if not (finite := np.isfinite(batch)).all():
            row = indices[int(np.argwhere(~finite)[0][0])]
            raise InputError(f"{self.what} is not finite", got=f"NaN or infinity in row {row}", expected="numbers")
        return batch

    def read_number(self) -> Array:
        """The element of an array without axes."""
        with _damage(self.what):
            return np.frombuffer(self._stream.read(self.dtype.itemsize), self.dtype).reshape(()).copy()

    def _row(self, index: int) -> Array:
        size = math.prod(self.shape[1:]) * self.dtype.itemsize
        while self._next < index:
            self._stream.read(size)
            self._next += 1
        self._next += 1
        return np.frombuffer(self._stream.read(size), self.dtype).reshape(self.shape[1:])


def check_images(spec: TensorSpec, images: Array) -> None:
    """Raise :class:`InputError` unless ``images``, of any number, fit ``spec``."""
    TensorSpec(spec.name, spec.dtype, ("batch", *spec.shape[1:])).check(images)


def _count(rows: _Rows, spec: TensorSpec) -> int:
    """The number of images in an array whose other axes and dtype fit ``spec``."""
    _check(rows, spec)
    if not rows.shape[0]:
        raise InputError(f"{rows.what} is empty", got="0 images", expected="at least 1")
    return rows.shape[0]


def _whole(rows: _Rows, spec: TensorSpec) -> Array:
    _check(rows, spec)
    return rows.read(range(rows.shape[0])) if rows.shape else rows.read_number()


def _check(rows: _Rows, spec: TensorSpec) -> None:
    try:
        spec.check(rows.outline)
    except InputError as error:
        raise InputError(f"{rows.what} does not fit the model", got=error.got, expected=error.expected) from None


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    return np.lib.format.read_array_header_2_0(stream)


@contextlib.contextmanager
def _opened(path: Path, inputs: Sequence[TensorSpec]) -> Iterator[dict[str, _Rows]]:
    """The array of each input, by name."""
    with contextlib.ExitStack() as stack:
        archive = stack.enter_context(_open_archive(path))
        streams = {spec.name: stack.enter_context(_open_array(path, archive, spec.name)) for spec in inputs}
        yield {name: _Rows(f"the array '{name}' of {path}", stream) for name, stream in streams.items()}


def _open_archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"cannot read {path}", got=str(error), expected="an .npz file") from error


def _open_array(path: Path, archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    if f"{name}.npy" not in archive.namelist():
        names = sorted(entry[: -len(".npy")] for entry in archive.namelist() if entry.endswith(".npy"))
        raise InputError(f"{path} lacks the array '{name}'", got=names, expected="an array for each input")
    with _damage(f"the array '{name}' of {path}"):
        return archive.open(f"{name}.npy")


@contextlib.contextmanager
def _damage(what: str) -> Iterator[None]:
    """Whatever a broken archive or header raises, as an :class:`InputError`."""
    try:
        yield
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise InputError(f"{what} cannot be read", got=str(error)) from error
