"""The system shared memory extension: tensors in POSIX shared memory that the client made.

A region is a part of a segment of ``/dev/shm``. Inputs are copied out of it when their request is read, outputs into it
before the reply is sent; nothing is mapped. A client may shrink its segment at any time, and touching a mapped page
beyond the new end would kill the server (SIGBUS), where a read just ends early. The copy also means that a client that
changes the memory after its request was read changes nothing, and one that does so before sends what it had written.

Source: Triton's extension "system shared memory".
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deploy.errors import InputError
from deploy.serving.errors import AlreadyRegistered, TooLarge, UnknownRegion, Unsupported

DIRECTORY = "/dev/shm"  # noqa: S108 - where Linux has POSIX shared memory: shm_overview(7)
_KEY = re.compile(r"/?(?!\.{1,2}$)[^/\0]{1,254}")
_MOST_REGIONS, _LONGEST_NAME = 256, 255


@dataclass(frozen=True)
class Placement:
    """Where a tensor of a request lies: ``size`` bytes from ``offset`` of a region."""

    region: str
    offset: int
    size: int


class _Segment:
    """A segment that stays open as long as anybody uses it, also when it is unlinked."""

    def __init__(self, key: str) -> None:
        self.file = os.open(
            os.path.join(DIRECTORY, key.removeprefix("/")),  # noqa: PTH118 - a key is no path
            os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK,
        )

    def __del__(self) -> None:
        if hasattr(self, "file"):
            os.close(self.file)

    @property
    def size(self) -> int:
        """Bytes that it has now; 0 where it is no memory at all."""
        now = os.fstat(self.file)
        return now.st_size if stat.S_ISREG(now.st_mode) else 0


@dataclass(frozen=True)
class Memory:
    """Bytes of a registered region, within its bounds."""

    name: str
    segment: _Segment
    start: int
    size: int

    def read(self) -> bytes:
        """A copy. Raises :class:`InputError` where the client has shrunk the segment."""
        data = os.pread(self.segment.file, self.size, self.start)
        if len(data) != self.size:
            raise _shrunk(self.name)
        return data

    def write(self, output: str, data: bytes) -> None:
        """Raises :class:`InputError` where ``data`` do not fit, or the client has shrunk the segment."""
        if len(data) > self.size:
            what = f"shared memory size specified with the request for output '{output}' is too small"
            raise InputError(what, got=f"{self.size} bytes", expected=f"at least {len(data)}")
        if self.start + len(data) > self.segment.size:
            raise _shrunk(self.name)
        try:
            written = os.pwrite(self.segment.file, data, self.start)
        except OSError as error:  # the machine's shared memory is full: pages come only when they are written
            raise InputError(f"shared memory region '{self.name}' cannot be written", got=error.strerror) from error
        if written < len(data):
            got, expected = f"{written} bytes", f"{len(data)} bytes"
            raise InputError(f"shared memory region '{self.name}' cannot be written", got=got, expected=expected)


def _shrunk(name: str) -> InputError:
    return InputError(f"shared memory region '{name}' is smaller than when it was registered")


@dataclass(frozen=True)
class _Region:
    key: str
    segment: _Segment
    offset: int
    size: int


class Regions:
    """The registered regions, by name."""

    def __init__(self) -> None:
        self._regions: dict[str, _Region] = {}

    def register(self, name: str, key: str, offset: int, size: int) -> None:
        """``key`` is the segment's name as in shm_open(3); the region is ``size`` of its bytes from ``offset``.

        Raises:
            AlreadyRegistered: a region has this name, whatever it is.
            InputError: no such segment, it cannot be opened, or it is smaller.
        """
        if name in self._regions:
            raise AlreadyRegistered(f"shared memory region '{name}' already in manager")
        if not 1 <= len(name) <= _LONGEST_NAME or len(self._regions) >= _MOST_REGIONS:
            raise InputError("no name of a region, or too many of them", expected=f"{_MOST_REGIONS} regions at most")
        if not _KEY.fullmatch(key):
            raise InputError("the key is no name of POSIX shared memory", got=key[:80], expected="/NAME")
        try:
            segment = _Segment(key)
        except (OSError, ValueError) as error:
            raise InputError(f"Unable to open shared memory region: '{key}'") from error
        if offset < 0 or size < 1 or offset + size > segment.size:
            raise InputError(f"Invalid shared memory region: '{key}'", got=f"{size} bytes from {offset}")
        self._regions[name] = _Region(key, segment, offset, size)

    def unregister(self, name: str = "") -> None:
        """Forget a region, or all. Requests that were read keep theirs; an unknown name is no error, as in Triton."""
        if name:
            self._regions.pop(name, None)
        else:
            self._regions.clear()

    def status(self, name: str = "") -> list[dict[str, Any]]:
        """Name, key, offset and byte_size of a region, or of all. Raises :class:`UnknownRegion`."""
        if name and name not in self._regions:
            raise UnknownRegion(f"Unable to find system shared memory region: '{name}'")
        return [
            {"name": one, "key": region.key, "offset": region.offset, "byte_size": region.size}
            for one, region in self._regions.items()
            if name in ("", one)
        ]

    def memory(self, placement: Placement) -> Memory:
        """Raises :class:`UnknownRegion`, or :class:`InputError` for bytes that are not in the region."""
        region = self._regions.get(placement.region)
        if region is None:
            raise UnknownRegion(f"Unable to find shared memory region: '{placement.region}'")
        if placement.offset + placement.size > region.size:
            what = f"Invalid offset + byte size for shared memory region: '{placement.region}'"
            raise InputError(what, got=placement.offset + placement.size, expected=f"at most {region.size}")
        return Memory(placement.region, region.segment, region.offset + placement.offset, placement.size)


@dataclass
class Access:
    """What one request may do with the regions: read at most ``left`` bytes. ``regions`` None: the extension is off."""

    regions: Regions | None = None
    left: int = 0

    def on(self) -> Regions:
        """The regions. Raises :class:`Unsupported` where the extension is off."""
        if self.regions is None:
            raise Unsupported("shared memory is off", fix="The server's flag is --shared-memory.")
        return self.regions

    def placement(self, parameters: Mapping[str, Any]) -> Placement | None:
        """Where an input or output lies; None where its data are in the request or the reply. Raises as :meth:`on`."""
        if "shared_memory_region" not in parameters:
            return None
        self.on()
        region = parameters["shared_memory_region"]
        offset, size = parameters.get("shared_memory_offset", 0), parameters.get("shared_memory_byte_size")
        if not isinstance(region, str) or type(offset) is not int or type(size) is not int or min(offset, size) < 0:
            raise InputError("a tensor in shared memory has a region's name, an offset and a byte_size")
        return Placement(region, offset, size)

    def memory(self, placement: Placement) -> Memory:
        """Raises as :meth:`on` and :meth:`Regions.memory`."""
        return self.on().memory(placement)

    def read(self, placement: Placement) -> bytes:
        """Raises :class:`TooLarge` for more than ``left``; else as :meth:`memory` and :meth:`Memory.read`."""
        memory = self.memory(placement)
        if memory.size > self.left:
            raise TooLarge("the request's inputs are too large", expected=f"at most {self.left} bytes more")
        self.left -= memory.size
        return memory.read()
