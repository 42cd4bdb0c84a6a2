"""INT8 placement in ``inspect``: one line of every INT8 graph, and each layer with its rule under ``--placement``."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from deploy.cli.console import Console

if TYPE_CHECKING:
    from deploy.graph.explain import Choice, Explanation


def placement_row(explained: Explanation) -> list[str]:
    """How much of a graph is INT8, in one row of a table."""
    share = explained.int8_mac_share
    macs = "" if share is None else f", {100 * share:.1f} % of the multiply-accumulates"
    planned = "by the rules " if explained.planned else ""
    return ["INT8 placement", f"{planned}{explained.int8_layers} of {len(explained.layers)} weighted layers{macs}"]


def placement_document(explained: Explanation, *, layers: bool) -> dict[str, Any]:
    """The same as JSON, with every choice where ``layers``."""
    found = {
        "planned": explained.planned,
        "int8_layers": explained.int8_layers,
        "weighted_layers": len(explained.layers),
        "int8_mac_share": explained.int8_mac_share,
    }
    return found | ({"choices": [asdict(choice) for choice in explained.choices]} if layers else {})


def print_placement(explained: Explanation, console: Console) -> None:
    """A row for every layer with a weight and every residual addition; then why, a row for every rule they follow."""
    total = sum(choice.macs or 0 for choice in explained.choices)
    layers = [
        [
            choice.node,
            choice.operator,
            _precision(choice),
            f"{100 * choice.macs / total:.2f}" if choice.macs and total else "",
            choice.rule,
        ]
        for choice in explained.choices
    ]
    title = "the INT8 graph to be made of it" if explained.planned else None
    console.table(["layer", "operator", "in", "% of MACs", "rule"], layers, title=title)
    reasons = Counter((choice.rule, _precision(choice), choice.why) for choice in explained.choices)
    console.table(["rule", "in", "layers", "why"], [[*rule, n, why] for (*rule, why), n in reasons.most_common()])


def _precision(choice: Choice) -> str:
    return "int8" if choice.int8 else "fp16"
