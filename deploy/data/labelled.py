"""Images in one folder per class, as torchvision's ``ImageFolder`` has them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deploy.data.files import images_below
from deploy.data.loading import OnError, image_batches, log_skipped
from deploy.errors import InputError
from deploy.images.layout import as_input
from deploy.specs import Preprocessing, TensorSpec

LabelledBatch = tuple[dict[str, npt.NDArray[Any]], npt.NDArray[np.int64], list[Path]]


class LabelledImages:
    """``root/<class>/…/*.jpg``: the sorted folder names are the classes, their order is the class index.

    Unlike in ``ImageFolder``, hidden folders are no classes, and a class may be empty.

    Attributes:
        root: the folder.
        classes: the folder names, by class index.
        labels: the class index of each image file.

    Raises:
        InputError: ``root`` is no folder, or holds no class folder with an image in it.
    """

    def __init__(
        self, root: Path, preprocessing: Preprocessing, spec: TensorSpec, on_error: OnError = log_skipped
    ) -> None:
        self.root = root
        self.classes = _class_names(root)
        self.labels = {path: index for index, name in enumerate(self.classes) for path in images_below(root / name)}
        if not self.labels:
            raise _wrong_layout(root, f"{len(self.classes)} folders and no image in them")
        self._preprocessing = preprocessing
        self._spec = spec
        self._on_error = on_error

    def __len__(self) -> int:
        """The images found, unreadable ones too."""
        return len(self.labels)

    def match(self, model: str, labels: Sequence[str] | None, classes: object) -> None:
        """Folders named as the model's labels are those classes; else their order is, and there must be one for each.

        Args:
            model: what it is called in the error.
            labels: the names of its classes by index, where it has any.
            classes: how many it tells apart; not judged where that is no number.

        Raises:
            InputError: neither: an index by position would be another class.
        """
        index_of = {label: index for index, label in enumerate(labels or ())}
        if all(name in index_of for name in self.classes):
            self.labels = {path: index_of[self.classes[index]] for path, index in self.labels.items()}
        elif isinstance(classes, int) and len(self.classes) != classes:
            raise InputError(
                f"the folders in {self.root} are not the classes of {model}",
                got=f"{len(self.classes)} folders",
                expected=f"one for each of {classes} classes, or folders named as the model's labels",
            )

    def part(self, index: int, of: int) -> LabelledImages:
        """Every ``of``-th image from number ``index`` on: of each class as many, give or take one."""
        part = copy.copy(self)
        part.labels = dict(list(self.labels.items())[index::of])
        return part

    def batches(self, batch_size: int) -> Iterator[LabelledBatch]:
        """Feeds by input name, int64 class indices, and the files, image by image.

        Raises as :func:`~deploy.data.loading.image_batches`.
        """
        for batch, paths, _ in image_batches(list(self.labels), self._preprocessing, batch_size, self._on_error):
            feeds = {self._spec.name: as_input(batch, self._spec)}
            yield feeds, np.array([self.labels[path] for path in paths], np.int64), paths


def _class_names(root: Path) -> list[str]:
    if not root.is_dir():
        raise _wrong_layout(root, "a file" if root.exists() else "nothing at that path")
    return sorted(folder.name for folder in root.iterdir() if folder.is_dir() and not folder.name.startswith("."))


def _wrong_layout(root: Path, got: str) -> InputError:
    return InputError(f"no labelled images in {root}", got=got, expected="one folder per class: ROOT/CLASS/*.jpg")
