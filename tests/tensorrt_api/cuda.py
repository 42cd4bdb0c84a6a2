"""A strict stand-in for CUDA in host memory: what CUDA leaves undefined shows in the numbers or is a :class:`Fault`.

Work runs only when its stream, or an event behind it, is waited for, and streams know nothing of one another. Fresh
memory is full of rubbish, addresses are in no process's reach, a freed one is never used again, and every copy is
checked against the memory that is there when it runs. ``LIVE`` holds every handle that has not been closed.
"""

import contextlib
import itertools
import threading
import time
from collections import deque

import numpy as np

from deploy.errors import MachineError

LIVE = {}  # id → handle that has not been closed
MEMORY = {}  # address → device memory that has not been freed
STREAMS = {}  # handle → stream that has not been closed
_addresses, _handles = itertools.count(0x7F00_0000_0000, 0x1_0000_0000), itertools.count(0x5000, 0x10)
_thread = threading.local()


class Fault(AssertionError):
    """What a real GPU would crash on, or silently get wrong."""


class SimulatedClock:
    """In place of the module ``time``: only what engines take passes on it. In seconds."""

    now = 0.0

    @classmethod
    def perf_counter(cls):
        return cls.now


def resolve(address, nbytes):
    """The bytes at a device address, all of which must be of one block that is there now."""
    block = MEMORY.get(address)
    if block is None:
        starts = [start for start in list(MEMORY) if start <= address < start + MEMORY[start].nbytes]
        if not starts:
            raise Fault(f"no device memory at {address:#x}: freed, or never allocated")
        block = MEMORY[starts[0]]
    offset = address - block.address
    if offset + nbytes > block.nbytes:
        raise Fault(f"{nbytes} bytes at {address:#x} overrun a block of {block.nbytes}")
    return block.content[offset : offset + nbytes]


class Handle:
    """Counted while it is open."""

    def __init__(self):
        check_current()
        LIVE[id(self)] = self

    def close(self):
        """True the first time."""
        check_current()
        return LIVE.pop(id(self), None) is not None

    def check_open(self):
        if id(self) not in LIVE:
            raise Fault(f"{type(self).__name__} is used after it was closed")


class SimulatedMemory(Handle):
    def __init__(self, nbytes):
        super().__init__()
        assert nbytes > 0, "CUDA_ERROR_INVALID_VALUE"
        self.address, self.nbytes, self.content = next(_addresses), nbytes, np.full(nbytes, 0xAA, np.uint8)
        MEMORY[self.address] = self

    def close(self):
        if super().close():
            del MEMORY[self.address]
            self.content[...] = 0xDD


class SimulatedPinned(Handle):
    def __init__(self, nbytes):
        super().__init__()
        self.array = np.full(nbytes, 0x55, np.uint8)
        self.address = self.array.ctypes.data

    def close(self):
        if super().close():
            self.array[...] = 0xDD


class SimulatedEvent(Handle):
    def __init__(self):
        super().__init__()
        self._stream, self._recorded, self._reached, self._at = None, 0, 0, None

    def recorded_in(self, stream):
        """The work that stands for this event in ``stream``."""
        self._stream, self._recorded = stream, self._recorded + 1
        number = self._recorded

        def reach():
            self._reached, self._at = number, SimulatedClock.now

        return reach

    def synchronize(self):
        self.check_open()
        if self._stream is not None:
            self._stream.run(lambda wanted=self._recorded: self._reached >= wanted)

    def milliseconds_since(self, earlier):
        if not self._recorded or self._reached < self._recorded or earlier._reached < earlier._recorded:
            raise Fault("CUDA_ERROR_NOT_READY: the time between events that were not waited for")
        return 1000 * (self._at - earlier._at)


class SimulatedGraph(Handle):
    def __init__(self, stream, works):
        super().__init__()
        self._stream, self._works = stream, works

    def launch(self):
        self.check_open()
        self._stream.put(self._replay)

    def _replay(self):
        self.check_open()
        for work in self._works:
            work()


class SimulatedStream(Handle):
    def __init__(self, pause):
        super().__init__()
        self.handle, self.queue, self.captured, self._pause = next(_handles), deque(), None, pause
        self._running = threading.RLock()
        STREAMS[self.handle] = self

    def put(self, work):
        check_current()
        self.check_open()
        (self.queue if self.captured is None else self.captured).append(work)

    def upload(self, source, target, nbytes):
        check_copy(source.array.nbytes, target.nbytes, nbytes)
        address = target.address

        def copy():
            source.check_open()
            resolve(address, nbytes)[...] = source.array[:nbytes]

        self.put(copy)

    def download(self, source, target, nbytes):
        check_copy(source.nbytes, target.array.nbytes, nbytes)
        address = source.address

        def copy():
            target.check_open()
            target.array[:nbytes] = resolve(address, nbytes)

        self.put(copy)

    def record(self, event):
        event.check_open()
        self.put(event.recorded_in(self))

    def wait(self, event):
        event.check_open()
        self.put(event.synchronize)

    def capture(self, enqueue):
        assert not self.queue or self.captured is None, "one capture at a time"
        self.captured = []
        try:
            with capturing():
                enqueue()
            works = self.captured
        finally:
            self.captured = None
        if not works:
            raise Fault("an empty graph was captured")
        return SimulatedGraph(self, works)

    def synchronize(self):
        self.run(lambda: False)

    def run(self, reached):
        """Do what is queued, one after the other, until ``reached`` or nothing is left."""
        check_current()
        self.check_open()
        if self.captured is not None:
            raise Fault("CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED: waiting for a stream that is being captured")
        if self._pause is not None:
            time.sleep(self._pause)  # lets other threads interfere, as a real wait does
        with self._running:
            while self.queue and not reached():
                self.queue.popleft()()

    def close(self):
        if super().close():
            del STREAMS[self.handle]
            if self.queue:
                raise Fault("a stream is destroyed with work under way")


class SimulatedCuda:
    """A :class:`~deploy.runtime.cuda.Cuda`. ``memory`` is what its GPU has, in bytes."""

    binding, device = "simulated", "a simulated GPU"

    def __init__(self, ordinal=0, graphs=True, memory=1 << 30, pause=0):
        self.graphs, self._memory, self._pause = graphs, memory, pause

    def __enter__(self):
        _thread.current = getattr(_thread, "current", 0) + 1
        return self

    def __exit__(self, kind, error, trace):
        _thread.current -= 1

    def memory_info(self):
        return self._memory - sum(block.nbytes for block in MEMORY.values()), self._memory

    def memory(self, nbytes):
        check_no_capture()
        if nbytes > self.memory_info()[0]:
            raise MachineError("CUDA failed in cuMemAlloc", got="out of memory")
        return SimulatedMemory(nbytes)

    def pinned(self, nbytes):
        check_no_capture()
        return SimulatedPinned(nbytes)

    def stream(self):
        return SimulatedStream(self._pause)

    def event(self):
        return SimulatedEvent()


@contextlib.contextmanager
def capturing():
    """This thread captures: what would wait for the GPU must not be called."""
    _thread.capturing = True
    try:
        yield
    finally:
        _thread.capturing = False


def check_no_capture():
    if getattr(_thread, "capturing", False):
        raise Fault("CUDA_ERROR_STREAM_CAPTURE_UNSAFE: an allocation within a capture")


def check_current():
    if not getattr(_thread, "current", 0):
        raise Fault("CUDA_ERROR_INVALID_CONTEXT: the GPU is not current in this thread")


def check_copy(source, target, nbytes):
    if nbytes > min(source, target):
        raise Fault(f"CUDA_ERROR_INVALID_VALUE: a copy of {nbytes} bytes from {source} to {target}")
