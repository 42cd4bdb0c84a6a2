from __future__ import annotations

import threading
import time

import pytest

from deploy.bench.load import Load, walltime


def test_one_client_queries_until_the_time_is_over(fake, feeds):
    runner = fake(0.3)
    queries = Load(runner, feeds, 1).run(1.0)
    assert len(queries) == 4  # the last one began before the end
    assert [query.host_ms for query in queries] == pytest.approx([300] * 4)
    assert walltime(queries) == pytest.approx(1.2)
    assert all(query.parts is None for query in queries)


def test_batches_are_fed_in_turn(fake, feeds):
    runner = fake(0.3)
    Load(runner, feeds, 1).run(1.0)
    assert [fed["input"][0, 0] for fed in runner.fed] == [0, 1, 2, 0]


def test_at_least_so_many_queries(fake, feeds):
    assert len(Load(fake(2.0), feeds, 1).run(1.0, least=3)) == 3
    assert len(Load(fake(2.0), feeds, 1).run(0)) == 1


def test_queries_are_taken_apart_where_that_is_asked_for(fake, fake_gpu, feeds):
    load = Load(fake_gpu(1.0), feeds, 1)
    assert load.tells_parts
    (query,) = load.run(0, apart=True)
    assert (query.parts.h2d_ms, query.parts.compute_ms, query.parts.d2h_ms) == (2, 5, 1)
    assert query.parts.latency_ms == 8
    assert query.host_ms == pytest.approx(1005)
    (query,) = load.run(0)
    assert query.parts is None
    assert query.host_ms == pytest.approx(1000)
    assert not Load(fake(1.0), feeds, 1).tells_parts


class Sleepy:
    """Sleeps; counts how many threads are in it."""

    def __init__(self, fails_at=None):
        self.within = self.most = self.calls = 0
        self.fails_at, self._lock = fails_at, threading.Lock()

    def infer(self, feeds):
        with self._lock:
            self.calls += 1
            call = self.calls
            self.within += 1
            self.most = max(self.most, self.within)
        time.sleep(0.005)
        with self._lock:
            self.within -= 1
        if call == self.fails_at:
            raise RuntimeError("on purpose")


def test_clients_overlap_and_their_throughput_adds_up(feeds):
    alone, together = Sleepy(), Sleepy()
    one = Load(alone, feeds, 1).run(0.1)
    four = Load(together, feeds, 4).run(0.1)
    assert alone.most == 1
    assert together.most == 4
    assert len(four) == together.calls
    assert len(four) / walltime(four) > 2 * len(one) / walltime(one)
    assert max(query.end - query.start for query in four) < walltime(four)


@pytest.mark.parametrize("clients", [1, 4])
@pytest.mark.parametrize("call", [2, 3, 4, 5])
def test_an_error_ends_all_clients_at_once(feeds, clients, call):
    """Whichever client meets it: the others are not waited for in turn."""
    runner, start = Sleepy(fails_at=call), time.perf_counter()
    load = Load(runner, feeds, clients)
    with pytest.raises(RuntimeError, match="on purpose"):
        load.run(30)
    load.close()
    assert time.perf_counter() - start < 10
    assert runner.within == 0


def test_the_same_threads_serve_every_run(feeds):
    """Each run has all of them, even one that a single thread could finish before the next is started."""
    seen = []

    class Noting:
        def infer(self, feeds):
            seen.append(threading.get_ident())

    load = Load(Noting(), feeds, 3)
    for _ in range(20):
        load.run(0)
    load.close()
    assert len(seen) == 60
    assert all(seen.count(thread) == 20 for thread in set(seen))
    assert len(set(seen)) == 3
    assert not any(thread.name.startswith("client") for thread in threading.enumerate())
