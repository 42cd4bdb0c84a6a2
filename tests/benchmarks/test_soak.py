"""A short soak of the real server, and that its checks can fail."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from commands import REPOSITORY, environment

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

import _soak_checks as checks
from _soak_client import Ledger
from _soak_requests import ANYTHING, Ask, tensors
from _soak_server import Sample, growth


@pytest.mark.slow
def test_a_short_soak_finds_nothing():
    command = [sys.executable, "benchmarks/soak.py", "--minutes", "0.3", "--connections", "12", "--json"]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=240)
    found = json.loads(done.stdout)
    # Memory settles in minutes, not in these seconds.
    assert [text for text in found["violations"] if not text.startswith("memory grew")] == [], done.stderr
    assert all(found["answered"][name] > 50 for name in ("steady", "replaced", "moved", "pictures"))
    assert found["drain"]["code"] == 0


def samples(rss, threads=10):
    return [Sample(float(second), value, 12, threads) for second, value in enumerate(rss)]


def test_growth_is_the_line_s_and_a_peak_is_none():
    flat = [100.0] * 100
    assert checks.memory(growth(samples(flat))) == []
    assert checks.memory(growth(samples([*flat[:93], 200.0, 200.0, *flat[95:]]))) == []
    assert len(checks.memory(growth(samples([100 + 0.1 * second for second in range(100)])))) == 2


def test_leaks_are_found():
    idle = Sample(0, 100, 12, 10)
    assert checks.held(samples([1, 1]), idle, idle) == []
    assert "descriptors leak" in checks.held(samples([1, 1]), idle, Sample(0, 100, 15, 10))[0]
    more = [*samples([1]), *samples([1], threads=13)]
    assert "threads grow" in checks.held(more, idle, idle)[0]


def stats(success, fail, rows):
    inference = {"success": {"count": success}, "fail": {"count": fail}}
    batches = [{"batch_size": 1, "compute_infer": {"count": rows}}]
    return {"m": {"inference_stats": inference, "batch_stats": batches, "execution_count": 10, "inference_count": 10}}


def metrics(success, pending=0):
    label = '{model="m",version="1"}'
    return f"nv_inference_request_success{label} {success}.0\nnv_inference_pending_request_count{label} {pending}.0\n"


def test_statistics_add_up_or_not():
    ledger = Ledger()
    ledger.answered["m"], ledger.refused["m"], ledger.left["m"] = 8, 2, 1
    for success, fail, rows, pending, faults in (
        (8, 2, 10, 0, 0),
        (9, 2, 10, 0, 0),
        (8, 3, 10, 0, 0),
        (7, 3, 10, 0, 1),
        (8, 1, 10, 0, 1),
        (9, 3, 10, 0, 1),
        (8, 2, 9, 0, 1),
        (8, 2, 10, 1, 1),
    ):
        found = checks.sums(ledger, stats(success, fail, rows), metrics(success, pending), ("m",))
        assert len(found) == faults, found
    assert len(checks.sums(ledger, stats(8, 2, 10), metrics(7), ("m",))) == 1


def test_a_lost_answer_is_a_fault_unless_the_server_had_been_told_to_stop():
    before, after = Ledger(), Ledger()
    after.lost = [(99.5, "image"), (97.0, "tensors")]
    (fault,) = checks.answers(before, after, killed=100.0)
    assert fault == "tensors, sent 3.00 s before SIGTERM, was never answered"
    before.lost = [(50.0, "image")]
    assert len(checks.answers(before, after, killed=100.0)) == 2


def test_another_request_s_answer_is_found():
    from random import Random

    import numpy as np
    from _soak_models import answer_to, rows_of

    ask = tensors("steady", 5, Random(1))

    def reply(tag, rows):
        output = {"name": "y", "datatype": "FP32", "shape": list(rows.shape), "data": rows.reshape(-1).tolist()}
        return {}, json.dumps({"id": tag, "outputs": [output]}).encode()

    count = next(n for n in (1, 2, 4) if ask.verdict(200, *reply("5", answer_to(rows_of(5, n)))) is None)
    mine = answer_to(rows_of(5, count))
    assert "answer to 6" in ask.verdict(200, *reply("6", mine))
    assert "another request's rows" in ask.verdict(200, *reply("5", answer_to(rows_of(6, count))))
    assert "wrong numbers" in ask.verdict(200, *reply("5", np.concatenate([mine[:, :2], mine[:, 2:] + 1], axis=1)))
    assert "status 500" in ask.verdict(500, {}, b"{}")
    assert "says 'no'" in ask.verdict(503, {}, b'{"error": "no"}')
    refused = Ask("bad", "", b"", b"", lambda *_: "answered", {400: ANYTHING})
    assert refused.verdict(400, {}, b'{"error": "x"}') is None
    assert refused.verdict(200, {}, b"") == "answered"
