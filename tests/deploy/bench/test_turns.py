from __future__ import annotations

import gc

import pytest

from deploy.bench.load import Load
from deploy.bench.result import Result
from deploy.bench.turns import Series, Settings, measure
from deploy.runtime.timing import InferenceTime


def measured(runners, feeds, **settings):
    series = [Series(Load(runner, feeds, 1)) for runner in runners]
    seen = []
    measure(series, Settings(**settings), lambda done, total: seen.append((done, total)))
    assert seen == [(index + 1, len(seen)) for index in range(len(seen))]
    return [Result.of(f"net{index}", 4, each, series[0]) for index, each in enumerate(series)], series


def test_each_is_measured_for_the_duration(fake, feeds):
    results, series = measured([fake(0.01), fake(0.02)], feeds, duration_s=2.0)
    assert [len(each.turns) for each in series] == [10, 10]
    for result, seconds in zip(results, (0.01, 0.02)):
        assert result.host_latency.median == pytest.approx(1e3 * seconds)
        assert 2.0 <= result.walltime_s < 2.0 + 10 * seconds + 1e-6
        assert result.throughput_qps == pytest.approx(1 / seconds)
        assert result.images_per_second == pytest.approx(4 / seconds)
    assert results[0].ratio is None
    assert results[1].ratio.median == pytest.approx(2)


def test_the_order_goes_there_and_back(fake, feeds):
    """A B B A A B …: what drifts steadily favours none."""
    order = []

    def recording(name):
        runner = fake(0.5)
        plain = runner.infer
        runner.infer = lambda fed: (order.append(name), plain(fed))[1]
        return runner

    measured([recording("a"), recording("b")], feeds, duration_s=4.0, warm_up_ms=0, iterations=1)
    turns = [name for index, name in enumerate(order) if index == 0 or order[index - 1] != name]
    assert "".join(turns) == "ab" + "aba"  # warm-up, then a b and b a


def test_slow_networks_get_fewer_turns_and_no_fewer_queries(fake, feeds):
    results, series = measured([fake(5.0)], feeds, duration_s=1.0, iterations=10)
    assert len(series[0].turns) == 2
    assert results[0].queries == 10


def test_the_query_that_fills_the_caches_does_not_count(fake, feeds):
    runner = fake(0.1)
    (result,), series = measured([runner], feeds, duration_s=1.0, warm_up_ms=0, iterations=1)
    warm_up, turns = 1, len(series[0].turns)
    assert result.queries == len(runner.fed) - warm_up - turns


def test_no_garbage_is_collected_while_queries_are_timed(fake, feeds):
    runner, seen = fake(0.1), []
    plain = runner.infer
    runner.infer = lambda fed: (seen.append(gc.isenabled()), plain(fed))[1]
    (result,), _ = measured([runner], feeds, duration_s=1.0, warm_up_ms=0)
    assert seen.count(False) == result.queries
    assert gc.isenabled()


def test_the_parts_are_named_as_trtexec_names_them(fake_gpu, feeds):
    (result,), _ = measured([fake_gpu(0.01)], feeds, duration_s=0.5)
    medians = {name: figures.median for name, figures in result.parts.named().items()}
    assert medians == pytest.approx(
        {"Latency": 8, "Enqueue Time": 0.5, "H2D Latency": 2, "GPU Compute Time": 5, "D2H Latency": 1}
    )
    document = result.to_dict()
    assert document["gpu_compute_time_ms"]["median"] == pytest.approx(5)
    assert document["host_latency_ms"]["median"] == pytest.approx(10)


def test_a_run_that_slowed_down_is_said(fake, feeds):
    times = [0.01] * 56 + [0.02] * 200
    (result,), _ = measured([fake(*times)], feeds, duration_s=1.0, warm_up_ms=0)
    (text,) = result.warnings()
    assert text.startswith("net0, batch 4: the second half of the run was 100 % slower than the first")
    (steady,), _ = measured([fake(0.01)], feeds, duration_s=1.0)
    assert steady.warnings() == []


def test_what_bounds_the_throughput_is_said(fake_gpu, feeds):
    parts = InferenceTime(h2d_ms=3, compute_ms=2, d2h_ms=1, enqueue_ms=1.9)
    (result,), _ = measured([fake_gpu(0.01, parts=parts)], feeds, duration_s=0.5)
    enqueue, copies = result.warnings()
    assert "bound by Enqueue Time" in enqueue
    assert "H2D Latency is no less than GPU Compute Time" in copies
