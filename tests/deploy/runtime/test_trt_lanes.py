"""Profiles, lanes, CUDA graphs, TensorRT-RTX's runtime cache, times and memory of the TensorRT runner."""

import logging
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from tensorrt_api.cuda import LIVE, MEMORY, SimulatedCuda, SimulatedGraph, SimulatedStream
from tensorrt_api.runners import NEWEST, RTX, THREE, ask, rows, runner
from tensorrt_api.simulator import ACTIVATIONS, Context
from tensorrt_api.tables import APIS

from deploy.errors import MachineError
from deploy.runtime import trt_lane
from deploy.runtime.timing import HasProfile, HoldsDeviceMemory, timer_of
from deploy.runtime.trt_buffers import Bindings
from deploy.runtime.trt_cache import runtime_cache_path
from deploy.runtime.trt_engine import changing_device
from deploy.specs import ShapeProfile


@pytest.fixture(autouse=True)
def nothing_leaks():
    yield
    assert LIVE == {}


@pytest.fixture
def launches(monkeypatch):
    """The graphs that were launched, in order."""
    launched, launch = [], SimulatedGraph.launch
    monkeypatch.setattr(SimulatedGraph, "launch", lambda graph: launched.append(graph) or launch(graph))
    return launched


@pytest.fixture
def runs(monkeypatch):
    """The profile and the rows of each run, in order."""
    run, execute = [], Context._execute

    def spy(context, shapes, addresses, captured):
        run.append((context._profile, shapes["input"][0]))
        execute(context, shapes, addresses, captured)

    monkeypatch.setattr(Context, "_execute", spy)
    return run


@pytest.mark.parametrize("api", APIS, ids=str)
@pytest.mark.parametrize(
    ("count", "ran"),
    [
        (1, [(0, 1)]),
        (2, [(1, 2)]),
        (16, [(1, 16)]),
        (17, [(2, 17)]),
        (32, [(2, 32)]),
        (65, [(2, 32), (2, 32), (0, 1)]),
    ],
)
def test_each_piece_runs_in_the_profile_that_fits_it(api, count, ran, runs):
    with runner(api, [(1, 1, 1), (2, 8, 16), (1, 32, 32)]) as opened:
        assert opened.profile == ShapeProfile(1, 32, 32)
        ask(opened, count)
        ask(opened, 1)
        ask(opened, count)
    assert sorted(runs) == sorted([*ran, (0, 1), *ran])


def test_between_two_profiles_a_piece_is_filled_up(runs):
    with runner(profiles=[(1, 1, 2), (8, 8, 16)]) as opened:
        ask(opened, 5)
    assert runs == [(1, 8)]


def test_a_size_that_comes_again_is_launched_as_a_graph(launches, runs):
    with runner(lanes=1) as opened:
        for _ in range(4):
            ask(opened, 3)
            ask(opened, 8)
        assert opened.graph_problem is None
    assert len(launches) == 4, "the first request of a size runs as it is, the second is captured"
    assert len(set(launches)) == 2
    assert runs == [(0, 3), (0, 8)] * 4, "a capture does not run"


def test_a_context_for_all_sizes_is_told_each(runs):
    with runner(lanes=1, graphs=False) as opened:
        for count in (8, 3, 3, 5, 8):
            ask(opened, count)
    assert [rows for _, rows in runs] == [8, 3, 3, 5, 8]


def test_sizes_beyond_the_most_graphs_run_without(launches, monkeypatch):
    monkeypatch.setattr(trt_lane, "GRAPHS", 2)
    with runner(lanes=1) as opened:
        for count in (1, 2, 3, 4) * 4:
            ask(opened, count)
    assert len(set(launches)) == 2


@pytest.mark.parametrize(
    ("api", "graphs", "captures", "problem"),
    [
        (NEWEST, False, True, None),
        (NEWEST, True, False, "simulated cannot capture CUDA graphs"),
        (NEWEST, False, False, None),
        (RTX, True, False, None),
    ],
)
def test_without_graphs(launches, api, graphs, captures, problem):
    with runner(api, cuda=SimulatedCuda(graphs=captures), graphs=graphs) as opened:
        for _ in range(5):
            ask(opened, 3)
        assert opened.graph_problem == problem
    assert launches == []


def test_a_capture_that_fails_leaves_plain_runs_and_its_reason(monkeypatch, caplog):
    def refuse(stream, enqueue):
        raise MachineError("CUDA failed in the capture of a CUDA graph", got="operation would make the legacy stream")

    monkeypatch.setattr(SimulatedStream, "capture", refuse)
    with caplog.at_level(logging.WARNING), runner(lanes=1) as opened:
        for _ in range(4):
            ask(opened, 3)
        assert "operation would make the legacy stream" in opened.graph_problem
    (said,) = caplog.messages
    assert said.startswith("a batch of 3 runs without a CUDA graph: CUDA failed in the capture")


def test_one_capture_that_fails_takes_the_graphs_of_its_size_alone(monkeypatch, launches):
    capture, left = SimulatedStream.capture, [1]

    def refuse(stream, enqueue):
        if left.pop() if left else 0:
            raise MachineError("CUDA failed in the capture of a CUDA graph")
        return capture(stream, enqueue)

    monkeypatch.setattr(SimulatedStream, "capture", refuse)
    with runner(lanes=1) as opened:
        for count in (3, 5):
            for _ in range(4):
                ask(opened, count)
    assert len(launches) == 2  # the third and fourth request of 5 rows


def test_after_three_captures_that_failed_none_is_tried(monkeypatch):
    tried = []

    def refuse(stream, enqueue):
        tried.append(stream)
        raise MachineError("CUDA failed in the capture of a CUDA graph")

    monkeypatch.setattr(SimulatedStream, "capture", refuse)
    with runner(lanes=1) as opened:
        for count in (1, 2, 3, 4, 5):
            for _ in range(3):
                ask(opened, count)
    assert len(tried) == trt_lane.FAILED_CAPTURES == 3


def test_contexts_and_engines_come_and_go_while_nothing_is_captured(monkeypatch):
    """What they do to the device breaks a capture in any thread."""
    capture, made = SimulatedStream.capture, []

    def held_by_another():
        """Whether a thread that wants to change the device would have to wait."""
        free = []
        thread = threading.Thread(target=lambda: free.append(changing_device.acquire(timeout=0.01)))
        thread.start()
        thread.join()
        return not free[0]

    def spy(stream, enqueue):
        made.append(held_by_another())
        return capture(stream, enqueue)

    monkeypatch.setattr(SimulatedStream, "capture", spy)
    with runner(lanes=1) as opened:
        for _ in range(3):
            ask(opened, 3)
    assert made == [True]


def test_one_client_keeps_to_one_lane(launches):
    with runner(lanes=2) as opened:
        for _ in range(10):
            ask(opened, 3)
        assert len(launches) == 8
        assert len(set(launches)) == 1


def test_closing_that_was_interrupted_goes_on(monkeypatch):
    opened = runner(lanes=2)
    ask(opened, 3)
    get, calls = opened._idle.get, []

    def interrupted(*arguments, **options):
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return get(*arguments, **options)

    monkeypatch.setattr(opened._idle, "get", interrupted)
    with pytest.raises(KeyboardInterrupt):
        opened.close()
    assert LIVE
    opened.close()
    assert not LIVE
    with pytest.raises(RuntimeError, match="closed"):
        ask(opened, 3)


def test_memory_that_lacks_for_a_graph_leaves_plain_runs(monkeypatch):
    with runner(lanes=1) as opened:
        ask(opened, 3)
        with monkeypatch.context() as patch:
            patch.setattr(opened._engine.trt.ICudaEngine, "create_execution_context", lambda self, how: None)
            ask(opened, 3)
        ask(opened, 3)
        assert "cannot load this plan" in opened.graph_problem


def test_tensorrt_rtx_makes_its_graphs_itself(launches):
    for graphs, strategy in ((True, "WHOLE_GRAPH_CAPTURE"), (False, "DISABLED")):
        with runner(RTX, graphs=graphs, eager=graphs) as opened:
            for _ in range(4):
                ask(opened, 3)
            config = opened._lanes[0].context(0)._config
            assert config.cuda_graph_strategy.name == strategy
            assert config.dynamic_shapes_kernel_specialization_strategy.name == ("EAGER" if graphs else "LAZY")
    assert launches == []


def test_the_pieces_of_a_large_request_are_under_way_at_once(monkeypatch):
    queued, synchronize = [], SimulatedStream.synchronize

    def spy(stream):
        queued.append(sum(bool(each.queue) for each in LIVE.values() if isinstance(each, SimulatedStream)))
        synchronize(stream)

    monkeypatch.setattr(SimulatedStream, "synchronize", spy)
    with runner(lanes=3, profiles=[(1, 4, 8)]) as opened:
        for _ in range(3):  # until every lane has its graph
            ask(opened, 8 * 5)
        queued.clear()
        ask(opened, 8 * 5)
        assert queued == [3, 3, 3, 2, 1]
        queued.clear()
        ask(opened, 8)
        assert queued == [1]


class Gate:
    """Engines wait in it."""

    def __init__(self, monkeypatch):
        self.inside, self.open, compute = threading.Semaphore(0), threading.Event(), Context._compute

        def wait(context, *arguments):
            self.inside.release()
            assert self.open.wait(10)
            compute(context, *arguments)

        monkeypatch.setattr(Context, "_compute", wait)


def in_threads(*works):
    """Start them; returns what waits for their end."""
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    return lambda: [thread.join(10) for thread in threads]


def test_as_many_requests_as_lanes_run_at_once(monkeypatch):
    gate = Gate(monkeypatch)
    with runner(lanes=2) as opened:
        join = in_threads(*[lambda: ask(opened, 3)] * 3)
        assert gate.inside.acquire(timeout=10)
        assert gate.inside.acquire(timeout=10)
        assert not gate.inside.acquire(timeout=0.05), "the third waits"
        gate.open.set()
        join()
        assert gate.inside.acquire(timeout=10)


def test_closing_waits_for_what_is_under_way_and_ends_the_wait_for_a_lane(monkeypatch):
    reading, go_on, answers, read = threading.Event(), threading.Event(), [], Bindings.read

    def wait(bindings, *arguments):
        reading.set()
        assert go_on.wait(10)
        read(bindings, *arguments)

    monkeypatch.setattr(Bindings, "read", wait)
    opened = runner(lanes=1)

    def client():
        try:
            ask(opened, 3)
            answers.append("right")
        except RuntimeError as error:
            answers.append(str(error))

    join_first = in_threads(client)
    assert reading.wait(10)
    join_close = in_threads(opened.close, opened.close)
    time.sleep(0.05)
    assert LIVE, "nothing is freed under a request whose results are read"
    join_late = in_threads(client, client)
    go_on.set()
    for join in (join_first, join_close, join_late):
        join()
    assert sorted(answers) == ["right", "this runner is closed", "this runner is closed"]
    assert LIVE == {}


def test_who_waits_for_a_lane_when_the_runner_closes_is_told():
    opened = runner(lanes=1)
    lane, told = opened._take(), []

    def client():
        try:
            ask(opened, 3)
        except RuntimeError as error:
            told.append(str(error))

    join = in_threads(opened.close)
    time.sleep(0.02)
    opened._closed = False  # as the clients saw it, a moment before
    join_clients = in_threads(client, client)
    time.sleep(0.02)
    opened._closed = True
    opened._idle.put(lane)
    join()
    join_clients()
    assert told == ["this runner is closed"] * 2


def test_a_request_that_failed_leaves_its_lane_in_order(monkeypatch):
    with runner(lanes=1) as opened:
        ask(opened, 3)
        with monkeypatch.context() as patch:
            refuse = opened._engine.trt.IExecutionContext
            words = []
            patch.setattr(refuse, "execute_async_v3", lambda self, handle: self._log("ERROR", words[-1]))
            for said in ("out of memory", "no kernel image"):
                words.append(said)
                with pytest.raises(MachineError, match=rf"the engine failed to run \(got {said}\)"):
                    opened.infer({"input": rows(20)})
        for count in (3, 20, 3):
            ask(opened, count)


@pytest.mark.parametrize("api", THREE, ids=str)
def test_a_gpu_that_is_full_is_said_and_nothing_stays(api):
    with pytest.raises(MachineError, match="out of memory"):
        runner(api, cuda=SimulatedCuda(memory=1500), lanes=8)


def test_parts_of_a_request_in_time():
    with runner(cost=lambda nodes, int8: 2.0) as opened:
        timer = timer_of(opened)
        assert timer.timed_by == "CUDA events"
        batch = rows(3)
        outputs, times = timer.infer_timed({"input": batch})
        np.testing.assert_array_equal(outputs["logits"], 2 * batch + 1)
        assert (times.h2d_ms, times.compute_ms, times.d2h_ms) == pytest.approx((0, 4, 0)), "two layers"
        assert 0 < times.enqueue_ms < 1000
        large = timer.infer_timed({"input": rows(20)})[1]
        assert large.compute_ms == pytest.approx(12), "three pieces"


@pytest.mark.parametrize("api", THREE, ids=str)
def test_memory_on_the_gpu_is_what_is_told(api):
    with runner(api, lanes=3) as opened:
        assert isinstance(opened, HoldsDeviceMemory)
        assert isinstance(opened, HasProfile)
        for _ in range(9):
            ask(opened, 3)
        held, weights = sum(block.nbytes for block in MEMORY.values()), opened._engine.weights
        own = ACTIVATIONS if api is RTX else 0  # which the context of the one lane in use allocates itself
        assert opened.device_memory() == weights + held + own
        assert held == 3 * (8 * 4 * 4 * 2 + (0 if api is RTX else ACTIVATIONS))


def test_kernels_of_tensorrt_rtx_are_kept_beside_the_plan(tmp_path, caplog):
    path = tmp_path / "net.rtx.plan.runtime_cache"
    for count, kept in ((3, [[3, 4]]), (5, [[3, 4], [5, 4]])):
        with runner(RTX, runtime_cache=path) as opened:
            ask(opened, count)
        assert f"{kept}" in path.read_text()
    before = path.stat().st_mtime_ns
    with runner(RTX, runtime_cache=path) as opened:
        ask(opened, 5)
    assert path.stat().st_mtime_ns == before, "nothing was added"
    assert caplog.records == []


@pytest.mark.parametrize("content", [b"rubbish", b'["1.6", [[3, 4]]]'])
def test_a_runtime_cache_that_does_not_fit_is_made_anew(tmp_path, caplog, content):
    path = tmp_path / "cache"
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING), runner(RTX, runtime_cache=path) as opened:
        ask(opened, 3)
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} is of another GPU or version, and is made anew"
    ]
    assert path.read_text() == f'["{RTX.version}", [[3, 4]]]'


def test_a_folder_that_cannot_be_written_loses_the_cache_alone(tmp_path, caplog):
    with caplog.at_level(logging.WARNING), runner(RTX, runtime_cache=tmp_path / "absent" / "cache") as opened:
        ask(opened, 3)
    assert "the runtime cache is not kept: " in caplog.text


def test_the_cache_of_a_plan_that_is_not_in_its_place_yet_is_not_kept():
    assert runtime_cache_path(Path("net.rtx.plan")) == Path("net.rtx.plan.runtime_cache")
    assert runtime_cache_path(Path(".net.rtx.plan.1f2e.tmp")) is None


def test_a_runtime_cache_that_cannot_be_read_is_left_alone(tmp_path, caplog):
    path = tmp_path / "cache"
    path.write_bytes(b"kernels")
    read = Path.read_bytes

    def refused(self):
        if self == path:
            raise PermissionError(13, "Permission denied")
        return read(self)

    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(Path, "read_bytes", refused)
        with runner(RTX, runtime_cache=path) as opened:
            ask(opened, 3)
    assert "is not used: Permission denied" in caplog.text


def test_lanes_that_start_at_once_share_one_runtime_cache(monkeypatch):
    made, lanes = [], 3
    with runner(RTX, lanes=lanes) as opened:
        config = opened._engine.trt.IRuntimeConfig
        create = config.create_runtime_cache

        def slowly(self):
            made.append(create(self))
            time.sleep(0.01)
            return made[-1]

        monkeypatch.setattr(config, "create_runtime_cache", slowly)
        threads = [threading.Thread(target=ask, args=(opened, 3)) for _ in range(lanes)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(made) == 1


def test_tensorrt_keeps_no_runtime_cache(tmp_path):
    with runner(NEWEST, runtime_cache=tmp_path / "cache") as opened:
        ask(opened, 3)
    assert list(tmp_path.iterdir()) == []
