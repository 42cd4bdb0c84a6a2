"""What ``verify --layers`` prints for a person: a row per layer, and which one loses most."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from deploy.cli.console import Console

if TYPE_CHECKING:
    from deploy.parity.layers import LayerReport, Range, TensorLoss

_MOST_FINDINGS = 8


def print_layers(report: LayerReport, console: Console) -> None:
    """The table of layers, the worst of them, and tensors near FP16's limits."""
    ranges = {found.tensor: found for found in report.ranges}
    columns = ["layer", "SQNR dB", "own dB", "max |x|", "headroom"]
    columns += ["input clip", "clipped %"] if ranges else []
    console.table(columns, [_row(loss, ranges) for loss in report.layers])
    console.text(worst(report))
    for finding in report.findings[:_MOST_FINDINGS]:
        console.text(f"{finding.why}; it {finding.outcome}")
    if more := report.findings[_MOST_FINDINGS:]:
        console.text(f"and {len(more)} more tensors near FP16's limits (--json lists them)")


def worst(report: LayerReport) -> str:
    """Which layer loses most, in one line."""
    own, step = report.largest_own_loss, report.largest_step
    if own is None:
        return "no layer loses anything"
    line = f"largest own loss: {own.layer}, {_loss(own.own_sqnr_db)} by itself"
    if step is None or step.step_db is None:
        return line
    fall = f"from {step.sqnr_db + step.step_db:.1f} to " if step.finite else "to "
    return f"{line}; largest step down: {step.layer}, {fall}{_loss(step.sqnr_db)}"


def _row(loss: TensorLoss, ranges: dict[str, Range]) -> list[str]:
    row = [loss.layer, _decibel(loss.sqnr_db), _decibel(loss.own_sqnr_db), f"{loss.peak:.3g}", _factor(loss.headroom)]
    if not ranges:
        return row
    if not (known := [ranges[name] for name in loss.quantized if name in ranges]):
        return [*row, "", ""]
    tightest = max(known, key=lambda found: found.clipped)
    return [*row, f"{tightest.clip:.3g}", f"{100 * tightest.clipped:.3f}"]


def _loss(value: float) -> str:
    return f"{value:.1f} dB" if math.isfinite(value) else "an overflow"


def _decibel(value: float) -> str:
    if math.isnan(value):
        return "no signal"
    return f"{value:.1f}" if math.isfinite(value) else ("exact" if value > 0 else "overflow")


def _factor(value: float) -> str:
    return f"{value:.2g}" if value < 10 else (f"{value:.0f}" if math.isfinite(value) else "any")
