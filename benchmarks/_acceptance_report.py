"""The acceptance run's outcomes as a report in Markdown, which is also what the terminal shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from _acceptance_steps import FAILED, OK, SKIPPED, Outcome

ENGINES = ("tensorrt", "tensorrt_rtx")


def executed_engines(outcomes: Iterable[Outcome]) -> list[str]:
    """The steps that really ran an engine, whatever the verdict on it was."""
    return [o.step for o in outcomes if isinstance(o.facts, dict) and o.facts.get("backend") in ENGINES]


def markdown(document: Mapping[str, Any]) -> str:
    """The report of a run's JSON document."""
    outcomes = document["outcomes"]
    machine, *steps = outcomes
    parts = [
        "# GPU acceptance",
        _verdict(document),
        "## The machine",
        _machine(document["machine"], machine),
        "## Built",
        _table(_BUILT, [_built(step) for step in steps if _what(step).startswith(("export", "quantize", "build"))]),
        "## Run",
        _HOW,
        _table(_RUN, [_ran(step) for step in steps if _what(step).startswith("run")]),
        "## What did not go well",
        _problems(outcomes),
    ]
    return "\n\n".join(parts) + "\n"


_HOW = (
    "Parity is over batches 1, 7 and 32 together, against PyTorch in FP32 (without it: ONNX Runtime on the CPU); "
    "`twin dB` is the distance from the CPU simulation of the same graph. Milliseconds are medians of one call, "
    "from arrays in host memory to arrays in host memory."
)
_BUILT = ("model", "precision", "step", "s", "against FP32, dB", "evidence", "status")
_FIGURES = ("max rel. error", "SQNR dB", "top-1", "twin dB", "same bits", "ms b1", "ms b32")
_RUN = ("model", "precision", "how", *_FIGURES, "status")
_SAME_BITS = {True: "yes", False: "NO", None: ""}


def _verdict(document: Mapping[str, Any]) -> str:
    statuses = [outcome["status"] for outcome in document["outcomes"]]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    engines = document["executed_engines"]
    executed = f"{len(engines)} engines were executed" if engines else "**No engine was executed here**"
    return (
        f"{executed}; {len(statuses)} steps: {counts}; {document['seconds']:.0f} s of a budget of "
        f"{document['budget_s']:.0f} s; exit code {document['exit_code']}."
    )


def _machine(facts: Mapping[str, Any], doctor: Mapping[str, Any]) -> str:
    here = ", ".join(f"{name} {value}" for name, value in facts.items() if name not in ("processor", "cores"))
    lines = [f"- {facts['processor']}, {facts['cores']} cores; {here}"]
    findings = doctor["facts"] or []
    lines += [f"- {f['name']}: {f['found']}" for f in findings if f["group"] in ("GPU", "TensorRT")]
    lacking = [f"{f['name']} ({f['found']})" for f in findings if f["group"] == "packages" and f["state"] != OK]
    lines += [f"- missing: {', '.join(lacking)}"] if lacking else []
    return "\n".join(lines)


def _what(step: Mapping[str, Any]) -> str:
    return str(step["about"].get("what", ""))


def _built(step: Mapping[str, Any]) -> list[str]:
    facts = step["facts"] or {}
    verdicts, evidence = facts.get("verdicts", {}), facts.get("evidence", [""])
    figures = ", ".join(f"{what} {_number(verdict['sqnr_db'], 1)}" for what, verdict in verdicts.items())
    # "net.int8.onnx: simulated on CPU by its twin, on 64 images from …"
    done = evidence[-1].partition(": ")[2].partition(", on ")[0]
    return [*_subject(step), f"{step['seconds']:.1f}", figures, done, step["status"]]


def _ran(step: Mapping[str, Any]) -> list[str]:
    facts = step["facts"] or {}
    parity, twin = ((facts.get(against) or {}).get("all", {}) for against in ("reference", "twin"))
    latency = facts.get("latency_ms", {})
    figures = [_scientific(parity.get("relative")), _number(parity.get("sqnr_db"), 1), _percent(parity.get("top1"))]
    figures += [_number(twin.get("sqnr_db"), 1), _SAME_BITS[facts.get("repeatable")]]
    figures += [_number(latency.get(batch), 2) for batch in ("1", "32")]
    model, precision, how = _subject(step)
    return [model, precision, facts.get("execution", how), *figures, step["status"]]


def _subject(step: Mapping[str, Any]) -> list[str]:
    return [step["about"]["model"], step["about"]["precision"], step["about"]["what"]]


def _problems(steps: Sequence[Mapping[str, Any]]) -> str:
    # What failed first, what was never tried last.
    order = (FAILED, "missing", SKIPPED)
    wrong = sorted((step for step in steps if step["status"] != OK), key=lambda step: order.index(step["status"]))
    return "\n".join(f"- **{step['status']}** {step['step']}: {step['reason']}" for step in wrong) or "Nothing."


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _scientific(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns also line up as plain text."""
    widths = [max(len(row[index]) for row in (columns, *rows)) for index in range(len(columns))]
    lines = [columns, ["-" * width for width in widths], *rows]
    return "\n".join("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in lines)
