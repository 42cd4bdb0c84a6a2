"""When a comparison is good enough: default limits per precision, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from deploy.parity.compare import SMALLEST_SPREAD, Comparison
from deploy.specs import Precision

NOT_FINITE = "NaN or infinity in the output"
ALIKE = "the reference answers every input alike"


@dataclass(frozen=True)
class Limits:
    """What a precision must keep; None is not judged. See :class:`deploy.parity.compare.Comparison` for the words."""

    relative: float | None = None
    sqnr_db: float | None = None
    cosine: float | None = None
    agreement: float | None = None

    def tightened(self, relative: float | None) -> Limits:
        """These limits, with ``--tolerance`` in place of the relative one."""
        return self if relative is None else replace(self, relative=relative)

    def failures(self, comparison: Comparison) -> list[str]:
        """Why ``comparison`` misses these limits, in words; empty means it keeps them."""
        return [*_without_spread(comparison), *self.distances(comparison)]

    def all_failures(self, outputs: Mapping[str, Comparison]) -> dict[str, list[str]]:
        """The failures of each output; that one is constant is none where another spreads."""
        alike = all(_without_spread(comparison) for comparison in outputs.values())
        judge = self.failures if alike else self.distances
        return {name: judge(comparison) for name, comparison in outputs.items()}

    def distances(self, comparison: Comparison) -> list[str]:
        """:meth:`failures` but for a reference that answers every input alike."""
        if not comparison.finite:
            return [NOT_FINITE]
        if comparison.agreement is not None:
            share, least = comparison.agreement, self.agreement or 0.0
            return [f"{100 * share:.1f} % of the elements agree, under {100 * least:g} %"] if share < least else []
        reasons = []
        if self.relative is not None and not comparison.relative <= self.relative:
            reasons.append(f"relative error {comparison.relative:.2e} over {self.relative:.0e}")
        if self.sqnr_db is not None and not comparison.sqnr_db >= self.sqnr_db:
            reasons.append(f"SQNR {comparison.sqnr_db:.1f} dB under {self.sqnr_db:.0f} dB")
        if self.cosine is not None and not comparison.cosine >= self.cosine:
            reasons.append(f"cosine {comparison.cosine:.4f} under {self.cosine}")
        return reasons


def _without_spread(comparison: Comparison) -> list[str]:
    if not comparison.finite or comparison.samples < 2 or not comparison.spread < SMALLEST_SPREAD:
        return []
    return [f"{ALIKE} (spread {comparison.spread:.1e}): proves nothing"]


# FP32: the order of additions. FP16: 11 bits of significand give about 60 dB, networks here keep 45 and more.
# INT8: trained mobile networks keep 15 to 27 dB at the logits; below 10 dB predictions change in bulk.
# Integers (an argmax in the graph): near ties flip, more of them on made-up images than on real ones.
DEFAULT_LIMITS = {
    Precision.FP32: Limits(relative=1e-4, agreement=0.99),
    Precision.FP16: Limits(relative=2e-2, sqnr_db=40.0, cosine=0.999, agreement=0.9),
    Precision.INT8: Limits(sqnr_db=10.0, agreement=0.75),
}


def coarser(one: Precision, other: Precision) -> Precision:
    """The less precise of the two: what a comparison of them can be held to."""
    order = list(DEFAULT_LIMITS)
    return max(one, other, key=order.index)
