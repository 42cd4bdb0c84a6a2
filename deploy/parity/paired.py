"""What one classifier loses against another on the same images, and how sure that is.

Images that both get right, or both wrong, tell nothing of the difference; the others do. The interval is T. Tango's
score interval for paired proportions ("Equivalence test and confidence interval for the difference in proportions for
the paired-sample design", Statistics in Medicine 17, 1998): it keeps its 95 % where few images differ, or none.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass

from deploy.runtime.base import Array

# The 97.5th percentile of the standard normal distribution.
_Z = 1.959964
_HALVINGS = 60


@dataclass(frozen=True)
class PairedDifference:
    """Counts of images: all of them, those only the first gets right (``lost``), those only the second (``gained``).

    ``gains`` is False where what the first answers counts as right: then nothing can be gained.
    """

    images: int
    lost: int
    gained: int
    gains: bool = True

    @property
    def drop(self) -> float:
        """Points of accuracy that the second is below the first."""
        return 100 * (self.lost - self.gained) / self.images

    @property
    def discordance(self) -> float:
        """The share of images, 0 to 1, that one of them gets right and the other wrong."""
        return (self.lost + self.gained) / self.images

    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of :attr:`drop`, in points."""
        low = -_upper_end(self.images, self.gained, self.lost)
        low = low if self.gains else max(low, 0.0)
        return 100 * low, 100 * _upper_end(self.images, self.lost, self.gained)


def paired_difference(first: Array, second: Array, *, gains: bool = True) -> PairedDifference:
    """Of two arrays of bool ``[images]``: which images each classifier gets right."""
    return PairedDifference(len(first), int((first & ~second).sum()), int((~first & second).sum()), gains)


def images_needed(budget: float, discordance: float, drop: float = 0.0) -> int | None:
    """The fewest images that show the drop to be within ``budget``; None where no number would.

    Of so many the 95 % interval ends at the budget, if drop and discordance stay what they are.

    Args:
        budget: points of accuracy.
        discordance: the share of images, 0 to 1, that one gets right and the other wrong.
        drop: points of accuracy lost.
    """
    share = drop / 100
    if budget <= max(drop, 0.0):
        return None

    def within(images: int) -> bool:
        lost, gained = images * (discordance + share) / 2, images * (discordance - share) / 2
        return 100 * _upper_end(images, lost, gained) <= budget

    enough = 1
    while not within(enough):
        enough *= 2
    return bisect.bisect_left(range(enough), True, key=within)


def _upper_end(images: float, lost: float, gained: float) -> float:
    """The largest difference of shares that the score test at 5 % lets pass."""
    inside, outside = (lost - gained) / images, 1.0
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if _passes(images, lost, gained, middle) else (inside, middle)
    return outside


def _passes(n: float, lost: float, gained: float, difference: float) -> bool:
    # Tango's maximum-likelihood share of images gained, given the difference.
    b = (2 * n - lost + gained) * difference - lost - gained
    c = -gained * difference * (1 - difference)
    share = (math.sqrt(b * b - 8 * n * c) - b) / (4 * n)
    variance = n * (2 * share + difference * (1 - difference))
    return (lost - gained - n * difference) ** 2 <= _Z**2 * variance
