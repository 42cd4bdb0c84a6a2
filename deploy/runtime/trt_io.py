"""An engine's inputs and outputs in the project's words, and how a request is cut to the batches it takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from deploy.engine.api import ICudaEngine, TensorRt
from deploy.errors import InputError
from deploy.runtime.base import Array
from deploy.specs import BATCH, ShapeProfile, TensorSpec

_DYNAMIC = -1


@dataclass(frozen=True)
class EngineIo:
    """The tensors of an engine. ``batch`` is what their axes named ``batch`` take; 1:1:1 where every shape is fixed."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch: ShapeProfile

    def rows(self, feeds: Mapping[str, Array]) -> int:
        """The batch size of a request, 1 where every shape is fixed.

        Raises:
            InputError: the inputs differ in it, or it is 0, or an output needs the whole batch at once.
        """
        sizes = {spec.name: feeds[spec.name].shape[0] for spec in self.inputs if is_batched(spec)}
        if len(set(sizes.values())) > 1:
            raise InputError("the inputs have different batch sizes", got=sizes)
        rows = next(iter(sizes.values()), 1)
        if rows == 0:
            raise InputError("the batch is empty", expected="at least one row")
        alone = [spec for spec in self.outputs if sizes and not is_batched(spec)]
        if alone and not self.batch.min <= rows <= self.batch.max:
            # Cut or filled up, the request would not be what such an output is made of.
            expected = f"{self.batch.min} to {self.batch.max} rows at once"
            raise InputError(f"output '{alone[0].name}' does not follow the batch", got=rows, expected=expected)
        return rows

    def pieces(self, rows: int) -> Iterator[slice]:
        """Consecutive rows of a request, no more at once than the engine takes."""
        for start in range(0, rows, self.batch.max):
            yield slice(start, min(start + self.batch.max, rows))


def is_batched(spec: TensorSpec) -> bool:
    """Whether the first axis is the dynamic batch."""
    return spec.shape[:1] == (BATCH,)


def with_batch(spec: TensorSpec, rows: int) -> tuple[int, ...]:
    """The shape at one batch size."""
    return tuple(rows if isinstance(dim, str) else dim for dim in spec.shape)


def nbytes(spec: TensorSpec, rows: int) -> int:
    """Bytes of one tensor at one batch size."""
    return int(np.prod(with_batch(spec, rows), dtype=np.int64)) * np.dtype(spec.dtype).itemsize


def read_io(trt: TensorRt, engine: ICudaEngine) -> EngineIo:
    """What an engine takes and gives, by its first optimization profile.

    Raises:
        InputError: it has a dynamic axis other than the batch, or a tensor that numpy arrays cannot stand for.
    """
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    taken = {name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT}
    inputs = tuple(_spec(trt, engine, name) for name in names if name in taken)
    outputs = tuple(_spec(trt, engine, name) for name in names if name not in taken)
    batched = [spec for spec in inputs if is_batched(spec)]
    for spec in outputs:
        if is_batched(spec) and not batched:
            raise InputError(f"output '{spec.name}' is dynamic where no input is", got=spec)
    return EngineIo(inputs, outputs, _batch(engine, batched))


def _spec(trt: TensorRt, engine: ICudaEngine, name: str) -> TensorSpec:
    _check_layout(trt, engine, name)
    shape = tuple(int(dim) for dim in engine.get_tensor_shape(name))
    if _DYNAMIC in shape[1:]:
        raise InputError(
            f"tensor '{name}' has a dynamic axis other than the batch",
            got=list(shape),
            expected="only the first axis dynamic",
        )
    named = tuple(BATCH if dim == _DYNAMIC else dim for dim in shape)
    return TensorSpec(name, _dtype(trt, engine, name), named)


def _check_layout(trt: TensorRt, engine: ICudaEngine, name: str) -> None:
    if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
        raise InputError(f"tensor '{name}' is a shape tensor", expected="tensors in GPU memory")
    if engine.get_tensor_format(name) != trt.TensorFormat.LINEAR:
        raise InputError(
            f"tensor '{name}' has a vectorised layout",
            got=engine.get_tensor_format_desc(name),
            expected="row-major linear",
            fix="Build the engine without I/O formats.",
        )


def _dtype(trt: TensorRt, engine: ICudaEngine, name: str) -> str:
    kind = engine.get_tensor_dtype(name)
    try:
        return str(np.dtype(trt.nptype(kind)).name)
    except TypeError as error:  # nptype's way of saying that numpy has no such type
        raise InputError(f"tensor '{name}' has a type that numpy lacks", got=kind.name) from error


def _batch(engine: ICudaEngine, batched: list[TensorSpec]) -> ShapeProfile:
    """The batches that every input's profile takes."""
    if not batched:
        return ShapeProfile(1, 1, 1)
    profiles = [engine.get_tensor_profile_shape(spec.name, 0) for spec in batched]
    smallest, usual, largest = ([int(profile[which][0]) for profile in profiles] for which in range(3))
    return ShapeProfile(max(smallest), max(usual), min(largest))
