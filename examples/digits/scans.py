"""The handwritten digits that come with scikit-learn, as PNG files a deployment could meet.

1797 real scans of 8x8 pixels (E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits, UCI, 1998).
Neighbouring scans come from the same hand: the last 450 are held out as a block, so that the network is judged mostly
on hands it has never seen.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

HELD_OUT = 450
CALIBRATION_PER_DIGIT = 20
# A margin of 4 pixels around 7 pixels for each scanned one: the evaluation crop (64 of 73) then cuts the margin only.
SCALE, MARGIN = 7, 4


class Scan(NamedTuple):
    """One digit: its number in the data set, the digit, grey pixels ``uint8 [64, 64]``, ink white."""

    number: int
    digit: int
    pixels: NDArray[np.uint8]


def load_scans() -> tuple[list[Scan], list[Scan]]:
    """The scans to learn from and those held out."""
    images, digits = load_digits(return_X_y=True)
    pairs = zip(images, digits, strict=True)
    scans = [Scan(i, int(digit), _enlarge(image.reshape(8, 8))) for i, (image, digit) in enumerate(pairs)]
    return scans[:-HELD_OUT], scans[-HELD_OUT:]


def write_data(folder: Path) -> None:
    """Write ``heldout/<digit>/*.png`` (all) and ``calibration/<digit>/*.png`` (some of the scans learnt from)."""
    learnt, held_out = load_scans()
    for part, scans in (("heldout", held_out), ("calibration", first_of_each(learnt, CALIBRATION_PER_DIGIT))):
        for scan in scans:
            write_png(scan, folder / part / str(scan.digit) / f"{scan.number:04}.png")


def write_png(scan: Scan, path: Path) -> None:
    """Write a scan as a grey PNG, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scan.pixels).save(path)


def first_of_each(scans: Iterable[Scan], count: int) -> list[Scan]:
    """The first ``count`` scans of every digit, in the data set's order."""
    left = dict.fromkeys(range(10), count)
    chosen = []
    for scan in scans:
        if left[scan.digit]:
            left[scan.digit] -= 1
            chosen.append(scan)
    return chosen


def _enlarge(scan: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Scanned values go from 0 to 16."""
    grey = np.round(scan * (255 / 16)).astype(np.uint8)
    side = 8 * SCALE
    return np.pad(np.asarray(Image.fromarray(grey).resize((side, side), Image.Resampling.BICUBIC)), MARGIN)
