"""Image files → preprocessed batches: a few threads read ahead, by a bounded number of images."""

from __future__ import annotations

import itertools
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from deploy.errors import InputError
from deploy.images.decode import decode
from deploy.images.fit import Size
from deploy.images.preprocess import preprocess
from deploy.specs import Preprocessing

FloatArray = npt.NDArray[np.float32]
# The network's input for one image, and the (height, width) of the image itself.
_Loaded = tuple[FloatArray, Size]

# Told of each image that cannot be read; what it raises ends the batches.
OnError = Callable[[Path, InputError], None]

_MOST_THREADS = 16
_AHEAD_PER_THREAD = 2
_REASONS_SHOWN = 5


def log_skipped(path: Path, error: InputError) -> None:
    """Log an unreadable image as a warning; the batches go on without it."""
    logging.getLogger(__name__).warning("skipped: %s", error)


def tell_once(warn: Callable[[str], None]) -> OnError:
    """Warn of each unreadable image the first time only, however often the images are gone through."""
    told: set[Path] = set()

    def skipped(path: Path, error: InputError) -> None:
        if path not in told:
            told.add(path)
            warn(f"skipped: {error.headline}")

    return skipped


def image_batches(
    paths: Sequence[Path], preprocessing: Preprocessing, batch_size: int, on_error: OnError
) -> Iterator[tuple[FloatArray, list[Path], list[Size]]]:
    """Batches float32 ``[images, 3, *crop]`` in the order of ``paths``, each with its files and their (height, width).

    Images that cannot be read go to ``on_error`` and the next ones take their place, so that only the last batch is
    smaller. Each batch is a new array, the caller's own. Memory holds two batches and a few images per thread.

    Raises:
        InputError: ``batch_size`` is below 1, or no image could be read.
    """
    check_batch_size(batch_size)
    size = min(batch_size, len(paths))
    batch, used, sizes = _new_batch(size, preprocessing)
    for path, (image, image_size) in _readable(paths, preprocessing, on_error):
        batch[len(used)] = image
        used.append(path)
        sizes.append(image_size)
        if len(used) == size:
            yield batch, used, sizes
            batch, used, sizes = _new_batch(size, preprocessing)
    if used:
        yield batch[: len(used)], used, sizes


def check_batch_size(batch_size: int) -> None:
    """Raise :class:`InputError` unless a batch holds at least one image."""
    if batch_size < 1:
        raise InputError("the batch size is a number of images", got=batch_size, expected="1 or more")


def _new_batch(size: int, preprocessing: Preprocessing) -> tuple[FloatArray, list[Path], list[Size]]:
    return np.empty((size, 3, *preprocessing.crop), np.float32), [], []


def _readable(paths: Sequence[Path], preprocessing: Preprocessing, on_error: OnError) -> Iterator[tuple[Path, _Loaded]]:
    reasons: list[str] = []
    unreadable = 0
    for path, loaded in _load_in_order(paths, preprocessing):
        if not isinstance(loaded, InputError):
            yield path, loaded
            continue
        unreadable += 1
        reasons = [*reasons, loaded.headline][:_REASONS_SHOWN]
        on_error(path, loaded)
    if unreadable == len(paths):
        raise InputError("no image could be read", got=f"{unreadable} unreadable files", details=reasons)


def _load_in_order(paths: Sequence[Path], preprocessing: Preprocessing) -> Iterator[tuple[Path, _Loaded | InputError]]:
    """Each path and its image, or why there is none. Ends its threads when it is closed, by an interrupt too."""
    remaining = iter(paths)
    threads = _threads()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    try:
        ahead = deque(
            (path, pool.submit(_load, path, preprocessing))
            for path in itertools.islice(remaining, _AHEAD_PER_THREAD * threads)
        )
        while ahead:
            path, future = ahead.popleft()
            loaded = future.result()
            ahead.extend((after, pool.submit(_load, after, preprocessing)) for after in itertools.islice(remaining, 1))
            yield path, loaded
    finally:
        pool.shutdown(cancel_futures=True)


def _load(path: Path, preprocessing: Preprocessing) -> _Loaded | InputError:
    try:
        image = decode(path)
    except InputError as error:
        return error
    try:
        return preprocess(image, preprocessing), (image.shape[0], image.shape[1])
    except InputError as error:
        return InputError(f"{path}: {error.what}", got=error.got, expected=error.expected)


def _threads() -> int:
    # In a container the affinity is what is allowed, the CPU count is the whole machine's.
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, _MOST_THREADS)
