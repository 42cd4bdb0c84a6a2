"""What must hold after the soak test."""

from __future__ import annotations

import re
from typing import Any

from _soak_client import Ledger
from _soak_server import DRAIN_SECONDS, Sample

FLAT_PERCENT = 5.0
# What was sent so long before SIGTERM has been read by the server, however busy both are.
READ_SECONDS = 1.0
_SHOWN = 20


def answers(before: Ledger, after: Ledger, killed: float) -> list[str]:
    """Wrong answers, and requests that got none: before SIGTERM nothing may be lost."""
    faults = before.faults + after.faults
    lost = before.lost + [(sent, kind) for sent, kind in after.lost if sent < killed - READ_SECONDS]
    faults += [f"{kind}, sent {killed - sent:.2f} s before SIGTERM, was never answered" for sent, kind in lost]
    return faults[:_SHOWN] + ([f"… and {len(faults) - _SHOWN} more"] if len(faults) > _SHOWN else [])


def memory(growth: dict[str, float]) -> list[str]:
    return [
        f"memory grew: {name.replace('_', ' ')} {growth[name]:.1f}, at most {FLAT_PERCENT:g}"
        for name in ("gained_percent", "fifths_percent")
        if growth[name] > FLAT_PERCENT
    ]


def held(samples: list[Sample], idle: Sample, quiet: Sample) -> list[str]:
    """Descriptors go back to what they were; threads are pools that are full after the warm-up."""
    found = []
    if quiet.descriptors > idle.descriptors + 2:
        found.append(f"descriptors leak: {idle.descriptors} before, {quiet.descriptors} after the clients had gone")
    if samples[-1].threads > samples[0].threads + 2:
        found.append(f"threads grow: {samples[0].threads} after the warm-up, {samples[-1].threads} at the end")
    return found


def sums(ledger: Ledger, counted: dict[str, Any], metrics: str, models: tuple[str, ...]) -> list[str]:
    """The server's counts of models that were never reloaded lie between what was seen and what may have been."""
    found = []
    for name in models:
        stats, row = counted[name]["inference_stats"], counted[name]
        ok, refused, left = ledger.answered[name], ledger.refused[name], ledger.left[name]
        success, fail = stats["success"]["count"], stats["fail"]["count"]
        told = f"'{name}': server {success} + {fail}, clients {ok} answered, {refused} refused, {left} left"
        if not ok <= success <= ok + left or not ok + refused <= success + fail <= ok + refused + left:
            found.append(f"statistics do not add up: {told}")
        batches = row["batch_stats"]
        runs = sum(batch["compute_infer"]["count"] for batch in batches)
        rows = sum(batch["compute_infer"]["count"] * batch["batch_size"] for batch in batches)
        if (runs, rows) != (row["execution_count"], row["inference_count"]):
            found.append(f"batches of '{name}' do not add up: {runs} runs, {rows} rows, {row}")
        scraped = re.search(
            rf'^nv_inference_request_success{{model="{name}",version="1"}} (\S+)$', metrics, re.MULTILINE
        )
        if scraped is None or float(scraped[1]) != success:
            found.append(f"the metrics of '{name}' differ from its statistics: {scraped and scraped[1]}, {success}")
        pending = re.search(rf'^nv_inference_pending_request_count{{model="{name}",version="1"}} (\S+)$', metrics, re.M)
        if pending is None or float(pending[1]) != 0:
            found.append(f"'{name}' has requests pending when all clients have gone: {pending and pending[1]}")
    return found


def end(ended: dict[str, Any], log: str) -> list[str]:
    found = []
    if ended["code"] != 0 or ended["seconds"] > DRAIN_SECONDS:
        found.append(
            f"SIGTERM: exit code {ended['code']} after {ended['seconds']} s, within {DRAIN_SECONDS:g} s expected"
        )
    for sign in ("Traceback", "Error", "never awaited", "never retrieved"):
        if sign in log:
            start = log.index(sign)
            found.append(f"the server's log has '{sign}': {log[start : start + 6000]}")
            break
    return found
