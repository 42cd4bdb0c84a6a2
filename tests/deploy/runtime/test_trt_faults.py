"""Runners with one fault each: the simulated GPU shows every one of them. What passes on it has none of these."""

import threading
import time

import pytest
from tensorrt_api.cuda import (
    LIVE,
    MEMORY,
    STREAMS,
    Fault,
    SimulatedCuda,
    SimulatedEvent,
    SimulatedGraph,
    SimulatedMemory,
    SimulatedPinned,
    SimulatedStream,
)
from tensorrt_api.runners import NEWEST, THREE, ask, rows, runner
from tensorrt_api.simulator import Context

from deploy.errors import MachineError
from deploy.runtime.trt_engine import Engine
from deploy.runtime.trt_lane import Lane


@pytest.fixture(autouse=True)
def wreckage():
    """What a faulty runner leaves behind."""
    yield
    LIVE.clear()
    MEMORY.clear()
    STREAMS.clear()


@pytest.fixture
def faulty(monkeypatch):
    """Replace a method of the runner's lanes: ``faulty("finish", lambda real, lane, …: …)``."""

    def replace(name, method):
        real = getattr(Lane, name)
        monkeypatch.setattr(Lane, name, lambda *args, **options: method(real, *args, **options))

    return replace


def serve(api=NEWEST, **options):
    """Raise unless requests of several sizes, again and again, are answered rightly, and nothing stays open."""
    with runner(api, **options) as opened:
        for count in (3, 8, 3, 20, 3, 8, 1) * 2:
            ask(opened, count)
    assert LIVE == {}, "handles are open after the runner was closed"


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("api", THREE, ids=str)
def test_without_a_fault_all_is_well(api, graphs):
    serve(api, graphs=graphs)


@pytest.mark.parametrize("api", THREE, ids=str)
def test_a_missing_synchronise(api, faulty, monkeypatch):
    def finish(real, lane, results, piece):
        with monkeypatch.context() as patch:
            patch.setattr(SimulatedStream, "synchronize", lambda stream: None)
            real(lane, results, piece)

    faulty("finish", finish)
    with pytest.raises(AssertionError, match="Mismatched elements"):
        serve(api)


def test_inputs_written_while_they_are_copied(faulty):
    """The second piece goes into a lane whose first piece is still to be copied."""
    faulty("finish", lambda real, lane, results, piece: None if piece.start == 0 else real(lane, results, piece))
    with pytest.raises(AssertionError, match="Mismatched elements"), runner(lanes=1) as opened:
        ask(opened, 20)


@pytest.mark.parametrize("api", THREE, ids=str)
@pytest.mark.parametrize("wrong", [lambda lane: lane.buffers.addresses["input"], lambda lane: 0x1000])
def test_a_wrong_address(api, faulty, wrong):
    def new_context(real, lane, profile):
        context = real(lane, profile)
        context.set_tensor_address("logits", wrong(lane))
        return context

    faulty("_new_context", new_context)
    with pytest.raises(AssertionError, match=r"Mismatched elements|no device memory at 0x1000"):
        serve(api)


def test_an_address_within_memory_that_is_too_small(faulty):
    def new_context(real, lane, profile):
        context = real(lane, profile)
        context.set_device_memory(lane.buffers.addresses["input"], 1 << 20)
        return context

    faulty("_new_context", new_context)
    with pytest.raises(Fault, match="overrun a block"):
        serve()


@pytest.mark.parametrize("api", THREE, ids=str)
def test_a_freed_buffer(api, faulty):
    def start(real, lane, feeds, piece):
        lane.buffers._memory["logits"][1].close()
        real(lane, feeds, piece)

    faulty("start", start)
    with pytest.raises(Fault, match="freed, or never allocated"):
        serve(api)


def test_page_locked_memory_freed_under_a_copy(faulty):
    def start(real, lane, feeds, piece):
        real(lane, feeds, piece)
        lane.buffers._memory["input"][0].close()

    faulty("start", start)
    with pytest.raises(Fault, match="SimulatedPinned is used after it was closed"):
        serve()


@pytest.mark.parametrize("api", THREE, ids=str)
def test_a_shape_outside_the_profile(api, monkeypatch):
    """Profiles 1:1:1 and 2:4:8, and all goes into the first."""
    with runner(api, [(1, 1, 1), (2, 4, 8)]) as opened:
        monkeypatch.setattr(Lane, "_new_context", lambda lane, profile, real=Lane._new_context: real(lane, 0))
        with pytest.raises(MachineError, match=r"the engine failed to run \(got Static dimension mismatch"):
            opened.infer({"input": rows(3)})


def test_a_stale_graph(faulty):
    """One context for all sizes, so that a graph's context is given other shapes after the capture."""
    faulty("_new_context", lambda real, lane, profile: lane._plain[0].context if lane._plain else real(lane, 0))
    with pytest.raises(Fault, match="a stale graph"):
        serve(lanes=1)


def test_a_graph_of_another_size(faulty):
    def launch(real, lane, size):
        graphs = [each.graph for each in lane._sizes.values() if each.graph]
        graphs[0].launch() if graphs else real(lane, size)

    faulty("_launch", launch)
    with pytest.raises(AssertionError, match="Mismatched elements"):
        serve(lanes=1)


def test_a_capture_before_the_context_ran(faulty):
    def make_graph(real, lane, size):
        context = lane._new_context(0)
        lane._shape(context, size.bindings)
        lane.stream.capture(lambda: lane._enqueue(context))

    faulty("_make_graph", make_graph)
    with pytest.raises(MachineError, match="operation not permitted when stream is capturing"):
        serve(lanes=1)


def test_an_allocation_within_a_capture(faulty):
    faulty("_make_graph", lambda real, lane, size: lane.stream.capture(lambda: lane._new_context(0)))
    with pytest.raises(Fault, match="an allocation within a capture"):
        serve(lanes=1)


def test_lanes_that_compute_in_the_same_memory(monkeypatch):
    memory, faults, make = [], [], Engine.context
    monkeypatch.setattr(Engine, "context", lambda engine, own: memory.append(own) or make(engine, memory[0]))
    compute = Context._compute
    monkeypatch.setattr(Context, "_compute", lambda context, *args: time.sleep(0.05) or compute(context, *args))

    def client():
        try:
            ask(opened, 2)
        except Fault as fault:
            faults.append(str(fault))

    opened = runner(lanes=2)
    threads = [threading.Thread(target=client) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == ["a context, or the memory that it computes in, is used by two runs at once"]


@pytest.mark.parametrize("kind", [SimulatedMemory, SimulatedPinned, SimulatedEvent, SimulatedGraph, SimulatedStream])
def test_a_handle_that_is_not_closed(kind, monkeypatch):
    monkeypatch.setattr(kind, "close", lambda handle: None)
    with pytest.raises(AssertionError, match="handles are open"):
        serve()


def test_a_thread_in_which_the_gpu_is_not_current(monkeypatch):
    opened = runner()
    monkeypatch.setattr(SimulatedCuda, "__enter__", lambda cuda: cuda)
    monkeypatch.setattr(SimulatedCuda, "__exit__", lambda cuda, kind, error, trace: None)
    with pytest.raises(Fault, match="the GPU is not current in this thread"):
        ask(opened, 1)


def test_a_stream_destroyed_with_work_under_way(faulty, monkeypatch):
    opened = runner()
    with SimulatedCuda():
        opened._lanes[0].start({"input": rows(2)}, opened._io.piece(0, 2))
    monkeypatch.setattr(SimulatedStream, "synchronize", lambda stream: None)
    with pytest.raises(Fault, match="destroyed with work under way"):
        opened.close()


def test_threads_that_share_a_lane(monkeypatch):
    compute = Context._compute
    monkeypatch.setattr(Context, "_compute", lambda context, *args: time.sleep(0.001) or compute(context, *args))
    opened, failed = runner(), []
    monkeypatch.setattr(opened, "_take", lambda: opened._lanes[0])

    def client():
        try:
            for count in (1, 5, 8) * 10:
                ask(opened, count)
        except (AssertionError, MachineError) as error:  # wrong rows, or what another thread has not set yet
            failed.append(error)

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed
