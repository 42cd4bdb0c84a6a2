"""What is promised of INT8 graphs, and whether rows of the benchmark keep it; tables of the rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

# Shares from 0 to 1; dB of the logits against FP32.
PHOTO1000: dict[str, dict[str, float]] = {
    "best": {"agreement": 0.975, "sqnr_db": 27.0, "top1": 0.805},
    "fast": {"agreement": 0.965, "sqnr_db": 25.5},
    "max-drop 0.5": {"int8_mac_share": 0.9},
}
LEAD_DB = 2.0  # best ahead of every peer, on networks trained here
MOST_TIME = 1.0  # fast, of ONNX Runtime Percentile's time at its own placement, both with 256 images
MOST_MB = 600.0  # fast: peak resident memory in MB (10^6 bytes)
MOST_GROWTH_MB = 50.0  # fast: more memory for 10,000 images than for 256
MOST_BEST_S = 600.0  # best on photo1000: seconds on the machine named
MOST_APART_DB = 1.0  # between different subsets of the calibration images, and between orders of them

_WORDS = {
    "agreement": "agreement with FP32",
    "sqnr_db": "SQNR in dB",
    "top1": "top-1",
    "int8_mac_share": "share of MACs in INT8",
}
Row = Mapping[str, Any]
Rows = Sequence[Row]


@dataclass(frozen=True)
class Verdict:
    """One promise and what was measured of it: None where it was not."""

    what: str
    got: float | None
    limit: float
    least: bool = False

    @property
    def holds(self) -> bool | None:
        if self.got is None:
            return None
        return self.got >= self.limit if self.least else self.got <= self.limit

    def __str__(self) -> str:
        word = {True: "holds", False: "MISSED", None: "not measured"}[self.holds]
        got = "" if self.got is None else f"{self.got:.4g}, "
        return f"{self.what}: {got}promised at {'least' if self.least else 'most'} {self.limit:g}: {word}"

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "holds": self.holds}


def photo1000_verdicts(rows: Rows) -> Iterator[Verdict]:
    for name, limits in PHOTO1000.items():
        for figure, least in limits.items():
            yield Verdict(f"photo1000, {name}: {_WORDS[figure]}", _figure(rows, name, figure), least, least=True)
    yield Verdict("photo1000, best: seconds", _figure(rows, "best", "seconds"), MOST_BEST_S)


def trained_verdict(subject: str, rows: Rows) -> Verdict:
    """How far best is ahead of the best peer row."""
    ours = _figure(rows, "best", "sqnr_db")
    peers = [(row["sqnr_db"], row["name"]) for row in rows if row["side"] == "peer" and row.get("sqnr_db") is not None]
    strongest, name = max(peers, default=(None, "every peer"))
    lead = None if ours is None or strongest is None else ours - strongest
    return Verdict(f"{subject}, best: dB ahead of {name}", lead, LEAD_DB, least=True)


def cost_verdicts(subject: str, rows: Rows, ratio: float | None) -> Iterator[Verdict]:
    """``ratio``: fast's time to the rival's, turn by turn."""
    yield Verdict(f"{subject}, fast: time in ONNX Runtime Percentile's", ratio, MOST_TIME)
    yield Verdict(f"{subject}, fast: peak MB", _figure(rows, "fast", "peak_mb"), MOST_MB)


def memory_verdicts(rows: Rows) -> Iterator[Verdict]:
    """``rows``: fast with few and with many images, in that order."""
    few, many = (row["peak_mb"] for row in rows if row["side"] == "ours")
    yield Verdict("fast: MB more for many images than for few", many - few, MOST_GROWTH_MB)
    yield Verdict("fast: peak MB for many images", many, MOST_MB)


def subset_verdicts(recipe: str, sqnr_db: Mapping[str, float]) -> Iterator[Verdict]:
    """``sqnr_db``: by subset, as ``subsets`` names them."""
    thirds = [value for name, value in sqnr_db.items() if name.startswith("third")]
    yield Verdict(f"{recipe}: dB between disjoint thirds", max(thirds) - min(thirds), MOST_APART_DB)
    yield Verdict(f"{recipe}: dB between two orders", abs(sqnr_db["all"] - sqnr_db["reversed"]), MOST_APART_DB)


def subsets(items: Sequence[Any]) -> dict[str, list[Any]]:
    """All of them, all in reversed order, and three disjoint thirds that hold all of them."""
    thirds = {f"third {first + 1}": list(items[first::3]) for first in range(3)}
    return {"all": list(items), "reversed": list(items[::-1]), **thirds}


def table(rows: Rows) -> str:
    """Rows as Markdown; a row that failed says why."""
    heads = ("", "", "top-1 %", "agreement", "SQNR dB", "s", "peak MB", "INT8 MACs %", "inputs against ours")
    lines = ["| " + " | ".join(heads) + " |", "| --- | --- |" + " ---: |" * 6 + " --- |"]
    return "\n".join([*lines, *("| " + " | ".join(_cells(row)) + " |" for row in rows)])


def _cells(row: Row) -> list[str]:
    head = [row["name"], row.get("detail") or ""]
    if row.get("failed"):
        return [*head, *[""] * 6, f"failed: {row['failed']}"]
    shown = [
        _number(row.get("top1"), 1, 100),
        _number(row.get("agreement"), 3),
        _number(row.get("sqnr_db"), 2),
        _number(row.get("seconds"), 1),
        _number(row.get("peak_mb"), 0),
        _number(row.get("int8_mac_share"), 1, 100),
    ]
    return [*head, *shown, row.get("difference") or ""]


def _number(value: float | None, digits: int, factor: float = 1) -> str:
    return "" if value is None else f"{value * factor:.{digits}f}"


def _figure(rows: Rows, name: str, figure: str) -> float | None:
    """Of our row of that name, None where there is none."""
    found = (row.get(figure) for row in rows if row["side"] == "ours" and row["name"] == name)
    return next(found, None)
