"""What a list of times says, computed as trtexec does it (TensorRT, samples/common/sampleReporting.cpp)."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from deploy.runtime.base import Array

# Of the curve that plots draw.
_STEPS = range(0, 101, 2)


@dataclass(frozen=True)
class Figures:
    """Of times in milliseconds.

    Attributes:
        median: p50, the mean of the middle two where their number is even.
        p90, p99: of n times in ascending order, that at index n - 1 - int((1 - p / 100) * n); so p99 of fewer than 100
            is the maximum.
        cv_percent: coefficient of variation, standard deviation over mean.
        iqr_percent: interquartile range over median, which a few outliers do not move.
    """

    min: float
    max: float
    mean: float
    median: float
    p90: float
    p99: float
    cv_percent: float
    iqr_percent: float

    @staticmethod
    def of(times: Sequence[float]) -> Figures:
        """Of at least one time."""
        ordered = np.sort(np.asarray(times, np.float64))
        mean, median = float(ordered.mean()), float(np.median(ordered))
        quarter, three_quarters = np.percentile(ordered, [25, 75])
        return Figures(
            min=float(ordered[0]),
            max=float(ordered[-1]),
            mean=mean,
            median=median,
            p90=percentile(ordered, 90),
            p99=percentile(ordered, 99),
            cv_percent=100 * float(ordered.std()) / mean if mean else 0.0,
            iqr_percent=100 * float(three_quarters - quarter) / median if median else 0.0,
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def percentile(ordered: Array, percent: int) -> float:
    """trtexec's ``findPercentile`` of ascending times, in its FP32, where (1 - 0.9) * 10 is 1 and not less."""
    share = np.float32(1) - np.float32(percent) / np.float32(100)
    excluded = int(share * np.float32(len(ordered)))
    return float(ordered[max(len(ordered) - 1 - excluded, 0)])


def curve(times: Sequence[float]) -> list[list[float]]:
    """[percent, milliseconds] from the fastest query to the slowest."""
    values = np.percentile(np.asarray(times, np.float64), list(_STEPS))
    return [[float(step), float(value)] for step, value in zip(_STEPS, values)]


def drift_percent(turns: Sequence[Sequence[float]]) -> float | None:
    """How much slower the second half of the turns was than the first, by the median; None of a single turn."""
    half = len(turns) // 2
    if not half:
        return None
    first, second = ([time for turn in part for time in turn] for part in (turns[:half], turns[-half:]))
    return 100 * (statistics.median(second) / statistics.median(first) - 1)


@dataclass(frozen=True)
class Ratio:
    """One artefact's median time over another's, turn by turn: what slows both sides of a turn leaves it alone.

    Attributes:
        median: of the turns.
        low, high: their quartiles.
    """

    median: float
    low: float
    high: float

    @staticmethod
    def of(turns: Sequence[Sequence[float]], first: Sequence[Sequence[float]]) -> Ratio:
        ratios = [statistics.median(mine) / statistics.median(theirs) for mine, theirs in zip(turns, first)]
        low, median, high = np.percentile(ratios, [25, 50, 75])
        return Ratio(float(median), float(low), float(high))

    def to_dict(self) -> dict[str, float]:
        return asdict(self)
