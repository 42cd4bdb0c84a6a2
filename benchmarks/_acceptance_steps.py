"""Steps of the acceptance run, each in its own process: a crash, a hang or a broken GPU state ends that one alone."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from _measure import ROOT

OK, FAILED, MISSING, SKIPPED = "ok", "failed", "missing", "skipped"
# deploy.errors: 3 is a machine that lacks something.
_STATUS = {0: OK, 3: MISSING}
# What one step may take, so that one that hangs leaves time for the others; and what is too little to start one.
_LONGEST_S, _SHORTEST_S = 150.0, 2.0


@dataclass(frozen=True)
class Step:
    """One command that prints a JSON document.

    Attributes:
        needs: files that earlier steps make.
        modules: what has to be importable.
    """

    name: str
    command: tuple[str, ...]
    needs: tuple[Path, ...] = ()
    about: dict[str, str] = field(default_factory=dict)
    modules: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How a step ended. ``facts`` is its JSON document; ``reason`` says why it is not ``ok``."""

    step: str
    status: str
    seconds: float
    about: dict[str, str]
    facts: Any = None
    reason: str | None = None


class Budget:
    """Seconds that are left of the time for everything."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._start = monotonic()

    @property
    def spent(self) -> float:
        return monotonic() - self._start

    @property
    def left(self) -> float:
        return self.seconds - self.spent


def python(*arguments: str | Path) -> tuple[str, ...]:
    """A command line for this interpreter."""
    return (sys.executable, *map(str, arguments))


def execute(step: Step, budget: Budget) -> Outcome:
    """Run a step to its end, to its share of the budget, or not at all. Never raises for what the step does."""
    if budget.left < _SHORTEST_S:
        return _skipped(step, 0.0, f"the time budget of {budget.seconds:.0f} s is used up")
    absent = [path.name for path in step.needs if not path.exists()]
    if absent:
        return _skipped(step, 0.0, f"an earlier step did not make {', '.join(absent)}")
    if lacking := [name for name in step.modules if importlib.util.find_spec(name) is None]:
        return Outcome(step.name, MISSING, 0.0, step.about, reason=f"{', '.join(lacking)} is not installed")
    start, allowed = monotonic(), min(budget.left, _LONGEST_S)
    code, output, errors = _run(step.command, allowed)
    seconds = monotonic() - start
    if code is None and allowed < _LONGEST_S:
        return _skipped(step, seconds, f"stopped after {seconds:.0f} s: the time budget is used up")
    if code is None:
        return Outcome(step.name, FAILED, seconds, step.about, reason=f"still running after {seconds:.0f} s: killed")
    facts = _document(output)
    status = _STATUS.get(code, FAILED)
    reason = None if status == OK else _reason(code, facts, output + errors)
    return Outcome(step.name, status, seconds, step.about, facts, reason)


def _skipped(step: Step, seconds: float, reason: str) -> Outcome:
    return Outcome(step.name, SKIPPED, seconds, step.about, reason=reason)


def _run(command: Sequence[str], seconds: float) -> tuple[int | None, str, str]:
    """Exit code (None: it ran out of time), stdout, stderr. The whole process group goes with the command."""
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, errors="replace", start_new_session=True
    )
    try:
        output, errors = process.communicate(timeout=seconds)
        return process.returncode, output, errors
    except subprocess.TimeoutExpired:
        return None, "", ""
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def _document(output: str) -> Any:
    """The JSON on stdout, also behind what a library printed there before."""
    for start in re.finditer(r"^[\[{]", output, re.MULTILINE):
        with contextlib.suppress(ValueError):
            return json.loads(output[start.start() :])
    return None


def _reason(code: int, facts: Any, text: str) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}: {_tail(text)}"
    if isinstance(facts, dict) and facts.get("error"):
        named = [f"{word} {facts[word]}" for word in ("got", "expected") if facts.get(word)]
        return f"{facts['error']} ({'; '.join(named)})" if named else str(facts["error"])
    if isinstance(facts, dict) and facts.get("failures"):
        return "; ".join(facts["failures"])
    return f"exit code {code}: {_tail(text)}"


def _tail(text: str) -> str:
    return " | ".join(text.strip().splitlines()[-3:]) or "it said nothing"
