"""Batches that are gone through again and again: decoded once where they fit in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

# About 1700 images of 224x224 pixels.
MOST_BYTES = 2**30

_T = TypeVar("_T")
Batch = tuple[Mapping[str, npt.NDArray[Any]], _T]


class Replay(Generic[_T]):
    """Feeds by input name, with something that belongs to each batch.

    The first pass keeps what it reads; where that is more than ``most_bytes``, nothing is kept and every pass reads
    anew. The arrays are shared by all passes: they cannot be written.

    Args:
        read: begins another pass over the data.
        most_bytes: of arrays in memory.
    """

    def __init__(self, read: Callable[[], Iterable[Batch[_T]]], most_bytes: int = MOST_BYTES) -> None:
        self._read, self._most_bytes = read, most_bytes
        self._kept: list[Batch[_T]] | None = None

    def __iter__(self) -> Iterator[Batch[_T]]:
        return iter(self._kept) if self._kept is not None else self._first()

    def _first(self) -> Iterator[Batch[_T]]:
        kept: list[Batch[_T]] = []
        size = 0
        for feeds, beside in self._read():
            size += sum(array.nbytes for array in feeds.values())
            batch = ({name: _fixed(array) for name, array in feeds.items()}, beside)
            if size <= self._most_bytes:
                kept.append(batch)
            else:
                kept.clear()
            yield batch
        if size <= self._most_bytes:
            self._kept = kept


def _fixed(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view
