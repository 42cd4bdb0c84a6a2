"""A short run of the servers' comparison; the load generator against servers that err; what the report says."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
import time

import numpy as np
import pytest
from commands import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

from _serving_load import Load, generate
from _serving_report import Results, Turn, promises, report
from _serving_wire import Wire, Wrong

LOGITS = np.float32([[1, 2, 3]])


def test_ours_beside_the_bound(script, graph):
    options = ("--seconds", "1", "--rounds", "1", "--servers", "in-process,ours", "--concurrency", "64")
    done = script("serving.py", "--engine", graph(224), *options, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    order = [(turn["kind"], turn["server"]) for turn in found["turns"]]
    assert order == [(kind, server) for kind in ("tensor", "image") for server in ("ours", "in-process")]
    for turn in found["turns"]:
        assert turn["throughput"] > 10
        assert 0 < turn["p50_ms"] <= turn["p99_ms"]
        assert turn["memory_mb"] > 20
        assert turn["cpu_ms"] > 0
        assert turn["load_cpu_ms"] > 0  # beside the bound as well
    assert [promise["promised"] for promise in found["promises"]] == ["at least 0.95"] * 2


@contextlib.contextmanager
def answering(body: bytes, pause=0.0):
    """A server of one connection, which answers every request with ``body``; gives its port."""

    def serve():
        connection, _ = listening.accept()
        with connection:
            while (got := connection.recv(4096)) and got.endswith(b"\r\n\r\nask"):
                time.sleep(pause)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(10)


def load(port, rate=None, seconds=0.5):
    wire, start = Wire("raw"), time.monotonic()
    requests = (wire.request("image", b"ask", (1,)),)
    return Load(port, wire, requests, LOGITS, 1, rate, start, start, start + seconds)


def test_right_answers_are_counted():
    with answering(LOGITS.tobytes(), pause=0.01) as port:
        answers = generate(load(port))
    assert 5 < answers.finished <= 50
    assert min(answers.latencies) >= 0.01


def test_a_wrong_answer_ends_the_run():
    with answering((LOGITS + 1).tobytes()) as port, pytest.raises(Wrong, match="not that of input 0"):
        generate(load(port))


def test_an_open_loop_s_latency_counts_from_when_a_request_was_due():
    """A server that takes 50 ms is asked 40 times a second: what waits for its turn is late, and says so."""
    with answering(LOGITS.tobytes(), pause=0.05) as port:
        answers = generate(load(port, rate=40.0, seconds=1.0))
    assert answers.finished <= 20
    assert len(answers.latencies) > 25  # those that were answered after the end, too
    assert max(answers.latencies) > 0.3


def turn(number, server, throughput, p50_ms=1.0, connections=64):
    return Turn(number, "tensor", connections, None, server, throughput, p50_ms, 2.0, 100.0, 1.0, 0.1)


def test_ratios_are_of_the_same_round():
    turns = [turn(0, "ours", 100), turn(0, "triton", 50), turn(1, "ours", 30), turn(1, "triton", 60)]
    (promise,) = promises(Results([*turns, turn(2, "ours", 90), turn(2, "triton", 90)]))
    assert (promise["measured"], promise["spread"], promise["holds"]) == (1.0, [0.5, 2.0], True)
    (promise,) = promises(Results(turns[2:]))
    assert not promise["holds"]
    assert "MISSED" in report(turns[2:])


def test_added_latency_is_a_difference():
    turns = [turn(0, "ours", 100, 3.0, 1), turn(0, "in-process", 100, 1.0, 1)]
    (promise,) = promises(Results(turns))
    assert (promise["measured"], promise["holds"]) == (2.0, False)
