"""The CUDA bindings' adapters, on stand-ins with exactly the names of cuda.core, cuda.bindings and pycuda."""

import ctypes
import enum
import importlib
import sys
import types

import numpy as np
import pytest

from deploy import hardware
from deploy.errors import InputError, MachineError
from deploy.runtime import cuda

ADAPTERS = ("deploy.runtime.cuda_core", "deploy.runtime.cuda_pycuda")


class Gpu:
    """What a stand-in is asked for, in order; ``broken`` names the calls that fail."""

    def __init__(self):
        self.calls, self.broken, self.kept = [], set(), []

    def call(self, name, *arguments):
        self.calls.append((name, *arguments))
        if name in self.broken:
            raise RuntimeError(f"CUDA_ERROR_UNKNOWN: {name} broke")

    def memory(self, nbytes):
        self.kept.append((ctypes.c_uint8 * nbytes)())
        return ctypes.addressof(self.kept[-1])

    def copy(self, target, source, nbytes, name):
        self.call(name, nbytes)
        ctypes.memmove(target, source, nbytes)

    def count(self, name):
        return sum(call[0] == name for call in self.calls)


# cuda.core 1.0 to 1.2, read off its classes (test_stand_ins_are_no_wider_than_the_real_modules).


def core_modules(gpu):
    class Handle:
        closing = ""

        def __init__(self):
            self._closed = False

        def close(self):
            if not self._closed:
                self._closed = True
                gpu.call(self.closing)

    class Buffer(Handle):
        closing = "free pinned"

        def __init__(self, handle, size):
            super().__init__()
            self.handle, self.size = handle, size

        @classmethod
        def from_handle(cls, ptr, size):
            return cls(ptr, size)

        def copy_to(self, dst, *, stream):
            assert isinstance(stream, Stream)
            assert self.size == dst.size, "cuda.core copies whole buffers"
            gpu.copy(dst.handle, self.handle, self.size, "copy")

    class LegacyPinnedMemoryResource:
        def allocate(self, size):
            gpu.call("pinned", size)
            return Buffer(gpu.memory(size), size)

    class EventOptions:
        def __init__(self, timing_enabled=False):
            self.timing_enabled = timing_enabled

    class Event(Handle):
        closing = "destroy event"

        def __init__(self, options):
            super().__init__()
            self._timed, self._at = options.timing_enabled, None

        def sync(self):
            gpu.call("wait for event")

        def __sub__(self, other):
            assert self._timed
            return self._at - other._at

    class Stream(Handle):
        closing = "destroy stream"
        handle = types.SimpleNamespace(__int__=None)

        def __init__(self):
            super().__init__()
            self.handle = Pointer(77)

        def record(self, event):
            gpu.call("record")
            event._at = gpu.count("record")

        def wait(self, event_or_stream):
            gpu.call("stream waits")

        def sync(self):
            gpu.call("synchronize")

    class Device:
        name = "Stand-in"

        def __init__(self, device_id):
            gpu.call("device", device_id)

        def set_current(self):
            gpu.call("current")

        def create_stream(self):
            gpu.call("create stream")
            return Stream()

        def create_event(self, options):
            return Event(options)

    core = types.ModuleType("cuda.core")
    kinds = (Buffer, LegacyPinnedMemoryResource, EventOptions, Event, Stream, Device)
    vars(core).update({kind.__name__: kind for kind in kinds})
    bindings = types.ModuleType("cuda.bindings")
    bindings.driver = driver_module(gpu)
    package = types.ModuleType("cuda")
    package.core, package.bindings = core, bindings
    modules = {"cuda": package, "cuda.core": core, "cuda.bindings": bindings, "cuda.bindings.driver": bindings.driver}
    return modules, kinds


class Pointer:
    """As cuda.bindings' handles: an object that converts to int."""

    def __init__(self, value):
        self.value = value

    def __int__(self):
        return self.value


def driver_module(gpu):
    driver = types.ModuleType("cuda.bindings.driver")
    results = {"CUDA_SUCCESS": 0, "CUDA_ERROR_OUT_OF_MEMORY": 2, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED": 901}
    driver.CUresult = enum.IntEnum("CUresult", results)
    modes = {"CU_STREAM_CAPTURE_MODE_GLOBAL": 0, "CU_STREAM_CAPTURE_MODE_THREAD_LOCAL": 1}
    driver.CUstreamCaptureMode = enum.IntEnum("CUstreamCaptureMode", modes)
    driver.CUstream, driver.CUgraphExec = Pointer, Pointer

    def allocate(nbytes):
        gpu.calls.append(("allocate", nbytes))
        if "allocate" in gpu.broken:
            return driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY, Pointer(0)
        return driver.CUresult.CUDA_SUCCESS, Pointer(gpu.memory(nbytes))

    def free(pointer):
        gpu.call("free")
        return (driver.CUresult.CUDA_SUCCESS,)

    def step(name, *made, broken="CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"):
        """A call that is noted, and gives ``made``, or an error and nothing."""

        def run(*arguments):
            assert all(int(each) == 77 for each in arguments if isinstance(each, Pointer) and name != "destroy graph")
            gpu.calls.append((name, *(each.name for each in arguments if isinstance(each, enum.Enum))))
            failed = name in gpu.broken
            return (driver.CUresult[broken if failed else "CUDA_SUCCESS"], *([Pointer(0)] if failed else made))[
                : 1 + len(made)
            ]

        return run

    graph = Pointer(77)
    driver.cuStreamBeginCapture = step("begin capture")
    driver.cuStreamEndCapture = step("end capture", graph)
    driver.cuGraphInstantiate = step("instantiate", graph)
    driver.cuGraphDestroy, driver.cuGraphUpload = step("free captured"), step("upload graph")
    driver.cuGraphLaunch, driver.cuGraphExecDestroy = step("launch"), step("destroy graph")
    driver.cuMemAlloc, driver.cuMemFree = allocate, free
    driver.cuMemGetInfo = lambda: (driver.CUresult.CUDA_SUCCESS, 3, 8)
    driver.cuGetErrorString = lambda result: (driver.CUresult.CUDA_SUCCESS, b"out of memory")
    return driver


# pycuda 2024.1 and later, read off its src/wrapper/wrap_cudadrv.cpp.


def pycuda_modules(gpu):
    driver = types.ModuleType("pycuda.driver")

    class Context:
        def push(self):
            gpu.call("push")

        @staticmethod
        def pop():
            gpu.call("pop")

    class Device:
        def __init__(self, ordinal):
            gpu.call("device", ordinal)

        def name(self):
            return "Stand-in"

        def retain_primary_context(self):
            gpu.call("retain")
            return Context()

    class Freed:
        def __init__(self, address, name):
            self._address, self._name = address, name

        def __int__(self):
            return self._address

        def free(self):
            gpu.call(self._name)

    class Stream:
        handle = 77

        def __init__(self, flags):
            gpu.call("create stream", flags)

        def synchronize(self):
            gpu.call("synchronize")

        def wait_for_event(self, event):
            gpu.call("stream waits")

        def __del__(self):
            gpu.call("destroy stream")

    class Event:
        def record(self, stream):
            gpu.call("record")
            self._at = gpu.count("record")
            return self

        def synchronize(self):
            gpu.call("wait for event")
            return self

        def time_since(self, event):
            return self._at - event._at

        def __del__(self):
            gpu.call("destroy event")

    class Pagelocked(np.ndarray):
        base = None

    def mem_alloc(nbytes):
        gpu.call("allocate", nbytes)
        return Freed(gpu.memory(nbytes), "free")

    def pagelocked_empty(shape, dtype):
        gpu.call("pinned", shape)
        array = np.empty(shape, dtype).view(Pagelocked)
        array.base = Freed(array.ctypes.data, "free pinned")
        return array

    driver.init = lambda: gpu.call("init")
    driver.Context, driver.Device, driver.Stream, driver.Event = Context, Device, Stream, Event
    driver.mem_alloc, driver.pagelocked_empty, driver.mem_get_info = mem_alloc, pagelocked_empty, lambda: (3, 8)
    driver.memcpy_htod_async = lambda dest, src, stream: gpu.copy(dest, src.ctypes.data, src.nbytes, "copy")
    driver.memcpy_dtoh_async = lambda dest, src, stream: gpu.copy(dest.ctypes.data, src, dest.nbytes, "copy")
    package = types.ModuleType("pycuda")
    package.driver = driver
    return {"pycuda": package, "pycuda.driver": driver}


@pytest.fixture
def installed(monkeypatch):
    """Install the stand-ins of the named bindings; the others cannot be imported."""
    gpu = Gpu()

    def install(*bindings):
        modules = dict.fromkeys(("cuda", "cuda.core", "cuda.bindings", "pycuda", "pycuda.driver"))
        modules |= core_modules(gpu)[0] if "cuda-core" in bindings else {}
        modules |= pycuda_modules(gpu) if "pycuda" in bindings else {}
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)
        return gpu

    for name in ADAPTERS:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield install
    for name in ADAPTERS:
        sys.modules.pop(name, None)


@pytest.fixture(params=["cuda-core", "pycuda"])
def gpu(request, installed):
    """A stand-in, its calls, and the binding's name."""
    calls = installed(request.param)
    with cuda.open_cuda(3, {}) as opened:
        yield opened, calls, request.param


def test_a_round_trip_through_the_gpu(gpu):
    opened, calls, binding = gpu
    assert (opened.binding, opened.device, opened.memory_info()) == (binding, "Stand-in", (3, 8))
    assert ("device", 3) in calls.calls
    stream, memory = opened.stream(), opened.memory(8)
    there, back = opened.pinned(8), opened.pinned(8)
    there.array[:], back.array[:] = range(8), 0
    stream.upload(there, memory, 6)
    stream.download(memory, back, 4)
    stream.synchronize()
    assert back.array.tolist() == [0, 1, 2, 3, 0, 0, 0, 0]
    assert (stream.handle, memory.nbytes) == (77, 8)
    assert [call for call in calls.calls if call[0] == "copy"] == [("copy", 6), ("copy", 4)]


def test_events_order_streams_and_tell_the_time(gpu):
    opened, calls, _ = gpu
    one, other, start, end = opened.stream(), opened.stream(), opened.event(), opened.event()
    one.record(start)
    one.record(end)
    other.wait(end)
    end.synchronize()
    assert end.milliseconds_since(start) == 1.0
    names = [call[0] for call in calls.calls]
    assert names.index("record") < names.index("stream waits") < names.index("wait for event")


def test_handles_are_closed_once(gpu):
    opened, calls, _ = gpu
    closing = ("free", "free pinned", "destroy stream", "destroy event")
    for handle in (opened.memory(8), opened.pinned(8), opened.stream(), opened.event()):
        handle.close()
        handle.close()
    assert [calls.count(name) for name in closing] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("broken", "act", "said"),
    [
        ("allocate", lambda c: c.memory(2**20), r"CUDA failed in cuMemAlloc of 1.0 MiB on the GPU \(got .*: .*"),
        ("pinned", lambda c: c.pinned(2**20), r"CUDA failed in cuMem\w+ of 1.0 MiB \(got .*pinned broke"),
        ("create stream", lambda c: c.stream(), r"CUDA failed in cuStreamCreate \(got .*create stream broke"),
        ("synchronize", lambda c: c.stream().synchronize(), r"CUDA failed in cuStreamSynchronize \(got RuntimeError"),
        ("record", lambda c: c.stream().record(c.event()), r"CUDA failed in cuEventRecord"),
        ("copy", lambda c: c.stream().upload(c.pinned(4), c.memory(4), 4), r"CUDA failed in cuMemcpy"),
    ],
)
def test_what_fails_is_told_with_the_call_and_the_text(gpu, broken, act, said):
    opened, calls, _ = gpu
    calls.broken.add(broken)
    with pytest.raises(MachineError, match=said):
        act(opened)


def test_memory_that_ran_out_says_what_to_do(installed):
    installed("cuda-core").broken.add("allocate")
    with cuda.open_cuda(0, {}) as opened, pytest.raises(MachineError, match=r"OUT_OF_MEMORY: out of.*smaller --batch"):
        opened.memory(8)


def test_a_graph_is_captured_for_this_thread_alone_and_uploaded(installed):
    calls = installed("cuda-core")
    with cuda.open_cuda(0, {}) as opened:
        assert opened.graphs
        graph = opened.stream().capture(lambda: calls.call("enqueue"))
        graph.launch()
        graph.close()
        graph.close()
    steps = ["begin capture", "enqueue", "end capture", "instantiate", "free captured", "upload graph"]
    assert [call[0] for call in calls.calls][-8:] == [*steps, "launch", "destroy graph"]
    assert ("begin capture", "CU_STREAM_CAPTURE_MODE_THREAD_LOCAL") in calls.calls


@pytest.mark.parametrize("error", [MachineError("the engine failed to run"), KeyboardInterrupt("by hand")])
def test_a_capture_that_fails_is_ended(installed, error):
    calls = installed("cuda-core")

    def enqueue():
        raise error

    with cuda.open_cuda(0, {}) as opened, pytest.raises(type(error), match=str(error)):
        opened.stream().capture(enqueue)
    assert (calls.count("end capture"), calls.count("free captured"), calls.count("instantiate")) == (1, 1, 0)


def test_an_invalidated_capture_leaves_no_graph_to_free(installed):
    """CUDA has freed it already: to free it once more ends the process."""
    calls = installed("cuda-core")
    calls.broken.add("end capture")

    def enqueue():
        raise MachineError("the engine failed to run")

    with cuda.open_cuda(0, {}) as opened:
        for work, said in (
            (lambda: None, r"capture of a CUDA graph \(got .*CAPTURE_INVALIDATED"),
            (enqueue, "the engine"),
        ):
            with pytest.raises(MachineError, match=said):
                opened.stream().capture(work)
    assert (calls.count("end capture"), calls.count("free captured")) == (2, 0)


def test_pycuda_pops_its_context_and_has_no_graphs(installed):
    calls = installed("pycuda")
    opened = cuda.open_cuda(0, {})
    assert (calls.count("init"), calls.count("retain")) == (1, 1)
    with opened, opened:
        stream = opened.stream()
    assert (calls.count("push"), calls.count("pop")) == (2, 2)
    assert ("create stream", 1) in calls.calls, "not the default stream's order"
    assert not opened.graphs
    with pytest.raises(MachineError, match="pycuda cannot capture CUDA graphs"):
        stream.capture(lambda: None)
    cuda.open_cuda(0, {})
    assert calls.count("retain") == 1, "the primary context is retained once"


@pytest.mark.parametrize(
    ("there", "wanted", "taken"),
    [
        (("cuda-core", "pycuda"), "", "cuda-core"),
        (("cuda-core", "pycuda"), "pycuda", "pycuda"),
        (("pycuda",), "", "pycuda"),
        (("cuda-core",), "cuda-core", "cuda-core"),
    ],
)
def test_the_binding_is_the_one_that_is_named_or_there(installed, there, wanted, taken):
    installed(*there)
    assert cuda.open_cuda(0, {"DEPLOY_CUDA": wanted}).binding == taken


@pytest.mark.parametrize(
    ("there", "wanted", "fix"),
    [
        ((), "", r"cuda-core: .*; pycuda: .*\. pip install 'cuda-core"),
        (("cuda-core",), "pycuda", r"pycuda: .*\. Unset DEPLOY_CUDA, or pip install pycuda"),
    ],
)
def test_a_binding_that_is_not_installed(installed, there, wanted, fix):
    installed(*there)
    with pytest.raises(MachineError, match=rf"no CUDA binding can be imported \(got {fix}"):
        cuda.open_cuda(0, {"DEPLOY_CUDA": wanted})


def test_a_binding_that_nobody_knows():
    with pytest.raises(InputError, match=r"DEPLOY_CUDA names no CUDA binding \(got cupy; expected cuda-core or pycuda"):
        cuda.open_cuda(0, {"DEPLOY_CUDA": "cupy"})


def test_stand_ins_are_no_wider_than_the_real_modules():
    pytest.importorskip("cuda.core")
    real = importlib.import_module("cuda.core")
    driver = importlib.import_module("cuda.bindings.driver")
    for kind in core_modules(Gpu())[1]:
        module = real if hasattr(real, kind.__name__) else real.graph
        named = {name for name in dir(kind) if not name.startswith("_")} - {"closing"}
        assert named <= set(dir(getattr(module, kind.__name__))), kind
    assert {name for name in vars(driver_module(Gpu())) if name.startswith("c")} <= set(dir(driver))
    assert real.EventOptions(timing_enabled=True).timing_enabled


@pytest.mark.skipif(bool(hardware.devices()), reason="this machine has a GPU")
def test_without_a_gpu():
    pytest.importorskip("cuda.core")
    with pytest.raises(MachineError, match=r"CUDA"):
        cuda.open_cuda()
