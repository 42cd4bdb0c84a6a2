"""The plots of the report, drawn from the JSON document."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from deploy.parity.report.svg import Frame, callout, dot, element, line, power_of_ten, text, ticks

FP16_MAX, FP16_TINY = 65504.0, 2.0**-14

Row = Mapping[str, Any]


def decibel(row: Row, key: str) -> str:
    """An SQNR of the document in words: JSON has neither infinity, nor the NaN of a tensor that is zero throughout."""
    if row[key] is not None:
        return f"{row[key]:.1f} dB"
    if row.get("peak") == 0 and row["finite"]:  # outputs have no peak
        return "no signal"
    return "exact" if row["finite"] else "overflow"


def sqnr_plot(layers: Sequence[Row], own_worst: Row | None, step_worst: Row | None, width: int) -> str:
    """SQNR by layer in dB: accumulated as a line, own as points; the two worst are named."""
    known = [row[key] for row in layers for key in ("sqnr_db", "own_sqnr_db") if row[key] is not None] or [0.0, 60.0]
    low, high = 10 * math.floor(min(known) / 10 - 0.8), 10 * math.ceil(max(known) / 10 + 0.8)
    frame = Frame(width, 340, (0, max(1, len(layers) - 1)), (low, high), right=86)
    parts = [
        frame.y_axis(ticks(low, high, 8), "dB"),
        frame.x_axis(ticks(0, len(layers) - 1, width // 90), "layer, in the order of execution"),
        _curve(frame, layers),
        *_points(frame, layers, "own_sqnr_db", "own"),
        *_points(frame, layers, "sqnr_db", "accumulated"),
        _end_labels(frame, layers),
        "" if all(row["finite"] for row in layers) else text("overflow", frame.left + 4, frame.y(low) - 6, "callout"),
        _named(frame, layers, "own_sqnr_db", own_worst, "loses most by itself", below=True),
        _named(frame, layers, "sqnr_db", step_worst, "falls most", below=False),
    ]
    return frame.drawing(*parts, label="SQNR by layer in decibel, accumulated and own")


def _level(frame: Frame, row: Row, key: str) -> float:
    """What is exact is drawn on top, what overflows at the bottom."""
    value = row[key]
    return float(value if value is not None else frame.y_range[1 if row["finite"] else 0])


def _curve(frame: Frame, layers: Sequence[Row]) -> str:
    points = [f"{frame.x(i):.1f},{frame.y(_level(frame, row, 'sqnr_db')):.1f}" for i, row in enumerate(layers)]
    return element("polyline", points=" ".join(points), class_="curve")


def _points(frame: Frame, layers: Sequence[Row], key: str, name: str) -> list[str]:
    return [
        dot(frame.x(i), frame.y(_level(frame, row, key)), 3, name, f"{row['layer']}: {decibel(row, key)} {name}")
        for i, row in enumerate(layers)
    ]


def _end_labels(frame: Frame, layers: Sequence[Row]) -> str:
    """The names of the two series behind their last points, apart from each other."""
    x = frame.width - frame.right + 8
    own, accumulated = (frame.y(_level(frame, layers[-1], key)) for key in ("own_sqnr_db", "sqnr_db"))
    if abs(own - accumulated) < 14:
        own, accumulated = min(own, accumulated) - 4, max(own, accumulated) + 10
    return text("own", x, own + 4, "own") + text("accumulated", x, accumulated + 4, "accumulated")


def _named(frame: Frame, layers: Sequence[Row], key: str, worst: Row | None, why: str, *, below: bool) -> str:
    if worst is None:
        return ""
    x, y = frame.x(layers.index(worst)), frame.y(_level(frame, worst, key))
    label = f"{why}: {worst['layer']}"
    return dot(x, y, 7, "ring", label) + callout(frame, label, x, y, below=below)


def range_plot(layers: Sequence[Row], width: int) -> str:
    """max |x| by layer on a logarithmic scale, between the limits of FP16."""
    peaks = [row["peak"] for row in layers if row["peak"]] or [1.0]
    low = 10.0 ** math.floor(math.log10(min(*peaks, FP16_TINY)))
    high = 10.0 ** math.ceil(math.log10(max(*peaks, FP16_MAX)) + 0.1)
    frame = Frame(width, 260, (0, max(1, len(layers) - 1)), (low, high), log=True)
    marks = [10.0**power for power in range(round(math.log10(low)), round(math.log10(high)) + 1, 2)]
    dots = [_peak(frame, index, row) for index, row in enumerate(layers) if row["peak"]]
    parts = [
        frame.y_axis(marks, "max |x|", power_of_ten),
        frame.x_axis(ticks(0, len(layers) - 1, width // 90), "layer, in the order of execution"),
        _limit(frame, FP16_MAX, "65504: FP16 ends"),
        _limit(frame, FP16_TINY, "2⁻¹⁴: FP16 loses precision"),
        *dots,
    ]
    return frame.drawing(*parts, label="max |x| by layer and the limits of FP16")


def _peak(frame: Frame, index: int, row: Row) -> str:
    series = "accumulated" if row["fp16"] else "own"
    return dot(frame.x(index), frame.y(row["peak"]), 3, series, f"{row['layer']}: {row['peak']:.3g}")


def _limit(frame: Frame, value: float, label: str) -> str:
    y, right = frame.y(value), frame.width - frame.right
    return line(frame.left, y, right, y, "limit") + text(label, right, y - 5, "callout", "end")


def histogram(found: Row) -> str:
    """The histogram of |x| of one tensor, counts on a logarithmic scale, with the clip drawn in."""
    counts, step = found["counts"], found["limit"] / len(found["counts"])
    end = max(found["peak"], found["clip"]) or found["limit"]
    shown = counts[: math.ceil(end / step)]
    frame = Frame(240, 110, (0, end), (0, math.log10(1 + max(counts, default=0)) or 1), 4, 4, 14, 16)
    clip = frame.x(found["clip"])
    near = clip > frame.width / 2
    parts = [
        _bars(frame, shown, step, found["clip"], kept=True),
        _bars(frame, shown, step, found["clip"], kept=False),
        line(4, 94, 236, 94, "base"),
        line(clip, 4, clip, 94, "limit"),
        text("clip", clip + (-4 if near else 4), 12, "callout", "end" if near else "start"),
        text("0", 4, 107, "axis"),
        text(f"{end:.3g}", 236, 107, "axis", "end"),
    ]
    return frame.drawing(*parts, label=f"histogram of |x| of {found['tensor']}")


def _bars(frame: Frame, counts: Sequence[int], step: float, clip: float, *, kept: bool) -> str:
    """One path for all the bars below the clip, or beyond it."""
    floor, pieces = frame.y(0), []
    for index, count in enumerate(counts):
        if count and (index * step < clip) == kept:
            left, right = frame.x(index * step), frame.x(min((index + 1) * step, frame.x_range[1]))
            pieces.append(f"M{left:.1f} {floor:.1f}V{frame.y(math.log10(1 + count)):.1f}H{right:.1f}V{floor:.1f}Z")
    return element("path", d="".join(pieces), class_="kept" if kept else "lost")


def metric_of(search: Row) -> str:
    """What the search has judged by, in words."""
    return str({"top1": "top-1"}.get(search["metric"], search["metric"]))


def pareto_plot(search: Row, width: int) -> str:
    """What each form of the network that was tried loses, with its interval, against its latency."""
    points, metric = search["pareto"], metric_of(search)
    latency = [point["latency"] for point in points]
    drops = [search["budget"], *(point[key] for point in points for key in ("low", "high", "drop"))]
    x_pad, y_pad = ((max(each) - min(each)) * 0.08 or 1e-3 for each in (latency, drops))
    x_range, y_range = ((min(each) - pad, max(each) + pad) for each, pad in ((latency, x_pad), (drops, y_pad)))
    frame = Frame(width, 300, x_range, y_range, left=52)
    parts = [
        frame.y_axis(ticks(*y_range, 6), f"{metric} lost, points"),
        frame.x_axis(ticks(*x_range, width // 120), f"latency, {points[0]['latency_how']}"),
        _limit(frame, search["budget"], "budget"),
        *(_interval(frame, point) for point in points),
    ]
    return frame.drawing(*parts, label=f"{metric} lost against latency")


def _interval(frame: Frame, point: Row) -> str:
    x, y = frame.x(point["latency"]), frame.y(point["drop"])
    name = "own" if point["chosen"] else "accumulated"
    ends = line(x, frame.y(point["low"]), x, frame.y(point["high"]), f"interval {name}")
    share, layers = 100 * point["int8_mac_share"], len(point["fp16_layers"])
    tip = f"{point['drop']:.2f} points lost, {share:.0f} % of the work in INT8, {layers} layers in FP16"
    return ends + dot(x, y, 4, name, tip) + (text("chosen", x + 8, y + 4, "own") if point["chosen"] else "")
