"""What a search under an accuracy budget found, for a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deploy.cli.console import Console

_METRICS = {"top1": "top-1 %", "agreement": "agreement %"}


def print_front(search: Mapping[str, Any], console: Console) -> None:
    """The graphs worth having, as a table: most in INT8 first, each loses less than those above it."""
    points = search["pareto"]
    columns = ["", "INT8 MACs %", f"latency ({points[0]['latency_how']})", _METRICS[search["metric"]]]
    columns += ["points lost", "95 % interval", "layers in FP16"]
    rows = [
        [
            "chosen" if point["chosen"] else "",
            _percent(point["int8_mac_share"]),
            "unknown" if point["latency"] is None else f"{point['latency']:.2f}",
            f"{point['score']:.1f}",
            f"{point['drop']:.2f}",
            f"{point['low']:.2f} to {point['high']:.2f}",
            len(point["fp16_layers"]),
        ]
        for point in points
    ]
    console.table(columns, rows, title="latency: that of the FP16 graph is 1")


def accuracy(search: Mapping[str, Any]) -> list[list[str]]:
    """Rows on the graph that was chosen."""
    (chosen,) = (point for point in search["pareto"] if point["chosen"])
    kept = chosen["fp16_layers"]
    name = "top-1" if search["metric"] == "top1" else "top-1 agreement with FP32"
    rows = [
        [
            name,
            f"{search['fp32_score']:.1f} % → {chosen['score']:.1f} %: {chosen['drop']:.2f} points lost (95 % interval "
            f"{chosen['low']:.2f} to {chosen['high']:.2f}), at most {search['budget']:g} allowed",
        ],
        ["judged on", f"{search['images']} images: {search['judged_on']}"],
    ]
    return [*rows, ["in FP16 for that", ", ".join(kept)]] if kept else rows


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{100 * share:.1f}"
