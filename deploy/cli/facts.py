"""Facts of an artefact's making as rows of a table, alike in ``build`` and ``inspect``."""

from __future__ import annotations

from typing import Any


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
