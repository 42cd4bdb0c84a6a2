"""Any number of rows through a runner whose batch axis is fixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from deploy.errors import InputError
from deploy.runtime.base import Array, Runner
from deploy.specs import TensorSpec, batch_of, follows_batch


def fixed_batch(runner: Runner) -> int | None:
    """The batch size a runner insists on, or None where it takes any, or has none."""
    batch = batch_of(runner.inputs)
    return batch if isinstance(batch, int) else None


def rows_of(inputs: Sequence[TensorSpec], feeds: Mapping[str, Array]) -> int:
    """The number of rows in ``feeds``; 1 where the network has no batch axis."""
    batch = batch_of(inputs)
    return max((len(feeds[spec.name]) for spec in inputs if follows_batch(spec, batch)), default=1)


def infer_rows(runner: Runner, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Run all rows of ``feeds``; for a fixed batch in pieces of that size, the last one padded and cut again.

    Inputs that do not follow the batch are fed to every piece as they are. Outputs that do not are those of all pieces,
    one behind the other.

    Raises:
        InputError: the inputs have different numbers of rows or none at all, or do not fit the runner.
    """
    batch = batch_of(runner.inputs)
    alone = {spec.name for spec in runner.inputs if not follows_batch(spec, batch)}
    counts = {name: len(array) for name, array in feeds.items() if name not in alone}
    rows = max(counts.values(), default=1)
    if rows == 0 or len(set(counts.values())) > 1:
        raise InputError("the inputs are not one batch", got=counts, expected="the same number of rows, at least 1")
    if not isinstance(batch, int) or rows == batch:
        return runner.infer(feeds)
    pieces = [_infer_piece(runner, feeds, alone, start, batch) for start in range(0, rows, batch)]
    return {spec.name: _joined([piece[spec.name] for piece in pieces], spec, batch, rows) for spec in runner.outputs}


def _infer_piece(
    runner: Runner, feeds: Mapping[str, Array], alone: set[str], start: int, batch: int
) -> dict[str, Array]:
    # Repeating a real row keeps every value in the range the network knows.
    rows = range(start, start + batch)
    return runner.infer(
        {
            name: array if name in alone else array[[min(row, len(array) - 1) for row in rows]]
            for name, array in feeds.items()
        }
    )


def _joined(pieces: Sequence[Array], spec: TensorSpec, batch: int, rows: int) -> Array:
    joined = np.concatenate([np.atleast_1d(piece) for piece in pieces])
    return joined[:rows] if follows_batch(spec, batch) else joined
