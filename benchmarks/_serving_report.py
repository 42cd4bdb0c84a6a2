"""What the turns of ``benchmarks/serving.py`` say: medians, paired ratios with their spread, and the promises."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from _serving_inputs import KINDS

BOUND, TIMES, MOST_ADDED_MS = 0.95, {"triton": 1.0, "mlserver": 2.0, "litserve": 2.0}, 1.5
AT = 64


@dataclass(frozen=True)
class Turn:
    """One server asked once.

    Attributes:
        rate: of the open loop in requests a second; None is a closed loop.
        throughput: replies a second; ``p50_ms``, ``p99_ms`` of their latencies, of the bound's too.
        memory_mb: proportional set size of all its processes.
        cpu_ms, load_cpu_ms: processor time for each reply, of the server and of the load generator.
        unanswered: of an open loop.
    """

    round: int
    kind: str
    connections: int
    rate: float | None
    server: str
    throughput: float
    p50_ms: float
    p99_ms: float
    memory_mb: float
    cpu_ms: float
    load_cpu_ms: float
    unanswered: int = 0

    def line(self) -> str:
        how = f"{self.kind} × {self.connections}" + (f" at {self.rate:g}/s" if self.rate else "")
        figures = f"{self.throughput:.0f}/s, p50 {self.p50_ms:.2f} p99 {self.p99_ms:.2f} ms"
        cost = f"CPU {self.cpu_ms:.2f} + {self.load_cpu_ms:.2f} ms, {self.memory_mb:.0f} MB"
        return f"{self.server}, {how}: {figures}, {cost}" + (f", {self.unanswered} unanswered" * bool(self.unanswered))


Key = tuple[str, int, float | None]


class Results:
    """Turns by what was asked."""

    def __init__(self, turns: Sequence[Turn]) -> None:
        self.turns = turns
        self.keys: list[Key] = list(dict.fromkeys((turn.kind, turn.connections, turn.rate) for turn in turns))

    def servers(self, key: Key) -> list[str]:
        return list(dict.fromkeys(turn.server for turn in self._at(key)))

    def median(self, key: Key, server: str, what: str) -> float:
        return median(getattr(turn, what) for turn in self._at(key) if turn.server == server)

    def pairs(self, key: Key, peer: str, of: Callable[[Turn, Turn], float]) -> list[float]:
        """``of(ours, theirs)`` for each round."""
        ours, theirs = ({turn.round: turn for turn in self._at(key) if turn.server == name} for name in ("ours", peer))
        return [of(ours[number], theirs[number]) for number in sorted(set(ours) & set(theirs))]

    def _at(self, key: Key) -> list[Turn]:
        return [turn for turn in self.turns if (turn.kind, turn.connections, turn.rate) == key]


def report(turns: Sequence[Turn]) -> str:
    """Tables for docs/benchmarks.md, then what was promised."""
    results = Results(turns)
    tables = [line for key in results.keys for line in ["", _title(key), "", *_HEAD, *_rows(results, key)]]
    return "\n".join([*tables, "", *_PROMISES, *(_line(promise) for promise in promises(results))])


_HEAD = (
    "| | requests/s | ours × | p50 ms | p99 ms | memory MB | server CPU ms | load CPU ms |",
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
)

_PROMISES = ("| | promised | measured | |", "| --- | --- | --- | --- |")


def _title(key: Key) -> str:
    kind, connections, rate = key
    how = f"{connections} connections" if connections > 1 else "1 connection"
    return f"{KINDS[kind]}, {how}" + (f", open loop at {rate:.0f}/s" if rate else "")


def _rows(results: Results, key: Key) -> list[str]:
    rows = []
    for server in results.servers(key):
        cells = [f"{results.median(key, server, 'throughput'):.0f}", _times(results, key, server)]
        known = results.median(key, server, "p50_ms") > 0
        cells += [f"{results.median(key, server, what):.2f}" if known else "" for what in ("p50_ms", "p99_ms")]
        cells += [f"{results.median(key, server, 'memory_mb'):.0f}"]
        cells += [f"{results.median(key, server, what):.2f}" for what in ("cpu_ms", "load_cpu_ms")]
        rows.append(f"| {server} | {' | '.join(cells)} |")
    return rows


def _times(results: Results, key: Key, peer: str) -> str:
    ratios = results.pairs(key, peer, _throughputs)
    return f"{median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})" if ratios and peer != "ours" else ""


def _throughputs(ours: Turn, theirs: Turn) -> float:
    return ours.throughput / theirs.throughput


def promises(results: Results) -> list[dict[str, Any]]:
    """Each promise that these turns can judge: what, promised, measured, whether it holds."""
    found = []
    for key in results.keys:
        kind, connections, rate = key
        if rate is None and connections == 1 and (added := results.pairs(key, "in-process", _added)):
            found.append(_promise(f"{KINDS[kind]}: ms over in-process, 1 connection", MOST_ADDED_MS, added, False))
        for peer, least in {"in-process": BOUND, **TIMES}.items():
            ratios = results.pairs(key, peer, _throughputs)
            if rate is None and connections == AT and ratios:
                found.append(_promise(f"{KINDS[kind]}: ours × {peer}, {AT} connections", least, ratios, True))
    return found


def _added(ours: Turn, theirs: Turn) -> float:
    return ours.p50_ms - theirs.p50_ms


def _promise(what: str, limit: float, measured: list[float], least: bool) -> dict[str, Any]:
    value = median(measured)
    holds = value >= limit if least else value <= limit
    spread = [round(min(measured), 3), round(max(measured), 3)]
    return {
        "what": what,
        "promised": f"{'at least' if least else 'at most'} {limit}",
        "measured": round(value, 3),
        "spread": spread,
        "holds": holds,
    }


def _line(promise: dict[str, Any]) -> str:
    low, high = promise["spread"]
    measured = f"{promise['measured']:.2f} ({low:.2f}–{high:.2f})"
    verdict = "holds" if promise["holds"] else "**MISSED**"
    return f"| {promise['what']} | {promise['promised']} | {measured} | {verdict} |"
