"""ONNX graphs through ONNX Runtime, on CUDA where it is there, else on the CPU."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import onnxruntime as ort

from deploy.errors import InputError, MachineError
from deploy.manifest import METADATA_KEY, Manifest
from deploy.runtime.base import Array, Runner
from deploy.runtime.onnx_binding import BoundSession
from deploy.runtime.timing import InferenceTime
from deploy.specs import TensorSpec

_CUDA = "CUDAExecutionProvider"
# How ONNX Runtime 1.32 fails on a weight that it would make unsigned for each of its readers.
_TWICE = "Attempt to replace the existing tensor"
_Provider = str | tuple[str, dict[str, str]]
# ONNX Runtime's names of tensor types → numpy's.
_DTYPES = {
    "float": "float32",
    "float16": "float16",
    "double": "float64",
    "int8": "int8",
    "uint8": "uint8",
    "int16": "int16",
    "int32": "int32",
    "int64": "int64",
    "bool": "bool",
}
# "CUDA failure 2: out of memory", "CUDNN_STATUS_ALLOC_FAILED", "Failed to allocate memory for requested buffer of …"
_DEVICE_FAILED = re.compile(r"\bCU(?:DA|DNN|BLAS)(?:\b|_)|out of memory|Failed to allocate")
# "/onnxruntime_src/onnxruntime/core/graph/model.cc:256 onnxruntime::Model::Model(onnx::ModelProto&&, ...) "
_SOURCE_PLACE = re.compile(r"/\S+:\d+ .*?\) (?=[A-Z])")


class OnnxRunner(Runner):
    """One ONNX Runtime session. Any thread may call :meth:`infer`: sessions are thread-safe.

    On CUDA, inputs and outputs are bound to the GPU's memory.

    Attributes:
        timed_by: what :meth:`infer_timed` reads, on CUDA.
    """

    backend = "onnxrt"
    timed_by: str | None = None

    def __init__(self, model: Path | bytes, *, device: str = "auto", threads: int | None = None) -> None:
        """Load a file or a serialised model.

        Args:
            model: path (external data beside it is found) or serialised ``ModelProto``.
            device: ``auto`` (CUDA where it works), ``cpu`` or ``cuda``.
            threads: CPU threads for one operator; None is all cores.

        Raises:
            InputError: not an ONNX graph, or one this ONNX Runtime cannot load.
            MachineError: CUDA asked for and not there.
        """
        self._session: ort.InferenceSession | None = _open(model, _providers(device), threads)
        # A CUDA provider that cannot load its libraries drops out without an error.
        self.device = "cuda" if _CUDA in self._session.get_providers() else "cpu"
        if device == "cuda" and self.device == "cpu":
            fix = "Install the CUDA and cuDNN that this onnxruntime-gpu wants; python -m deploy doctor tells more."
            raise MachineError("ONNX Runtime's CUDA provider does not start here", got="the CPU only", fix=fix)
        self.execution = f"executed on {self.device.upper()} (ONNX Runtime {ort.__version__})"
        self.inputs = tuple(_spec(value) for value in self._session.get_inputs())
        self.outputs = tuple(_spec(value) for value in self._session.get_outputs())
        self._bound: BoundSession | None = None
        if self.device == "cuda":
            self._bound = BoundSession(self._session, [spec.name for spec in self.outputs], self.device)
            self.timed_by = "the host's clock around ONNX Runtime's copies and run, each of which waits for its end"
        text = self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        self.manifest = None if text is None else Manifest.from_json(text, _name(model))

    def infer(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        self.check(feeds)
        session, bound = self._live(), self._bound
        with _run_errors(self.device):
            if bound is not None:
                return bound.infer(feeds)[0]
            names = [spec.name for spec in self.outputs]
            return dict(zip(names, cast("Sequence[Array]", session.run(names, dict(feeds)))))

    def infer_timed(self, feeds: Mapping[str, Array]) -> tuple[dict[str, Array], InferenceTime]:
        """See :class:`~deploy.runtime.timing.TimedInference`; on CUDA only."""
        self.check(feeds)
        self._live()
        bound = self._bound
        if bound is None:
            raise RuntimeError("only a runner on CUDA tells the time of copies")
        with _run_errors(self.device):
            return bound.infer(feeds)

    def close(self) -> None:
        self._session = self._bound = None

    def _live(self) -> ort.InferenceSession:
        if self._session is None:
            raise RuntimeError("this runner is closed")
        return self._session


@contextlib.contextmanager
def _run_errors(device: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if device == "cuda" and _DEVICE_FAILED.search(str(error)):
            fix = "Free GPU memory, or give a smaller batch."
            raise MachineError("the GPU failed under ONNX Runtime", got=_reason(error), fix=fix) from error
        raise InputError("ONNX Runtime cannot run the graph on these inputs", got=_reason(error)) from error


def _providers(device: str) -> list[_Provider]:
    there = ort.get_available_providers()
    if device == "cuda" and _CUDA not in there:
        raise MachineError(
            "ONNX Runtime has no CUDA here",
            got=", ".join(there),
            fix="pip uninstall onnxruntime && pip install onnxruntime-gpu",
        )
    if device == "cpu" or _CUDA not in there:
        return ["CPUExecutionProvider"]
    # TF32, on by default, rounds FP32 convolutions to 11 bits.
    return [(_CUDA, {"use_tf32": "0"}), "CPUExecutionProvider"]


def _open(model: Path | bytes, providers: Sequence[_Provider], threads: int | None) -> ort.InferenceSession:
    if isinstance(model, Path) and not model.is_file():
        raise InputError(f"no ONNX file at {model}", fix="Export one: python export.py --model NAME.")
    try:
        return _session(model, providers, threads)
    except Exception as error:
        if _TWICE in str(error):  # an INT8 weight with two readers
            return _session(model, providers, threads, exact=False)
        raise InputError(f"ONNX Runtime cannot load {_name(model)}", got=_reason(error)) from error


def _session(
    model: Path | bytes, providers: Sequence[_Provider], threads: int | None, *, exact: bool = True
) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4  # errors are raised; printing them too would say them twice
    if exact:
        # Signed 8-bit kernels saturate on x86 CPUs that lack VNNI; this picks the exact ones there.
        options.add_session_config_entry("session.x64quantprecision", "1")
    options.intra_op_num_threads = threads or _usable_cores()
    return ort.InferenceSession(
        str(model) if isinstance(model, Path) else model,
        options,
        providers=providers,
        # It turns biases behind FP16 scales into INT32 wrongly: with it (ONNX Runtime 1.32) an INT8 MobileNetV3 falls
        # from 35 dB to -4 dB.
        disabled_optimizers=["WeightBiasQuantization"],
        # Else a failing CUDA is replaced by the CPU with a line on stdout, and results would be taken for the GPU's.
        enable_fallback=0,
    )


def _name(model: Path | bytes) -> str:
    return str(model) if isinstance(model, Path) else "the graph"


def _reason(error: Exception) -> str:
    """The first line without the place in ONNX Runtime's source, which is longer than what it says."""
    lines = _SOURCE_PLACE.sub("", str(error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _usable_cores() -> int:
    """The cores this process may use: in a container fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _spec(value: ort.NodeArg) -> TensorSpec:
    dtype = value.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(dim if isinstance(dim, int) else str(dim or f"dim{axis}") for axis, dim in enumerate(value.shape))
    return TensorSpec(value.name, _DTYPES.get(dtype, dtype), shape)
