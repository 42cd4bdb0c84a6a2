"""Any number of rows through a runner whose batch axis is fixed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from deploy.errors import InputError
from deploy.runtime.base import Array, Runner


def fixed_batch(runner: Runner) -> int | None:
    """The batch size a runner insists on, or None where its first axis is dynamic."""
    shape = runner.inputs[0].shape
    return shape[0] if shape and isinstance(shape[0], int) else None


def infer_rows(runner: Runner, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Run all rows of ``feeds``; for a fixed batch in pieces of that size, the last one padded and cut again.

    Raises:
        InputError: the inputs have different numbers of rows or none at all, or do not fit the runner.
    """
    counts = {name: len(array) for name, array in feeds.items()}
    rows = max(counts.values(), default=0)
    if rows == 0 or len(set(counts.values())) > 1:
        raise InputError("the inputs are not one batch", got=counts, expected="the same number of rows, at least 1")
    batch = fixed_batch(runner)
    if batch is None or rows == batch:
        return runner.infer(feeds)
    pieces = [_infer_piece(runner, feeds, start, batch) for start in range(0, rows, batch)]
    return {name: np.concatenate([piece[name] for piece in pieces])[:rows] for name in pieces[0]}


def _infer_piece(runner: Runner, feeds: Mapping[str, Array], start: int, batch: int) -> dict[str, Array]:
    piece = {name: array[start : start + batch] for name, array in feeds.items()}
    missing = batch - len(next(iter(piece.values())))
    if missing:
        # Repeating a real row keeps every value in the range the network knows.
        piece = {name: np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]) for name, part in piece.items()}
    return runner.infer(piece)
