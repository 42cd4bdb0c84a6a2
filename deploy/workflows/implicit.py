"""Ranges exchanged with TensorRT's implicit quantization, through its calibration cache."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from importlib import metadata
from pathlib import Path

import onnx_ir as ir

from deploy.errors import InputError
from deploy.graph import files
from deploy.graph.fp16 import audited_tensors
from deploy.graph.irtools import is_float, typed
from deploy.quantize import trt_cache
from deploy.quantize.trt_cache import VERSION
from deploy.workflows.source import Source

_NAMED = 3


def implicit_tensors(graph: ir.Model) -> list[str]:
    """The tensors of an FP32 graph that implicit quantization wants a range of: every FP32 one, fed or computed.

    Not constants: TensorRT quantizes weights itself, and has names of its own for the rest of them.
    """
    return [str(value.name) for value in typed(graph).graph.inputs if is_float(value)] + audited_tensors(graph)


def check_tensors(source: Source) -> None:
    """A cache speaks of the tensors of a file by name: what is quantized must hold the same ones.

    A convolution's output, once a batch norm was folded into it, holds other numbers under its old name.

    Raises:
        InputError: the graph was simplified, or its opset raised from below 19.
    """
    if source.as_filed:
        return
    try:
        filed = audited_tensors(files.load(source.path))
    except InputError:  # an opset that was raised, or functions
        filed = []
    if set(filed) != set(audited_tensors(source.graph)):
        raise InputError(
            f"a calibration cache is of the tensors of a file, and {source.path} is changed before it is quantized",
            expected="a simplified graph of opset 19 or newer",
            fix=f"Simplify it first: onnxsim {source.path} simple.onnx --target-opset 19. Then build from that.",
        )


def read_ranges(path: Path, tensors: Collection[str]) -> tuple[dict[str, float], str]:
    """The ranges in a calibration cache, and what made them (its first line).

    Raises:
        InputError: as :func:`deploy.quantize.trt_cache.parse`, or one of ``tensors`` is missing.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}", got=(error.strerror or str(error)).lower()) from error
    amax = trt_cache.parse(data, str(path))
    if missing := [tensor for tensor in tensors if tensor not in amax]:
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        raise InputError(
            f"the calibration cache {path} lacks tensors of this graph",
            got=f"no scale of {', '.join(missing[:_NAMED])}{more}",
            expected=f"one of each of the {len(tensors)} tensors to quantize",
            fix="Give the cache of this very graph, or the name of a new file and --calibration-data.",
            details=missing[_NAMED:],
        )
    return amax, trt_cache.algorithm(data)


def written_ranges(graph: ir.Model, amax: Mapping[str, float], note: Callable[[str], None]) -> bytes:
    """The calibration cache that holds the ranges of the FP32 ``graph``, in the order of its tensors."""
    version = _target_version()
    note(f"the calibration cache is for TensorRT {version}: for another, change its first line")
    return trt_cache.dump({tensor: amax[tensor] for tensor in implicit_tensors(graph)}, version)


def _target_version() -> str:
    """The TensorRT a cache is written for: the one installed here, if it has calibrators, or JetPack 6's."""
    try:
        installed = metadata.version("tensorrt")
    except metadata.PackageNotFoundError:
        return VERSION
    return installed if int(installed.split(".")[0]) < 11 else VERSION
