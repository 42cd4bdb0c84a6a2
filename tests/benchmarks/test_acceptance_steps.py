"""One step may fail in any way: the others go on, and the reason is told."""

import json
import sys
import time

import pytest


@pytest.fixture
def steps(benchmark_module):
    return benchmark_module("_acceptance_steps")


@pytest.fixture
def run(steps):
    def run(code, seconds=60.0, needs=()):
        return steps.execute(steps.Step("step", (sys.executable, "-c", code), tuple(needs)), steps.Budget(seconds))

    return run


def test_a_step_that_does_its_work(run):
    outcome = run("print('a library says hello'); print('[{\"found\": 1}]')")
    assert (outcome.status, outcome.facts, outcome.reason) == ("ok", [{"found": 1}], None)


def test_what_the_machine_lacks_is_missing_and_not_a_failure(run):
    error = {"error": "no CUDA", "got": "CPU", "expected": None, "fix": "buy one"}
    outcome = run(f"import sys; print('''{json.dumps(error)}'''); sys.exit(3)")
    assert (outcome.status, outcome.reason) == ("missing", "no CUDA (got CPU)")


def test_a_missed_limit_is_a_failure_with_its_figures(run):
    outcome = run('import sys; print(\'{"failures": ["SQNR 3.0 dB"], "twin": null}\'); sys.exit(1)')
    assert (outcome.status, outcome.reason) == ("failed", "SQNR 3.0 dB")
    assert outcome.facts["twin"] is None


def test_a_crash_is_named(run):
    outcome = run("import os, sys; print('dying', file=sys.stderr, flush=True); os.abort()")
    assert outcome.status == "failed"
    assert outcome.reason == "killed by SIGABRT: dying"


def test_the_budget_stops_a_step_with_its_children(run, tmp_path):
    alive = tmp_path / "alive"
    child = f"import time; time.sleep(4); open({str(alive)!r}, 'w')"
    outcome = run(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])", seconds=3.0)
    assert outcome.status == "skipped"
    assert "the time budget is used up" in outcome.reason
    assert 2.5 < outcome.seconds < 4
    time.sleep(4.5 - outcome.seconds)
    assert not alive.exists()


def test_a_step_that_hangs_leaves_time_for_others(run, steps, monkeypatch):
    monkeypatch.setattr(steps, "_LONGEST_S", 0.5)
    outcome = run("import time; time.sleep(60)")
    assert outcome.status == "failed"
    assert "still running" in outcome.reason


def test_no_step_starts_when_the_time_is_up(run, tmp_path):
    made = tmp_path / "made"
    outcome = run(f"open({str(made)!r}, 'w')", seconds=1.0)
    assert (outcome.status, outcome.reason) == ("skipped", "the time budget of 1 s is used up")
    assert not made.exists()


def test_a_step_without_what_it_needs_is_skipped(run, tmp_path):
    outcome = run("print('{}')", needs=[tmp_path / "net.plan"])
    assert (outcome.status, outcome.reason) == ("skipped", "an earlier step did not make net.plan")
