"""The simulated GPU itself: it keeps the interface of the real bindings, and faults where CUDA is undefined."""

import inspect

import numpy as np
import pytest
from tensorrt_api.cuda import LIVE, MEMORY, STREAMS, Fault, SimulatedClock, SimulatedCuda

from deploy.errors import MachineError
from deploy.runtime import cuda as interface


@pytest.fixture
def cuda():
    with SimulatedCuda(memory=1 << 20) as opened:
        yield opened
    LIVE.clear()
    MEMORY.clear()
    STREAMS.clear()


def test_it_has_the_interface_of_the_bindings(cuda):
    made = {
        interface.Cuda: cuda,
        interface.DeviceMemory: cuda.memory(8),
        interface.PinnedMemory: cuda.pinned(8),
        interface.Event: cuda.event(),
        interface.Stream: (stream := cuda.stream()),
        interface.Graph: stream.capture(lambda: stream.put(lambda: None)),
    }
    for protocol, handle in made.items():
        attributes = set(inspect.get_annotations(protocol))
        methods = {name for name in vars(protocol) if not name.startswith("_")}
        assert attributes | methods <= set(dir(handle)), protocol
        for name in methods:
            wanted = list(inspect.signature(getattr(protocol, name)).parameters)[1:]
            assert list(inspect.signature(getattr(handle, name)).parameters) == wanted, (protocol, name)


def test_nothing_runs_before_it_is_waited_for_and_fresh_memory_is_rubbish(cuda):
    stream, memory, there, back = cuda.stream(), cuda.memory(4), cuda.pinned(4), cuda.pinned(4)
    there.array[:] = [1, 2, 3, 4]
    stream.upload(there, memory, 3)
    stream.download(memory, back, 4)
    there.array[0] = 9
    assert back.array.tolist() == [0x55] * 4
    stream.synchronize()
    assert back.array.tolist() == [9, 2, 3, 0xAA], "copied when it was waited for"


def test_streams_are_ordered_by_events_alone(cuda):
    one, other, event, done = cuda.stream(), cuda.stream(), cuda.event(), []
    one.put(lambda: done.append("one"))
    one.record(event)
    one.put(lambda: done.append("behind the event"))
    other.put(lambda: done.append("other"))
    other.wait(event)
    other.put(lambda: done.append("after the event"))
    other.synchronize()
    assert done == ["other", "one", "after the event"]
    one.synchronize()
    assert done[3:] == ["behind the event"]


def test_events_tell_the_time_between_them_once_they_were_reached(cuda):
    stream, start, end = cuda.stream(), cuda.event(), cuda.event()
    stream.record(start)
    stream.put(lambda: setattr(SimulatedClock, "now", SimulatedClock.now + 0.002))
    stream.record(end)
    with pytest.raises(Fault, match="NOT_READY"):
        end.milliseconds_since(start)
    end.synchronize()
    assert end.milliseconds_since(start) == pytest.approx(2)
    stream.record(end)
    with pytest.raises(Fault, match="NOT_READY"):
        end.milliseconds_since(start)


def test_a_graph_replays_what_was_captured(cuda):
    stream, memory, there, back = cuda.stream(), cuda.memory(4), cuda.pinned(4), cuda.pinned(4)
    graph = stream.capture(lambda: stream.upload(there, memory, 4))
    stream.download(memory, back, 4)
    stream.synchronize()
    assert back.array.tolist() == [0xAA] * 4, "a capture does not run"
    for value in (1, 2):
        there.array[:] = value
        graph.launch()
        stream.download(memory, back, 4)
        stream.synchronize()
        assert back.array.tolist() == [value] * 4
    graph.close()
    with pytest.raises(Fault, match="SimulatedGraph is used after it was closed"):
        graph.launch()


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda c, s: s.upload(c.pinned(4), c.memory(8), 8), "a copy of 8 bytes from 4 to 8"),
        (lambda c, s: s.download(c.memory(4), c.pinned(8), 8), "a copy of 8 bytes from 4 to 8"),
        (lambda c, s: s.capture(lambda: None), "an empty graph"),
        (lambda c, s: s.capture(s.synchronize), "waiting for a stream that is being captured"),
        (lambda c, s: s.capture(lambda: c.pinned(8)), "an allocation within a capture"),
        (lambda c, s: (s.put(lambda: None), s.close()), "destroyed with work under way"),
        (lambda c, s: (s.close(), s.synchronize()), "SimulatedStream is used after it was closed"),
    ],
)
def test_what_cuda_refuses(cuda, act, said):
    with pytest.raises(Fault, match=said):
        act(cuda, cuda.stream())


def test_what_fails_in_a_capture_leaves_the_stream_as_it_was(cuda):
    stream, done = cuda.stream(), []
    with pytest.raises(Fault, match="an allocation"):
        stream.capture(lambda: (stream.put(lambda: done.append("captured")), cuda.memory(8)))
    stream.put(lambda: done.append("queued"))
    stream.synchronize()
    assert done == ["queued"]


def test_memory_runs_out_and_is_given_back_once(cuda):
    free, total = cuda.memory_info()
    memory = cuda.memory(free - 8)
    assert cuda.memory_info() == (8, total)
    with pytest.raises(MachineError, match="out of memory"):
        cuda.memory(9)
    memory.close()
    memory.close()
    assert cuda.memory_info() == (free, total)
    assert np.all(memory.content == 0xDD)
