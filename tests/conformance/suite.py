"""All cases, what was recorded of both servers, and why they may differ.

``observations/triton.json`` and ``observations/ours.json`` hold an observation for each case. ``differences.toml``
gives the reason for each case in which the two are not equal; docs/serving.md lists it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tomllib

from conformance import cases_grpc, cases_infer, cases_malformed, cases_memory, cases_protocol
from conformance.requests import Case

FOLDER = Path(__file__).parent
HTTP: tuple[Case, ...] = (*cases_protocol.CASES, *cases_infer.CASES, *cases_malformed.CASES, *cases_memory.CASES)
CASES = (*HTTP, *cases_grpc.CASES)
SERVERS = ("triton", "ours")


def recorded(server: str) -> dict[str, Any]:
    """Case → observation, of one of ``SERVERS``."""
    return json.loads((FOLDER / "observations" / f"{server}.json").read_text("utf-8"))


def record(server: str, observations: dict[str, Any]) -> None:
    rows = [f"{json.dumps(name)}: {json.dumps(seen, sort_keys=True)}" for name, seen in observations.items()]
    (FOLDER / "observations" / f"{server}.json").write_text("{\n" + ",\n".join(rows) + "\n}\n", "utf-8")


def justified() -> list[dict[str, Any]]:
    """Rows of ``triton``, ``ours``, ``reason`` (one sentence each) and ``cases`` (names)."""
    return tomllib.loads((FOLDER / "differences.toml").read_text("utf-8"))["difference"]


def differing(theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """The names of the cases that were observed on both sides and are not equal."""
    return [name for name, seen in ours.items() if name in theirs and seen != theirs[name]]
