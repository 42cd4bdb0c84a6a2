"""Calibration data: what feeds a network while its activation ranges are observed."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from deploy.data.arrays import ArraySource, check_images
from deploy.data.files import digest_of, find_images, spread
from deploy.data.loading import OnError, image_batches, log_skipped
from deploy.errors import InputError
from deploy.images.layout import as_input, takes_images
from deploy.specs import Preprocessing, TensorSpec


class CalibrationData(Protocol):
    """Images, or arrays of them, that can be gone through again and again."""

    def __len__(self) -> int:
        """The images chosen. Those that turn out to be unreadable count too."""
        ...

    def digest(self) -> str:
        """SHA-256 in hex of what is fed, before preprocessing. Reads the files, decodes none."""
        ...

    def batches(self, batch_size: int) -> Iterator[dict[str, npt.NDArray[Any]]]:
        """Feeds by input name, ``batch_size`` images each, the last one perhaps fewer."""
        ...

    def describe(self) -> str:
        """What it is, in words."""
        ...

    def sample(self, limit: int) -> CalibrationData:
        """At most ``limit`` of the images, drawn evenly."""
        ...

    def part(self, index: int, of: int) -> CalibrationData:
        """Every ``of``-th image from number ``index`` on."""
        ...


class ImageSource:
    """Image files, or ``limit`` of them drawn evenly from the sorted list, for ``spec``, the one input of a network.

    Raises:
        InputError: as :func:`~deploy.data.files.find_images`, or ``limit`` is below 1; from :meth:`batches`, as
            :func:`~deploy.data.loading.image_batches`.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        preprocessing: Preprocessing,
        spec: TensorSpec,
        limit: int | None = None,
        seed: int = 0,
        on_error: OnError = log_skipped,
    ) -> None:
        found = find_images(paths)
        self.files = [found[index] for index in spread(len(found), limit, seed)]
        self._found = len(found)
        self._roots = tuple(paths)
        self._preprocessing = preprocessing
        self._spec = spec
        self._on_error = on_error

    def __len__(self) -> int:
        return len(self.files)

    def digest(self) -> str:
        return digest_of(self.files, self._roots)

    def batches(self, batch_size: int) -> Iterator[dict[str, npt.NDArray[Any]]]:
        for batch, *_ in image_batches(self.files, self._preprocessing, batch_size, self._on_error):
            yield {self._spec.name: as_input(batch, self._spec)}

    def describe(self) -> str:
        whole = "" if len(self) == self._found else f" of {self._found}"
        return f"{len(self)}{whole} images from {', '.join(map(str, self._roots))}"

    def sample(self, limit: int) -> ImageSource:
        sampled = copy.copy(self)
        sampled.files = [self.files[index] for index in spread(len(self), limit, seed=0)]
        return sampled

    def part(self, index: int, of: int) -> ImageSource:
        part = copy.copy(self)
        part.files = self.files[index::of]
        return part


def open_calibration_data(
    path: Path,
    inputs: Sequence[TensorSpec],
    preprocessing: Preprocessing | None,
    limit: int | None = None,
    on_error: OnError = log_skipped,
) -> CalibrationData:
    """A folder of images, or an ``.npz`` file of arrays named as ``inputs``, at most ``limit`` images of it.

    Raises:
        InputError: ``path`` is neither, what it holds does not fit ``inputs``, or it is a folder and the model has no
            preprocessing or is not one of a single image.
    """
    if path.is_dir():
        return _open_folder(path, inputs, preprocessing, limit, on_error)
    if path.is_file() and path.suffix == ".npz":
        return ArraySource(path, inputs, limit)
    got = "a file of another kind" if path.exists() else "nothing at that path"
    raise InputError(f"cannot calibrate with {path}", got=got, expected="a folder of images or an .npz file")


def _open_folder(
    path: Path,
    inputs: Sequence[TensorSpec],
    preprocessing: Preprocessing | None,
    limit: int | None,
    on_error: OnError,
) -> ImageSource:
    names = ", ".join(spec.name for spec in inputs)
    arrays = f"Give an .npz file with arrays named {names} instead."
    if preprocessing is None:
        raise InputError("the model does not say how images are prepared for it", got=f"the folder {path}", fix=arrays)
    if len(inputs) != 1:
        raise InputError("images can feed a model of one input", got=f"{len(inputs)} inputs: {names}", fix=arrays)
    outline = np.broadcast_to(np.float32(0), (1, 3, *preprocessing.crop))
    check_images(inputs[0], as_input(outline, inputs[0]) if takes_images(inputs[0]) else outline)
    return ImageSource([path], preprocessing, inputs[0], limit, on_error=on_error)
