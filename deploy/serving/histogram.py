"""Prometheus' histogram, as cheap as a list of counts."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

# Seconds: from a stage of some microseconds to a queue that nobody should wait in.
SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Histogram:
    """Counts of values by the least of ``ends`` that is not below them; one more bucket is above them all."""

    __slots__ = ("_counts", "_ends", "total")

    def __init__(self, ends: Sequence[float] = SECONDS) -> None:
        self._ends, self._counts, self.total = ends, [0] * (len(ends) + 1), 0.0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._ends, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Upper end → values up to it, as the text format has them."""
        return list(zip([*map(str, self._ends), "+Inf"], accumulate(self._counts)))
