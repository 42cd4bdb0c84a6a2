"""An engine's inputs and outputs in the project's words, and how a request is cut to the batches it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from deploy.engine.api import ICudaEngine, TensorRt
from deploy.errors import InputError
from deploy.runtime.base import Array
from deploy.specs import BATCH, ShapeProfile, TensorSpec

_DYNAMIC = -1


@dataclass(frozen=True)
class Piece:
    """Consecutive rows of a request that run at once.

    Attributes:
        start, stop: the rows.
        profile: the index of the optimization profile that takes them.
        filled: rows that the engine computes: ``stop - start``, or the smallest batch of the profile.
    """

    start: int
    stop: int
    profile: int
    filled: int


@dataclass(frozen=True)
class EngineIo:
    """The tensors of an engine.

    ``profiles`` are what their axes named ``batch`` take; one of 1:1:1 where every shape is fixed.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    profiles: tuple[ShapeProfile, ...]

    @cached_property
    def batch(self) -> ShapeProfile:
        """From the smallest batch to the largest of any profile; the usual one is that of the largest profile."""
        largest = max(self.profiles, key=lambda profile: profile.max)
        return ShapeProfile(min(profile.min for profile in self.profiles), largest.opt, largest.max)

    def rows(self, feeds: Mapping[str, Array]) -> int:
        """The batch size of a request, 1 where every shape is fixed.

        Raises:
            InputError: the inputs differ in it, or it is 0, or an output needs the whole batch at once.
        """
        names = self._batched
        if not names:
            return 1
        rows = len(feeds[names[0]])
        if any(len(feeds[name]) != rows for name in names[1:]):
            raise InputError("the inputs have different batch sizes", got={name: len(feeds[name]) for name in names})
        if rows == 0:
            raise InputError("the batch is empty", expected="at least one row")
        if self._whole and not any(profile.min <= rows <= profile.max for profile in self.profiles):
            # Cut or filled up, the request would not be what such an output is made of.
            expected = " or ".join(f"{profile.min} to {profile.max}" for profile in self.profiles)
            what = f"output '{self._whole[0]}' does not follow the batch"
            raise InputError(what, got=rows, expected=f"{expected} rows at once")
        return rows

    def pieces(self, rows: int) -> list[Piece]:
        """A request, cut to what the engine takes at once."""
        most = self.batch.max
        return [self.piece(start, min(start + most, rows)) for start in range(0, rows, most)]

    def piece(self, start: int, stop: int) -> Piece:
        """These rows in the profile that computes the fewest for them; of several such, the smallest."""
        rows, profiles = stop - start, self.profiles
        if len(profiles) == 1:
            return Piece(start, stop, 0, max(rows, profiles[0].min))
        fits = [
            (max(rows, profile.min), profile.max, index)
            for index, profile in enumerate(profiles)
            if rows <= profile.max
        ]
        filled, _, index = min(fits)
        return Piece(start, stop, index, filled)

    @cached_property
    def _batched(self) -> tuple[str, ...]:
        return tuple(spec.name for spec in self.inputs if is_batched(spec))

    @cached_property
    def _whole(self) -> tuple[str, ...]:
        """Outputs that are of the batch as a whole."""
        return tuple(spec.name for spec in self.outputs if not is_batched(spec)) if self._batched else ()


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
    """What an engine takes and gives.

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
    count = engine.num_optimization_profiles if batched else 1
    return EngineIo(inputs, outputs, tuple(_profile(engine, batched, index) for index in range(count)))


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


def _profile(engine: ICudaEngine, batched: list[TensorSpec], index: int) -> ShapeProfile:
    """The batches that every input takes in one optimization profile."""
    if not batched:
        return ShapeProfile(1, 1, 1)
    shapes = [engine.get_tensor_profile_shape(spec.name, index) for spec in batched]
    smallest, usual, largest = ([int(shape[which][0]) for shape in shapes] for which in range(3))
    return ShapeProfile(max(smallest), max(usual), min(largest))
