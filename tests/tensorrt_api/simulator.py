"""A strict stand-in for TensorRT, for machines without it.

A simulated module has exactly the names of one real version: any other raises AttributeError. Its engines compute with
ONNX Runtime, on the memory and in the streams of :mod:`tensorrt_api.cuda`.
"""

import contextlib
import enum
import json
import threading
import types
import weakref
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from tensorrt_api.cuda import STREAMS, Fault, SimulatedClock, check_no_capture, resolve

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
# NvInferRuntime.h of TensorRT-RTX; as its bindings print them.
INVALIDITY = {
    "VERSION_MISMATCH": 1,
    "UNSUPPORTED_CC": 2,
    "OLD_CUDA_DRIVER": 4,
    "OLD_CUDA_RUNTIME": 8,
    "INSUFFICIENT_GPU_MEMORY": 16,
    "MALFORMED_ENGINE": 32,
    "CUDA_ERROR": 64,
}
ACTIVATIONS = 4096  # bytes that a context computes in
_running, _changing = set(), threading.Lock()  # what runs at this moment


def simulate(api, cost=None, gpu="NVIDIA L4", refuses=(), invalid=()):
    """The flavour of ``api`` as a :class:`~deploy.engine.flavours.Flavour` with a simulated module.

    ``invalid``: what RTX says against every plan, by EngineInvalidityDiagnostics' names; or ``SUBOPTIMAL``.
    ``refuses``: nodes that it has no INT8 kernel for.
    ``cost``: the nodes of an engine's layer, whether it is INT8 → milliseconds, by :class:`SimulatedClock` too.
    """
    trt = types.ModuleType(f"{api.flavour} {api.version} (simulated)")
    trt.__version__ = api.version
    for name, members in api.enums.items():
        setattr(trt, name, bound_enum(name, members))
    if api.classes["Runtime"].get("get_engine_validity"):
        trt.EngineInvalidityDiagnostics = enum.IntFlag("EngineInvalidityDiagnostics", INVALIDITY)
    kinds = (Builder, BuilderConfig, Network, Parser, Tensor, Profile, TimingCache, Runtime, Engine, Context, Inspector)
    kinds += (RuntimeConfig, RuntimeCache, Refitter, ParserRefitter)
    for base in kinds:
        real = base.real
        if real not in api.classes:
            continue
        members = {
            "_api": api,
            "_trt": trt,
            "_cost": staticmethod(cost) if cost else None,
            "_gpu": gpu,
            "_refuses": refuses,
            "_invalid": invalid,
        }
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
    """Node → its time, under the version and the GPU that they are of."""

    real = "ITimingCache"

    def __init__(self, header, times):
        self._header, self._times = header, times

    def serialize(self):
        return json.dumps([self._header, self._times]).encode()

    def combine(self, other, ignore_mismatch):
        if self._header != other._header and not (ignore_mismatch and self._header[0] == other._header[0]):
            return False
        self._times = {**other._times, **self._times}
        return True


class BuilderConfig(Strict):
    real = "IBuilderConfig"
    builder_optimization_level, max_aux_streams = 3, -1
    profiling_verbosity = hardware_compatibility_level = None

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

    def set_flag(self, flag):
        self._flags.add(flag.name)

    def clear_flag(self, flag):
        self._flags.discard(flag.name)

    def create_timing_cache(self, content):
        try:
            header, times = json.loads(content) if content else (self._header, {})
        except ValueError:
            return None
        return self._trt.ITimingCache(list(header), times)

    def set_timing_cache(self, cache, ignore_mismatch):
        if fits := ignore_mismatch or cache._header == self._header:
            self._cache = cache
        return fits

    def get_timing_cache(self):
        return self._cache

    @property
    def _header(self):
        return [self._api.version, self._gpu]

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
        profiles = [profile._shapes for profile in config._profiles] or [{}]
        if not network._strong:
            return self._log("ERROR", "the network is not strongly typed")
        if any(-1 in tensor._shape and tensor._name not in profiles[0] for tensor in network._inputs):
            return self._log(
                "ERROR", "Network has dynamic or shape inputs, but no optimization profile has been defined."
            )
        if (refused := self._refused(onnx.load_from_string(network._model).graph)) is not None:
            return self._log("ERROR", f"Error Code 10: Internal Error ({refused})")
        if not self._phases(config.progress_monitor):
            return self._log("ERROR", "BuildCanceled")
        self._log("WARNING", "simulated")
        if config._cache is not None:
            config._cache._times.update({node.name: 1 for node in onnx.load_from_string(network._model).graph.node})
        detailed = config.profiling_verbosity is self._trt.ProfilingVerbosity.DETAILED
        host_code = "VERSION_COMPATIBLE" in config._flags
        if host_code and self._api.flavour == "tensorrt_rtx":
            return self._log("ERROR", "API Usage Error (Unable to load library: libnvinfer_lean.so.1)")
        model, lacks = strip(network._model) if "STRIP_PLAN" in config._flags else (network._model, [])
        facts = {"profiles": profiles, "detailed": detailed, "host_code": host_code, "lacks": lacks}
        return plan_header(self._api, body := json.dumps(facts).encode() + b"\n" + model) + body

    def _refused(self, graph):
        """The first INT8 layer that there is no kernel for, named as a fused layer, or (11) as a compiler's region."""
        dequantizing = {node.name for node in graph.node if node.op_type == "DequantizeLinear"}
        for nodes in fused(graph).values():
            if not dequantizing.isdisjoint(nodes) and not set(self._refuses).isdisjoint(nodes):
                named = f"{{ForeignNode[{nodes[0]}...{nodes[-1]}]}}. In computeCosts at optimizer.cpp:4115"
                named = " + ".join(nodes) + "." if self._api.version.startswith("10.") else named
                return f"Could not find any implementation for node {named}"
        return None

    def _phases(self, monitor):
        assert monitor._made
        monitor.phase_start("Building engine", None, 3)
        done = all(monitor.step_complete("Building engine", step) for step in range(3))
        monitor.phase_finish("Building engine")
        return done


def strip(model):
    """A model without the values of its floating-point weights, and their names."""
    stripped = onnx.load_from_string(model)
    weights = [tensor for tensor in stripped.graph.initializer if tensor.data_type in (1, 10) and tensor.dims]
    for tensor in weights:
        kept = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        tensor.CopyFrom(kept)
    return stripped.SerializeToString(), [tensor.name for tensor in weights]


def plan_header(api, body):
    """A plan's first 28 bytes, laid out as NVIDIA's are."""
    version = bytes([*map(int, api.version.split(".")), 0][:4])
    length = (28 + len(body)).to_bytes(8, "little")
    return capabilities(api.flavour).plan_magic + bytes(12) + length + version


def plan_of(api, model, profiles):
    """A plan of several optimization profiles, each MIN, OPT and MAX of the first axis of every input."""
    inputs = onnx.load_from_string(model).graph.input
    rests = {tensor.name: [dim.dim_value for dim in tensor.type.tensor_type.shape.dim[1:]] for tensor in inputs}
    shapes = [{name: [[rows, *rest] for rows in profile] for name, rest in rests.items()} for profile in profiles]
    body = json.dumps({"profiles": shapes, "detailed": True}).encode() + b"\n" + model
    return plan_header(api, body) + body


class Runtime(Strict):
    real = "Runtime"
    engine_host_code_allowed = False

    def __init__(self, logger):
        self._logger = logger

    engine_header_size = property(lambda self: 64)

    def get_engine_validity(self, head):
        """By the header alone: that is all that is given."""
        assert len(head) <= self.engine_header_size
        validity, bits = self._trt.EngineValidity, INVALIDITY
        if not head.startswith(capabilities(self._api.flavour).plan_magic):
            return validity.INVALID, bits["MALFORMED_ENGINE"]
        if self._invalid == ("SUBOPTIMAL",):
            return validity.SUBOPTIMAL, 0
        mismatch = ("VERSION_MISMATCH",) if head[24:28] != plan_header(self._api, b"")[24:28] else ()
        found = (*self._invalid, *mismatch)
        return (validity.INVALID if found else validity.VALID), sum(bits[name] for name in found)

    def deserialize_cuda_engine(self, plan):
        header = plan_header(self._api, plan[28:])
        if plan[:24] != header[:24]:
            return self._log("ERROR", "Serialization assertion plan.header.size == blobSize failed.")
        head, _, model = plan[28:].partition(b"\n")
        facts = json.loads(head)
        if facts.pop("host_code", False):
            if not self.engine_host_code_allowed:
                return self._log("ERROR", "The engine contains host code, which the runtime was not allowed to run.")
            if plan[24:28] > header[24:28]:
                return self._log("ERROR", "The engine was built with a newer version of TensorRT.")
        elif plan[24:28] != header[24:28]:
            return self._log("ERROR", "The engine plan file is not compatible with this version of TensorRT.")
        return self._trt.ICudaEngine(model, **facts, logger=self._logger)


class Engine(Strict):
    real = "ICudaEngine"

    def __init__(self, model, profiles, detailed, logger, lacks=()):
        self._logger, self._profiles, self._detailed = logger, profiles, detailed
        self._lacks = set(lacks)  # weights that it was stripped of and has not been given
        self._model = onnx.load_from_string(model)
        graph = self._model.graph
        self._layers = fused(graph)
        self._dequantizing = {node.name for node in graph.node if node.op_type == "DequantizeLinear"}
        self._inputs = [value.name for value in graph.input]
        self._values = {value.name: value for value in (*graph.input, *graph.output)}
        if not lacks:
            self._open()

    def _open(self):
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        model = self._model.SerializeToString()
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    refittable = property(lambda self: bool(self._lacks))

    num_io_tensors = property(lambda self: len(self._values))
    num_optimization_profiles = property(lambda self: len(self._profiles))
    device_memory_size_v2 = property(lambda self: ACTIVATIONS)

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
        return self._profiles[profile_index][name]

    def create_runtime_config(self):
        return self._trt.IRuntimeConfig()

    def create_execution_context(self, how=None):
        """``how``: the allocation strategy, or a runtime configuration, which RTX alone takes."""
        check_no_capture()
        if self._lacks:
            raise Fault("a context is made of an engine that lacks its weights")
        config = how if isinstance(how, RuntimeConfig) else None
        assert config is None or self._api.flavour == "tensorrt_rtx"
        strategy = config.get_execution_context_allocation_strategy() if config else how
        return self._trt.IExecutionContext(self, getattr(strategy, "name", "STATIC"), config)

    def create_engine_inspector(self):
        return self._trt.EngineInspector(self)


class Refitter(Strict):
    real = "Refitter"

    def __init__(self, engine, logger):
        assert logger._made
        self._engine, self._given = engine, {}

    def get_missing_weights(self):
        return sorted(self._engine._lacks - self._given.keys())

    def refit_cuda_engine(self):
        if self.get_missing_weights():
            return False
        for tensor in self._engine._model.graph.initializer:
            tensor.CopyFrom(self._given.get(tensor.name, tensor))
        self._engine._lacks = set()
        self._engine._open()
        return True


class ParserRefitter(Strict):
    """Gives a refitter the weights of an ONNX graph, by name; of another size or type it refuses them."""

    real = "OnnxParserRefitter"

    def __init__(self, refitter, logger):
        assert logger._made
        self._refitter, self._errors = refitter, []

    num_errors = property(lambda self: len(self._errors))

    def get_error(self, index):
        return self._errors[index]

    def refit_from_bytes(self, model, path=None):
        graph, engine = onnx.load_from_string(model).graph, self._refitter._engine
        own = {tensor.name: (tensor.data_type, list(tensor.dims)) for tensor in engine._model.graph.initializer}
        for tensor in graph.initializer:
            if tensor.name in engine._lacks:
                if own[tensor.name] != (tensor.data_type, list(tensor.dims)):
                    self._errors.append(Error(f"Failed to refit {tensor.name}: its size or type differs"))
                else:
                    self._refitter._given[tensor.name] = tensor
        return not self._errors


class Inspector(Strict):
    """Describes tensors as 10 does ("Bindings", "Format/Datatype") or as 11 does ("I/O Tensors", "DataType")."""

    real = "EngineInspector"
    execution_context = None

    def __init__(self, engine):
        self._engine = engine
        self._older = self._api.version.startswith("10.")
        graph = onnx.shape_inference.infer_shapes(engine._model).graph
        values = (*graph.input, *graph.value_info, *graph.output)
        self._types = {value.name: ONNX[value.type.tensor_type.elem_type] for value in values}
        self._nodes = {node.name: node for node in graph.node}

    def get_engine_information(self, kind):
        assert kind is self._trt.LayerInformationFormat.JSON
        layers = [self._layer(name, nodes) for name, nodes in self._engine._layers.items()]
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        tensors = {"Bindings": names} if self._older else {"I/O Tensors": [{"Name": name} for name in names]}
        return json.dumps({"Layers": layers, **tensors})

    def _layer(self, name, nodes):
        if not self._engine._detailed:
            return name
        read = [tensor for node in nodes for tensor in self._nodes[node].input if tensor in self._types]
        made = [tensor for node in nodes for tensor in self._nodes[node].output]
        return {
            "Name": name,
            "LayerType": "Convolution" if any(self._nodes[node].op_type == "Conv" for node in nodes) else "simulated",
            "Inputs": [self._tensor(tensor) for tensor in read if tensor not in made],
            "Outputs": [self._tensor(tensor) for tensor in made if tensor not in read],
            "Metadata": "\x1f".join(f"[ONNX Layer: {node}]" for node in nodes),
        }

    def _tensor(self, name):
        kind = {"FLOAT": "FP32", "HALF": "FP16", "INT8": "Int8"}.get(self._types[name], self._types[name])
        form = f"Row major {kind} format"
        return {
            "Name": name,
            **({"Format/Datatype": form} if self._older else {"DataType": kind, "Format": "Row major"}),
        }


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


class RuntimeConfig(Strict):
    real = "IRuntimeConfig"

    def __init__(self):
        self._strategy, self._cache = self._trt.ExecutionContextAllocationStrategy.STATIC, None
        if self._api.flavour == "tensorrt_rtx":
            self.cuda_graph_strategy = self._trt.CudaGraphStrategy.DISABLED
            self.dynamic_shapes_kernel_specialization_strategy = (
                self._trt.DynamicShapesKernelSpecializationStrategy.LAZY
            )

    def get_execution_context_allocation_strategy(self):
        return self._strategy

    def create_runtime_cache(self):
        return self._trt.IRuntimeCache()

    def set_runtime_cache(self, cache):
        self._cache = cache
        return True


class RuntimeCache(Strict):
    """The shapes that were run, under the version that compiled them."""

    real = "IRuntimeCache"

    def __init__(self):
        self._kernels = []

    def serialize(self):
        return json.dumps([self._api.version, sorted(self._kernels)]).encode()

    def deserialize(self, content):
        try:
            version, kernels = json.loads(bytes(content))
        except ValueError:
            return False
        if fits := version == self._api.version:
            self._kernels = kernels
        return fits


class Context(Strict):
    """``_state`` grows with every change. A graph is of the state in which it was captured, and of no other."""

    real = "IExecutionContext"
    profiler = None

    def __init__(self, engine, allocation, config):
        self._engine, self._logger, self._config = engine, engine._logger, config
        self._addresses, self._shapes, self._profile = {}, {}, 0
        self._memory = None if allocation == "USER_MANAGED" else 0
        self._state, self._ready = 0, None

    engine = property(lambda self: self._engine)
    active_optimization_profile = property(lambda self: self._profile)

    def set_device_memory(self, memory, size):
        if memory % 256 or size < self._engine.device_memory_size_v2:
            return self._log("ERROR", "device memory is misaligned or too small")
        return self._change("_memory", memory)

    def set_optimization_profile_async(self, index, handle):
        if not 0 <= index < len(self._engine._profiles):
            return self._refuse(f"profile {index} of {len(self._engine._profiles)}")
        self._shapes = {}
        STREAMS[handle].put(lambda: None)
        return self._change("_profile", index)

    def set_tensor_address(self, name, address):
        if name not in self._engine._values or address % 256:
            return self._refuse(f"address {address:#x} for tensor {name}")
        return self._change("_addresses", {**self._addresses, name: address})

    def set_input_shape(self, name, shape):
        profile = self._engine._profiles[self._profile]
        smallest, _, largest = profile.get(name, [self._engine.get_tensor_shape(name)] * 3)
        if not all(low <= dim <= high for low, dim, high in zip(smallest, shape, largest, strict=True)):
            return self._refuse(f"Static dimension mismatch while setting input shape of {name}")
        return self._change("_shapes", {**self._shapes, name: tuple(shape)})

    def execute_async_v3(self, handle):
        stream = STREAMS.get(handle)
        if stream is None:
            raise Fault(f"no stream {handle:#x}")
        shapes = {name: self._engine.get_tensor_shape(name) for name in self._engine._inputs} | self._shapes
        if self._memory is None or set(self._addresses) != set(self._engine._values) or -1 in sum(shapes.values(), ()):
            return self._refuse("device memory, an address or a shape has not been set")
        captured = None
        if stream.captured is None:
            self._ready = self._state
        elif self._ready != self._state or self._own_graphs():
            return self._refuse("operation not permitted when stream is capturing")
        else:
            captured = self._state
        addresses = dict(self._addresses)
        run = self._execute if captured is None else self._replay(weakref.ref(self))
        stream.put(lambda: run(shapes, addresses, captured))
        return True

    @staticmethod
    def _replay(reference):
        """A graph does not keep the context alive that it was captured from."""

        def run(*arguments):
            if (context := reference()) is None:
                raise Fault("a stale graph: its context is gone")
            context._execute(*arguments)

        return run

    def _own_graphs(self):
        return self._config is not None and self._config.cuda_graph_strategy.name == "WHOLE_GRAPH_CAPTURE"

    def _change(self, name, value):
        self._state += getattr(self, name) != value
        setattr(self, name, value)
        return True

    def _refuse(self, text):
        self._log("ERROR", text)
        return False

    def _execute(self, shapes, addresses, captured):
        if captured not in (None, self._state):
            raise Fault("a stale graph: its context was changed after the capture")
        with alone(self, self._memory):
            if self._memory:
                resolve(self._memory, ACTIVATIONS)[...] = 0xEE
            self._compute(shapes, addresses)

    def _compute(self, shapes, addresses):
        if self._config is not None and self._config._cache is not None:
            cache = self._config._cache
            cache._kernels += [shape for shape in map(list, shapes.values()) if shape not in cache._kernels]
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
        return resolve(address, int(np.prod(shape)) * dtype.itemsize).view(dtype).reshape(shape)


@contextlib.contextmanager
def alone(*users):
    """Contexts, and what they compute in, are for one run at a time."""
    keys = {user if isinstance(user, int) else id(user) for user in users if user}
    with _changing:
        if keys & _running:
            raise Fault("a context, or the memory that it computes in, is used by two runs at once")
        _running.update(keys)
    try:
        yield
    finally:
        with _changing:
            _running.difference_update(keys)
