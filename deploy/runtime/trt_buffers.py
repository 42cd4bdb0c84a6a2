"""The memory that one lane keeps for an engine's inputs and outputs, on both sides of the copies between them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

from deploy.runtime.base import Array
from deploy.runtime.cuda import Cuda, DeviceMemory, PinnedMemory, Stream
from deploy.runtime.trt_io import EngineIo, Piece, is_batched, nbytes, with_batch
from deploy.specs import TensorSpec


@dataclass(slots=True)
class Binding:
    """One tensor at one batch size: the part of its memory that is in use, and that part as an array."""

    name: str
    batched: bool
    host: Array
    pinned: PinnedMemory
    device: DeviceMemory
    nbytes: int


@dataclass(slots=True)
class Bindings:
    """All tensors at one batch size. Made once for each size: a request only copies."""

    rows: int
    inputs: list[Binding]
    outputs: list[Binding]

    def fill(self, feeds: Mapping[str, Array], piece: Piece) -> None:
        """Write a piece of a request to the host side; rows beyond the piece's repeat its last one.

        Rubbish in their place could be slow (denormal) or overflow, and would differ from call to call.
        """
        rows = piece.stop - piece.start
        for each in self.inputs:
            values = feeds[each.name]
            if not each.batched:
                each.host[...] = values
            elif rows == self.rows:
                each.host[...] = values[piece.start : piece.stop]
            else:
                each.host[:rows] = values[piece.start : piece.stop]
                each.host[rows:] = values[piece.stop - 1]

    def upload(self, stream: Stream) -> None:
        for each in self.inputs:
            stream.upload(each.pinned, each.device, each.nbytes)

    def download(self, stream: Stream) -> None:
        for each in self.outputs:
            stream.download(each.device, each.pinned, each.nbytes)

    def read(self, results: Mapping[str, Array], piece: Piece) -> None:
        """Copy the rows of a piece from the host side to ``results``."""
        rows = piece.stop - piece.start
        for each in self.outputs:
            if each.batched:
                results[each.name][piece.start : piece.stop] = each.host[:rows]
            else:
                results[each.name][...] = each.host


class Buffers:
    """Page-locked and device memory for the largest batch."""

    def __init__(self, io: EngineIo, cuda: Cuda) -> None:
        """Raises :class:`MachineError` where the memory is not there; nothing stays allocated then."""
        self._io, self._sizes = io, dict[int, Bindings]()
        self._memory: dict[str, tuple[PinnedMemory, DeviceMemory]] = {}
        with contextlib.ExitStack() as owned:
            for spec in (*io.inputs, *io.outputs):
                size = max(1, nbytes(spec, io.batch.max))
                pinned = cuda.pinned(size)
                owned.callback(pinned.close)
                device = cuda.memory(size)
                owned.callback(device.close)
                self._memory[spec.name] = pinned, device
            self._owned = owned.pop_all()

    @property
    def addresses(self) -> dict[str, int]:
        """Tensor → where it lies on the GPU, at every batch size."""
        return {name: device.address for name, (_, device) in self._memory.items()}

    @property
    def device_bytes(self) -> int:
        return sum(device.nbytes for _, device in self._memory.values())

    def at(self, rows: int) -> Bindings:
        """All tensors at one batch size."""
        bindings = self._sizes.get(rows)
        if bindings is None:
            inputs = [self._binding(spec, rows) for spec in self._io.inputs]
            outputs = [self._binding(spec, rows) for spec in self._io.outputs]
            bindings = self._sizes[rows] = Bindings(rows, inputs, outputs)
        return bindings

    def close(self) -> None:
        self._owned.close()

    def _binding(self, spec: TensorSpec, rows: int) -> Binding:
        pinned, device = self._memory[spec.name]
        size = nbytes(spec, rows)
        host = pinned.array[:size].view(spec.dtype).reshape(with_batch(spec, rows))
        return Binding(spec.name, is_batched(spec), host, pinned, device, size)
