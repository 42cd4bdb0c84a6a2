"""A look into an ONNX file without the onnx package, whose import alone takes longer than running a small network.

Only the wire format of protobuf is read (https://protobuf.dev/programming-guides/encoding), and weights are skipped.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

# onnx.proto: ModelProto.graph, GraphProto.node, NodeProto.op_type
_GRAPH, _NODE, _OP_TYPE = 7, 1, 4
_VARINT, _64_BIT, _TEXT, _32_BIT = 0, 1, 2, 5


def operators(path: Path) -> set[str]:
    """The operators of the top-level graph of a sound, non-empty ONNX file."""
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return set(_operators(content))


def _operators(content: mmap.mmap) -> Iterator[str]:
    for graph, start, end in _fields(content, 0, len(content)):
        for node, first, last in _fields(content, start, end) if graph == _GRAPH else ():
            for number, begin, stop in _fields(content, first, last) if node == _NODE else ():
                if number == _OP_TYPE:
                    yield content[begin:stop].decode()
                    break


def _fields(content: mmap.mmap, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of every field that holds text, bytes or a message."""
    while position < end:
        key, position = _varint(content, position)
        number, kind = key >> 3, key & 7
        if kind == _TEXT:
            length, position = _varint(content, position)
            yield number, position, position + length
            position += length
        elif kind == _VARINT:
            _, position = _varint(content, position)
        else:
            position += {_64_BIT: 8, _32_BIT: 4}[kind]


def _varint(content: mmap.mmap, position: int) -> tuple[int, int]:
    """A number of seven bits a byte, least first, and where it ends."""
    value = shift = 0
    while True:
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
