"""Facts of an artefact's making as rows of a table, alike in ``build`` and ``inspect``."""

from __future__ import annotations

from typing import Any

from deploy.cli.pareto import accuracy


def quantization_rows(facts: dict[str, Any]) -> list[list[str]]:
    """How an FP16 or INT8 graph was made, by this version or one that knew less."""
    rows = []
    if "method" in facts:
        images = f"{facts['method']} over {facts['images']} images; {_settled(facts)}"
        rows.append(["calibration", images if facts["images"] else f"none: ranges of a {facts['method']} cache"])
        if "recipe" in facts:
            rows.append(["recipe", f"{facts['recipe']}: {', '.join(facts['parts']) or 'no part of it'}"])
        share = facts["int8_mac_share"]
        of_macs = f", {100 * share:.1f} % of the multiply-accumulates" if share is not None else ""
        rows.append(["in INT8", f"{facts['int8_layers']} layers{of_macs}; {len(facts['left_out'])} stay FP16"])
    if "search" in facts:
        rows += accuracy(facts["search"])
    if facts.get("fp32_nodes"):
        rows.append(["in FP32", ", ".join(facts["fp32_nodes"])])
    return [*rows, *headroom_rows(facts)]


def _settled(facts: dict[str, Any]) -> str:
    """Whether fewer images would have been enough, or more would have changed something."""
    after, looks = facts.get("ranges_settled_after"), facts.get("convergence")
    if not looks:
        return "too few to tell whether ranges have settled"
    if after is None:
        last = max(map(int, looks))
        return f"ranges still moved after {last} (by {looks[str(last)]:.1f} dB): more may help"
    return f"ranges settled after {after}"


def headroom_rows(facts: dict[str, Any]) -> list[list[str]]:
    """How far FP16's range was from being left; nothing for a graph that says nothing of it."""
    audit = facts.get("range_audit")
    if audit is None:
        return []
    if not facts.get("fp16_headroom"):
        return [["FP16 headroom", audit]]
    nearest = facts["fp16_headroom"][0]
    times, tensor, peak = nearest["headroom"], nearest["tensor"], nearest["max"]
    return [["FP16 headroom", f"smallest {times:,.0f}× at {tensor}, which reaches {peak:.4g}"]]
