"""Calibration data from arrays."""

from __future__ import annotations

import numpy as np
import pytest


class Photos:
    """Arrays as calibration data."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def __len__(self):
        return len(self.images)

    def describe(self):
        return f"{len(self)} arrays"

    def digest(self):
        return "none"

    def sample(self, limit):
        return Photos(self.images[:limit])

    def batches(self, size):
        for start in range(0, len(self.images), size):
            yield {"input": self.images[start : start + size]}


@pytest.fixture
def photos() -> type[Photos]:
    return Photos
