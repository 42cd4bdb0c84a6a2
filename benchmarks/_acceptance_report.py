"""The acceptance run's outcomes as a report in Markdown, which is also what the terminal shows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
        _machine(document, machine),
        "## Built",
        _table(_BUILT, [_built(step) for step in _of(steps, "export", "quantize", "build")]),
        "## Run",
        _RUN_HOW,
        _table(_RUN, [_ran(step) for step in _of(steps, "run")]),
        "## Speed",
        _BENCH_HOW,
        _table(_BENCH, [row for step in _of(steps, "bench") for row in _timed(step)]),
        *_notes(steps),
        "## Under load",
        _SOAK_HOW,
        _table(_SOAK, [_soaked(step) for step in _of(steps, "soak")]),
        "## What did not go well",
        _problems(outcomes),
    ]
    return "\n\n".join(parts) + "\n"


_RUN_HOW = (
    "Parity is over batches 1, 7 and 32 together, of the worst output, against PyTorch in FP32 (without it: ONNX "
    "Runtime on the CPU); `twin dB` is the distance from the CPU simulation of the same graph. `repeat`: the same call "
    "twice; `same rows`: one row seven times in a batch; `alone`: seven rows one by one against the batch; `threads`: "
    "four threads against one. `=` is the same bits, else the distance in dB. Milliseconds are medians of one call, "
    "from arrays in host memory to arrays in host memory."
)
_BENCH_HOW = (
    "Medians. `compute ms` is GPU Compute Time, of the kernels alone, by CUDA events; `host ms` is a whole call with "
    "its copies. `peer` is NVIDIA's timer on the same plan (or a bare loop over TensorRT's calls with a CUDA graph), "
    "`ratio` our compute time over its: a check, at most 1.03. The best batch is that with the most images per second."
)
_SOAK_HOW = (
    "Four threads, batches of changing size, every answer compared with the one before the load. Memory grown is twice "
    "the smaller of its steps from the second quarter of the time to the third and to the last, by medians: a check, "
    "at most 32 MiB on the host and 16 MiB on the GPU."
)
_BUILT = ("model", "precision", "step", "s", "against FP32, dB", "evidence", "status")
_CHECKS = ("repeat", "same rows", "alone", "threads")
_FIGURES = ("max rel. error", "SQNR dB", "top-1", "twin dB", *_CHECKS, "ms b1", "ms b32")
_RUN = ("model", "precision", "how", *_FIGURES, "status")
_BENCH = (
    "model",
    "precision",
    "how",
    "batch",
    "compute ms",
    "host ms",
    "images/s",
    "peer",
    "peer ms",
    "ratio",
    "status",
)
_SOAK = ("model", "precision", "how", "s", "requests", "rows", "wrong", "host MiB", "GPU MiB", "status")


def _of(steps: Sequence[Mapping[str, Any]], *kinds: str) -> list[Mapping[str, Any]]:
    return [step for step in steps if str(step["about"].get("what", "")).startswith(kinds)]


def _verdict(document: Mapping[str, Any]) -> str:
    statuses = [outcome["status"] for outcome in document["outcomes"]]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    engines = document["executed_engines"]
    executed = f"{len(engines)} engines were executed" if engines else "**No engine was executed here**"
    return (
        f"{executed}; {len(statuses)} steps: {counts}; {document['seconds']:.0f} s of a budget of "
        f"{document['budget_s']:.0f} s; exit code {document['exit_code']}."
    )


def _machine(document: Mapping[str, Any], doctor: Mapping[str, Any]) -> str:
    facts = document["machine"]
    here = ", ".join(f"{name} {value}" for name, value in facts.items() if name not in ("processor", "cores"))
    lines = [f"- {facts['processor']}, {facts['cores']} cores; {here}"]
    findings = doctor["facts"] or []
    lines += [f"- {f['name']}: {f['found']}" for f in findings if f["group"] in ("GPU", "TensorRT")]
    lines += [f"- {tool}: {path or 'not on PATH'}" for tool, path in document["tools"].items()]
    lacking = [f"{f['name']} ({f['found']})" for f in findings if f["group"] == "packages" and f["state"] != OK]
    lines += [f"- missing: {', '.join(lacking)}"] if lacking else []
    return "\n".join(lines)


def _built(step: Mapping[str, Any]) -> list[str]:
    facts = step["facts"] or {}
    verdicts, evidence = facts.get("verdicts", {}), facts.get("evidence", [""])
    figures = ", ".join(f"{what} {_number(verdict['sqnr_db'], 1)}" for what, verdict in verdicts.items())
    # "net.int8.onnx: simulated on CPU by its twin, on 64 images from …"
    done = evidence[-1].partition(": ")[2].partition(", on ")[0]
    return [*_subject(step), f"{step['seconds']:.1f}", figures, done, step["status"]]


def _ran(step: Mapping[str, Any]) -> list[str]:
    facts = step["facts"] or {}
    parity, twin = (_worst(facts.get(against)) for against in ("reference", "twin"))
    latency, agrees = facts.get("latency_ms", {}), facts.get("consistency", {})
    figures = [_scientific(parity.get("relative")), _number(parity.get("sqnr_db"), 1), _percent(parity.get("top1"))]
    figures += [_number(twin.get("sqnr_db"), 1), *(_agreement(agrees.get(check)) for check in _CHECKS)]
    figures += [_number(latency.get(batch), 2) for batch in ("1", "32")]
    model, precision, how = _subject(step)
    return [model, precision, facts.get("execution", how), *figures, step["status"]]


def _worst(against: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The comparison, over all batches, of the output that is furthest off; equal ones have no distance in dB."""
    compared = [parity["all"] for parity in (against or {}).values()]
    return min(compared, key=lambda each: float("inf") if each["sqnr_db"] is None else each["sqnr_db"], default={})


def _agreement(figures: Mapping[str, Any] | None) -> str:
    if figures is None:
        return ""
    distance = "=" if figures["same_bits"] else _number(figures["sqnr_db"], 0)
    return f"{distance} NO" if figures["failures"] else distance


def _timed(step: Mapping[str, Any]) -> Iterator[list[str]]:
    """A row for each batch size."""
    facts = step["facts"] or {}
    model, precision, how = _subject(step)
    for batch, figures in (facts.get("batches") or {"": {}}).items():
        best = " (best)" if batch == str(facts.get("best_batch")) else ""
        ratio = facts.get("ratios", {}).get(batch)
        times = [_number(figures.get(what), 3) for what in ("compute_ms", "host_ms")]
        peer = [facts.get("peer", "") if ratio else "", _number(facts.get("peer_ms", {}).get(batch), 3)]
        speed = _number(figures.get("images_per_second"), 0)
        named = facts.get("execution", how.removeprefix("bench "))
        yield [model, precision, named, batch + best, *times, speed, *peer, _number(ratio, 3), step["status"]]


def _notes(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """What steps that went well had to do without."""
    notes = [f"- {step['step']}: {note}" for step in steps for note in (_facts(step).get("notes") or ())]
    return ["\n".join(notes)] if notes else []


def _soaked(step: Mapping[str, Any]) -> list[str]:
    facts = _facts(step)
    grown = facts.get("grown_mib", {})
    counts = [str(facts.get(what, "")) for what in ("requests", "rows", "wrong")]
    model, precision, how = _subject(step)
    memory = [_grown(grown.get(side)) for side in ("host", "gpu")]
    return [model, precision, facts.get("execution", how), f"{step['seconds']:.0f}", *counts, *memory, step["status"]]


def _grown(mib: float | None) -> str:
    return "not watched" if mib is None else f"{mib:+.1f}"


def _facts(step: Mapping[str, Any]) -> Mapping[str, Any]:
    return step["facts"] if isinstance(step["facts"], dict) else {}


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
    if not rows:
        return "Nothing."
    widths = [max(len(row[index]) for row in (columns, *rows)) for index in range(len(columns))]
    lines = [columns, ["-" * width for width in widths], *rows]
    return "\n".join("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in lines)
