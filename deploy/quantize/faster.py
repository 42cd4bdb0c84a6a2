"""Which layers INT8 does not make faster: a decision on times measured in both precisions."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence

# ONNX nodes that an engine computes together → milliseconds.
Times = Mapping[frozenset[str], float]


def not_faster(
    rounds: Sequence[tuple[Times, Times]], layers: Collection[str], helpers: Mapping[str, Collection[str]]
) -> dict[str, str]:
    """The layers to leave in FP16 → the reason, with the medians of their times.

    INT8 is faster where it is so in every round: were both as fast, five rounds would say so by chance 1 time in 32.
    Engines fuse differently in the two precisions, so what is compared are the smallest sets of nodes that both compute
    apart from all others; all layers of a set return, or none. A layer that one of the engines says nothing of stays.

    Args:
        rounds: for each, times of the INT8 engine and of the FP16 engine, measured one after the other.
        layers: the nodes in INT8.
        helpers: Q/DQ node → the nodes it quantizes for. One that an engine computes by itself is part of their time.
    """
    pairs = [(_charged(int8, helpers), _charged(fp16, helpers)) for int8, fp16 in rounds]
    known = [set().union(*times) for pair in pairs for times in pair]
    reasons: dict[str, str] = {}
    for nodes in _together(group for pair in pairs for times in pair for group in times):
        inside = sorted(nodes.intersection(layers))
        if not all(node in seen for node in inside for seen in known):
            continue
        spent = [(_sum(int8, nodes), _sum(fp16, nodes)) for int8, fp16 in pairs]
        if not all(int8 < fp16 for int8, fp16 in spent):
            reasons |= dict.fromkeys(inside, _reason(spent, len(inside)))
    return reasons


def _charged(times: Times, helpers: Mapping[str, Collection[str]]) -> dict[frozenset[str], float]:
    """Times by the nodes that the FP32 graph has too; a helper fused with one of them is part of it."""
    charged: dict[frozenset[str], float] = {}
    for group, milliseconds in times.items():
        nodes = frozenset(group - helpers.keys()) or frozenset(node for helper in group for node in helpers[helper])
        charged[nodes] = charged.get(nodes, 0.0) + milliseconds
    return charged


def _together(groups: Iterable[frozenset[str]]) -> list[frozenset[str]]:
    """The groups, with those that share a node joined."""
    joined: list[frozenset[str]] = []
    for group in groups:
        touching = [each for each in joined if each & group]
        joined = [each for each in joined if not each & group] + [group.union(*touching)]
    return joined


def _sum(times: Times, nodes: frozenset[str]) -> float:
    return sum(milliseconds for group, milliseconds in times.items() if group <= nodes)


def _reason(spent: Sequence[tuple[float, float]], layers: int) -> str:
    int8, fp16 = (statistics.median(times) for times in zip(*spent, strict=True))
    together = f" for {layers} layers together" if layers > 1 else ""
    return f"INT8 is not faster here: {int8:.3g} ms against {fp16:.3g} ms in FP16{together}"
