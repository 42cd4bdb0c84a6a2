"""Requests of random sizes from four threads, each row checked, and nothing left open."""

import gc
import sys
import threading

import numpy as np
import pytest
from tensorrt_api.cuda import LIVE, MEMORY, STREAMS, SimulatedCuda
from tensorrt_api.runners import NEWEST, OLDEST, RTX, runner

THREADS, REQUESTS = 4, 10_000


def client(opened, seed, requests, wrong):
    """Requests of 1 to 64 rows, of which no two are the same; counts rows that are not 2 · input + 1."""
    rng = np.random.default_rng(seed)
    for number in range(requests):
        count = int(rng.integers(1, 65))
        # Below 2^23, so that float32 holds 2 · input + 1 exactly.
        batch = (np.arange(4 * count) + 256 * (number % 2500) + 2**21 * seed).astype(np.float32).reshape(count, 4)
        answer = opened.infer({"input": batch})["logits"]
        wrong.append(int((answer != 2 * batch + 1).any(axis=1).sum()))


@pytest.fixture
def impatient():
    """Threads take turns a hundred times as often as usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(before / 100)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("graphs", [True, False], ids=["graphs", "plain"])
@pytest.mark.parametrize("api", [OLDEST, NEWEST, RTX], ids=str)
def test_every_row_is_right_and_nothing_leaks(api, graphs):
    opened = runner(api, [(1, 1, 1), (1, 8, 32), (16, 32, 32)], SimulatedCuda(), lanes=3, graphs=graphs)
    wrong = [[] for _ in range(THREADS)]
    threads = [
        threading.Thread(target=client, args=(opened, seed, REQUESTS // THREADS, wrong[seed]))
        for seed in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(each) for each in wrong] == [REQUESTS // THREADS] * THREADS, "a thread died"
    assert sum(map(sum, wrong)) == 0
    assert opened.graph_problem is None
    opened.close()
    gc.collect()
    assert (LIVE, MEMORY, STREAMS) == ({}, {}, {})
