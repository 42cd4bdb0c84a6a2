"""Predictions of a detector, made from a seed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

Predictions = Callable[..., dict[str, np.ndarray]]


@pytest.fixture(scope="session")
def predictions() -> Predictions:
    return random_predictions


def random_predictions(
    seed: int = 0, rows: int = 1, boxes: int = 60, classes: int = 3, side: int = 64
) -> dict[str, np.ndarray]:
    """Boxes that crowd, and scores from 0 to 1, a few of them equal."""
    rng = np.random.default_rng(seed)
    centres, sizes = rng.uniform(0, side, (rows, boxes, 2)), rng.uniform(1, side / 2, (rows, boxes, 2))
    corners = np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=2).astype(np.float32)
    scores = rng.uniform(0, 1, (rows, boxes, classes)).astype(np.float32) ** 2
    scores[:, ::7] = scores[:, :1]
    return {"boxes": corners, "scores": scores}
