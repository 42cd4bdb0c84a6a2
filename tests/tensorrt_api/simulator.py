"""A strict stand-in for TensorRT and CUDA, for machines that have neither.

A simulated module has exactly the names of one real version: any other raises AttributeError. Its engines compute with
ONNX Runtime in host memory. A stream does nothing until it is synchronised, device memory is not host memory and both
start full of rubbish, so that a missing copy, a missing wait or a use after freeing shows in the numbers or raises.
"""

import ctypes
import enum
import json
import threading
import time
import types
from collections import deque
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from deploy.engine.flavours import Flavour, capabilities

NUMPY = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}
ONNX = {1: "FLOAT", 10: "HALF", 3: "INT8", 6: "INT32", 7: "INT64", 9: "BOOL", 16: "BF16"}
MEMORY = {}  # address → device memory that has been allocated and not freed
STREAMS = {}  # handle → stream


def simulate(api, cost=None):
    """The flavour of ``api`` as a :class:`~deploy.engine.flavours.Flavour` with a simulated module.

    ``cost``: the nodes of an engine's layer, whether it is INT8 → milliseconds, by :class:`SimulatedClock` too.
    """
    trt = types.ModuleType(f"{api.flavour} {api.version} (simulated)")
    trt.__version__ = api.version
    for name, members in api.enums.items():
        setattr(trt, name, bound_enum(name, members))
    kinds = (Builder, BuilderConfig, Network, Parser, Tensor, Profile, TimingCache, Runtime, Engine, Context, Inspector)
    for base in kinds:
        real = base.real
        members = {"_api": api, "_trt": trt, "_cost": staticmethod(cost) if cost else None}
        setattr(trt, real, type(real, (base,), {**members, "_members": api.classes[real]}))
    trt.ILogger = type("ILogger", (Logger,), {"Severity": severities(api)})
    trt.IProgressMonitor = type("IProgressMonitor", (Overridable,), {})
    trt.IProfiler = type("IProfiler", (Overridable,), {})
    trt.nptype = nptype
    return Flavour(api.flavour, trt, api.version, capabilities(api.flavour))


def bound_enum(name, members):
    """Like pybind11's enumerations: named members that convert to int and are none."""
    kind = enum.Enum(name, {member: index for index, member in enumerate(members)})
    kind.__int__ = lambda self: self.value
    return kind


def severities(api):
    return bound_enum("Severity", api.classes["ILogger"]["Severity"].removeprefix("enum:").split(","))


def nptype(kind):
    if kind.name not in NUMPY:
        raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.")
    return NUMPY[kind.name]


class Overridable:
    """A class meant to be derived from: the derived __init__ has to call this one, as pybind11 demands."""

    def __init__(self):
        self._made = True


class Logger(Overridable):
    pass


class Strict:
    """Has the public names of its real class and no others, called as that is; read-only properties cannot be set."""

    def __getattribute__(self, name):
        if not name.startswith("_") and name not in type(self)._members:
            raise AttributeError(f"{type(self).__name__} of {type(self)._api} has no {name}")
        value = super().__getattribute__(name)
        return value if name.startswith("_") or not callable(value) else type(self)._checked(name, value)

    @classmethod
    def _checked(cls, name, method):
        def call(*args, **kwargs):
            if cls._api.is_method(cls.real, name) and not cls._api.takes(cls.real, name, len(args), tuple(kwargs)):
                raise TypeError(f"{name}(): incompatible function arguments in {cls._api}")  # pybind11's words
            return method(*args, **kwargs)

        return call

    def __setattr__(self, name, value):
        if not name.startswith("_") and type(self)._members.get(name) != "rw":
            raise AttributeError(f"{type(self).__name__}.{name} of {type(self)._api} cannot be set")
        super().__setattr__(name, value)

    def _log(self, severity, text):
        self._logger.log(getattr(self._trt.ILogger.Severity, severity), text)


class Tensor(Strict):
    real = "ITensor"

    def __init__(self, value):
        dims = value.type.tensor_type.shape.dim
        self._name, self._shape = value.name, tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in dims)

    name = property(lambda self: self._name)
    shape = property(lambda self: self._shape)


class Network(Strict):
    real = "INetworkDefinition"

    def __init__(self, flags):
        self._strong = bool(flags & 1 << int(self._trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        self._model, self._inputs = None, []

    num_inputs = property(lambda self: len(self._inputs))

    def get_input(self, index):
        return self._inputs[index]


class Error:
    """A parser's error about one node, or about the file when there is none."""

    def __init__(self, text, index=-1, node=None):
        self.desc, self.node = lambda: text, lambda: index
        self.node_name = lambda: node.name if node else ""
        self.node_operator = lambda: node.op_type if node else ""


class Parser(Strict):
    real = "OnnxParser"

    def __init__(self, network, logger):
        assert logger._made
        self._network, self._errors = network, []

    num_errors = property(lambda self: len(self._errors))

    def get_error(self, index):
        return self._errors[index]

    def parse(self, model, path=None):
        try:
            parsed = onnx.load_from_string(model)
            if path is not None:
                onnx.external_data_helper.load_external_data_for_model(parsed, str(Path(path).parent))
                model = parsed.SerializeToString()
        except Exception:  # noqa: BLE001 - protobuf's own classes differ between its implementations
            self._errors = [Error("Failed to parse the ONNX model.")]
            return False
        unknown = [(index, node) for index, node in enumerate(parsed.graph.node) if node.domain]
        self._errors = [Error('creator && "Plugin not found"', *each) for each in unknown]
        self._network._model = model
        self._network._inputs = [self._trt.ITensor(value) for value in parsed.graph.input]
        return not self._errors


class Profile(Strict):
    real = "IOptimizationProfile"

    def __init__(self):
        self._shapes = {}

    def set_shape(self, name, smallest, usual, largest):
        self._shapes[name] = [tuple(smallest), tuple(usual), tuple(largest)]


class TimingCache(Strict):
    real = "ITimingCache"

    def __init__(self, content):
        self._content = content

    def serialize(self):
        return self._content


class BuilderConfig(Strict):
    real = "IBuilderConfig"
    builder_optimization_level = 3
    profiling_verbosity = None

    def __init__(self):
        self._profiles, self._pools, self._cache = [], {}, None
        self._flags = {"TF32"}  # on by default in every version

    def add_optimization_profile(self, profile):
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def set_memory_pool_limit(self, pool, size):
        self._pools[pool] = size

    def get_flag(self, flag):
        return flag.name in self._flags

    def clear_flag(self, flag):
        self._flags.discard(flag.name)

    def create_timing_cache(self, content):
        damaged = content != b"" and not content.endswith(b"measured")
        return None if damaged else self._trt.ITimingCache(content or self._api.version.encode())

    def set_timing_cache(self, cache, ignore_mismatch):
        fits = cache._content.startswith(self._api.version.encode())
        self._cache = cache if fits or ignore_mismatch else None
        return self._cache is not None

    def get_timing_cache(self):
        self._cache._content += b" measured"
        return self._cache

    def set_compute_capability(self, value, index):
        self._target = value
        return index < self.num_compute_capabilities


class Builder(Strict):
    real = "Builder"

    def __init__(self, logger):
        assert logger._made
        self._logger = logger

    def create_network(self, flags):
        return self._trt.INetworkDefinition(flags)

    def create_builder_config(self):
        return self._trt.IBuilderConfig()

    def create_optimization_profile(self):
        return self._trt.IOptimizationProfile()

    def build_serialized_network(self, network, config):
        shapes = config._profiles[0]._shapes if config._profiles else {}
        if not network._strong:
            return self._log("ERROR", "the network is not strongly typed")
        if any(-1 in tensor._shape and tensor._name not in shapes for tensor in network._inputs):
            return self._log(
                "ERROR", "Network has dynamic or shape inputs, but no optimization profile has been defined."
            )
        if not self._phases(config.progress_monitor):
            return self._log("ERROR", "BuildCanceled")
        self._log("WARNING", "simulated")
        detailed = config.profiling_verbosity is self._trt.ProfilingVerbosity.DETAILED
        head = json.dumps({"shapes": shapes, "detailed": detailed}).encode()
        return plan_header(self._api, body := head + b"\n" + network._model) + body

    def _phases(self, monitor):
        assert monitor._made
        monitor.phase_start("Building engine", None, 3)
        done = all(monitor.step_complete("Building engine", step) for step in range(3))
        monitor.phase_finish("Building engine")
        return done


def plan_header(api, body):
    """A plan's first 28 bytes, laid out as NVIDIA's are."""
    version = bytes([*map(int, api.version.split(".")), 0][:4])
    length = (28 + len(body)).to_bytes(8, "little")
    return capabilities(api.flavour).plan_magic + bytes(12) + length + version


class Runtime(Strict):
    real = "Runtime"

    def __init__(self, logger):
        self._logger = logger

    def deserialize_cuda_engine(self, plan):
        if plan[:28] != plan_header(self._api, plan[28:]):
            return self._log("ERROR", "Serialization assertion plan.header.size == blobSize failed.")
        head, _, model = plan[28:].partition(b"\n")
        return self._trt.ICudaEngine(model, **json.loads(head), logger=self._logger)


class Engine(Strict):
    real = "ICudaEngine"

    def __init__(self, model, shapes, detailed, logger):
        self._logger, self._profile, self._detailed = logger, shapes, detailed
        graph = onnx.load_from_string(model).graph
        self._layers = fused(graph)
        self._dequantizing = {node.name for node in graph.node if node.op_type == "DequantizeLinear"}
        self._inputs = [value.name for value in graph.input]
        self._values = {value.name: value for value in (*graph.input, *graph.output)}
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    num_io_tensors = property(lambda self: len(self._values))

    def get_tensor_name(self, index):
        return list(self._values)[index]

    def get_tensor_mode(self, name):
        return self._trt.TensorIOMode.INPUT if name in self._inputs else self._trt.TensorIOMode.OUTPUT

    def get_tensor_shape(self, name):
        return self._trt.ITensor(self._values[name])._shape

    def get_tensor_dtype(self, name):
        return getattr(self._trt.DataType, ONNX[self._values[name].type.tensor_type.elem_type])

    def get_tensor_location(self, name):
        return self._trt.TensorLocation.DEVICE

    def get_tensor_format(self, name):
        return self._trt.TensorFormat.LINEAR

    def get_tensor_profile_shape(self, name, profile_index):
        assert profile_index == 0
        return self._profile[name]

    def create_execution_context(self):
        return self._trt.IExecutionContext(self)

    def create_engine_inspector(self):
        return self._trt.EngineInspector(self)


class Inspector(Strict):
    real = "EngineInspector"

    def __init__(self, engine):
        self._engine = engine

    def get_engine_information(self, kind):
        assert kind is self._trt.LayerInformationFormat.JSON
        layers = [self._layer(name, nodes) for name, nodes in self._engine._layers.items()]
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        older = self._api.version.startswith("10.")
        tensors = {"Bindings": names} if older else {"I/O Tensors": [{"Name": name} for name in names]}
        return json.dumps({"Layers": layers, **tensors})

    def _layer(self, name, nodes):
        metadata = "\x1f".join(f"[ONNX Layer: {node}]" for node in nodes)
        return {"Name": name, "LayerType": "simulated", "Metadata": metadata} if self._engine._detailed else name


def fused(graph):
    """Layer → nodes, as a builder fuses them: DQ into its reader, Relu and Q into what they read if nothing else does.

    What only concerns weights is done at build time and takes no layer.
    """
    held = {tensor.name for tensor in graph.initializer}
    readers = [name for node in graph.node for name in node.input]
    layers, waiting = {}, {}  # result → its layer's nodes; result of a DQ → its name
    for node in graph.node:
        source = node.input[0] if node.input else ""
        if source in held:
            held.update(node.output)
        elif node.op_type == "DequantizeLinear":
            waiting[node.output[0]] = node.name
        elif node.op_type in ("Relu", "QuantizeLinear") and source in layers and readers.count(source) == 1:
            layers[node.output[0]] = [*layers.pop(source), node.name]
        else:
            layers[node.output[0]] = [*(waiting[name] for name in node.input if name in waiting), node.name]
    return {" + ".join(nodes): nodes for nodes in layers.values()}


class Context(Strict):
    real = "IExecutionContext"
    profiler = None

    def __init__(self, engine):
        self._engine, self._logger = engine, engine._logger
        self._addresses, self._shapes = {}, {}

    def set_tensor_address(self, name, address):
        self._addresses[name] = address
        return address in MEMORY

    def set_input_shape(self, name, shape):
        smallest, _, largest = self._engine._profile.get(name, [self._engine.get_tensor_shape(name)] * 3)
        fits = all(low <= dim <= high for low, dim, high in zip(smallest, shape, largest, strict=True))
        if fits:
            self._shapes[name] = tuple(shape)
        else:
            self._log("ERROR", f"Static dimension mismatch while setting input shape of {name}")
        return fits

    def execute_async_v3(self, handle):
        shapes, addresses = dict(self._shapes), dict(self._addresses)
        STREAMS[handle].queue.append(lambda: self._execute(shapes, addresses))
        return True

    def _execute(self, shapes, addresses):
        feeds = {name: self._view(name, shape, addresses[name]) for name, shape in shapes.items()}
        outputs = [name for name in self._engine._values if name not in shapes]
        for name, value in zip(outputs, self._engine._session.run(outputs, feeds), strict=True):
            self._view(name, value.shape, addresses[name])[...] = value

        for name, nodes in self._engine._layers.items():
            taken = self._cost(nodes, not self._engine._dequantizing.isdisjoint(nodes)) if self._cost else 0.01
            SimulatedClock.now += taken / 1000
            if self.profiler is not None:
                assert self.profiler._made
                self.profiler.report_layer_time(name, taken)

    def _view(self, name, shape, address):
        dtype = np.dtype(nptype(self._engine.get_tensor_dtype(name)))
        return MEMORY[address][: int(np.prod(shape)) * dtype.itemsize].view(dtype).reshape(shape)


class SimulatedClock:
    """In place of the module ``time``: only what engines take passes on it."""

    now = 0.0

    @classmethod
    def perf_counter(cls):
        return cls.now


class SimulatedBuffer:
    def __init__(self, stream, nbytes):
        self._stream, self.host, self._device = stream, np.full(nbytes, 0x55, np.uint8), np.full(nbytes, 0xAA, np.uint8)
        self.address = self._device.ctypes.data_as(ctypes.c_void_p).value
        MEMORY[self.address] = self._device

    def upload(self, nbytes):
        self._stream.put(lambda: np.copyto(MEMORY[self.address][:nbytes], self.host[:nbytes]))

    def download(self, nbytes):
        self._stream.put(lambda: np.copyto(self.host[:nbytes], MEMORY[self.address][:nbytes]))

    def close(self):
        assert not self._stream.queue, "memory freed while copies are under way"
        del MEMORY[self.address]
        self.host[...] = 0x55


class SimulatedStream:
    device = "a simulated GPU"

    def __init__(self):
        self.handle, self.queue, self.closed, self.threads = id(self), deque(), False, {threading.get_ident()}
        STREAMS[self.handle] = self

    def activate(self):
        self.threads.add(threading.get_ident())

    def buffer(self, nbytes):
        return SimulatedBuffer(self, nbytes)

    def put(self, work):
        assert threading.get_ident() in self.threads, "the GPU is not current in this thread"
        self.queue.append(work)

    def synchronize(self):
        while self.queue:
            time.sleep(1e-4)  # lets other threads interfere, as a real wait does
            self.queue.popleft()()

    def close(self):
        assert not self.closed, "the stream was closed twice"
        self.closed = True
        del STREAMS[self.handle]
