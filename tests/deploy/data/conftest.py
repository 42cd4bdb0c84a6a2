"""A tree of images to read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def write_image(path: Path, seed: int = 0, size: tuple[int, int] = (24, 20)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path, quality=90)
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """``root/{ant,bee,cat}/{0,1,2,3}.jpg`` and files that are no images."""
    root = tmp_path / "root"
    for i in range(12):
        write_image(root / ("ant", "bee", "cat")[i // 4] / f"{i % 4}.jpg", seed=i)
    (root / "notes.txt").write_text("no image")
    (root / "bee" / ".hidden.jpg").write_bytes(b"")
    (root / ".cache").mkdir()
    (root / ".cache" / "thumb.jpg").write_bytes(b"")
    return root
