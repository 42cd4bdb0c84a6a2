"""System shared memory over HTTP: a segment of 16 bytes, 1 and 2 as FP32 in front; and bodies that unpack to 100 MB."""

from __future__ import annotations

import gzip
import zlib

import numpy as np

from conformance.requests import Case, Request, asked, get, infer, post

SEGMENT = np.array([1, 2, 0, 0], "<f4").tobytes()
KEY = "/deploy_conformance"
_API = "/v2/systemsharedmemory"
_STATUS, _ALL_GONE = get(f"{_API}/status"), post(f"{_API}/unregister")


def register(size: object = 16, key: object = KEY, **rest: object) -> Request:
    return post(f"{_API}/region/r/register", {"key": key, "byte_size": size, **rest})


def placed(offset: object, size: object, region: object = "r") -> dict[str, object]:
    return {"shared_memory_region": region, "shared_memory_offset": offset, "shared_memory_byte_size": size}


def from_region(offset: object, size: object, *, shape: tuple[int, ...] = (1, 2), outputs: object = ()) -> Request:
    tensor = {"name": "x", "datatype": "FP32", "shape": shape, "parameters": placed(offset, size)}
    return infer(tensor, **({"outputs": outputs} if outputs else {}))


def case(name: str, *requests: Request, about: str | None = None) -> Case:
    return Case(f"shared memory, {name}", [*requests, _ALL_GONE], about=about, segment=SEGMENT)


MEMORY = [
    case(
        "registered", register(), _STATUS, get(f"{_API}/region/r/status"), post(f"{_API}/region/r/unregister"), _STATUS
    ),
    case("registered twice", register(), register(), about="already"),
    case("in", register(), from_region(0, 8)),
    case("in and out", register(), from_region(0, 8, outputs=[asked(**placed(8, 8))])),
    case("out in part", register(), infer(outputs=[asked(**placed(8, 4))])),
    case("an offset of the region's own", register(8, offset=4), from_region(0, 8)),
    case("in beyond the region", register(), from_region(12, 8)),
    case("in of another size", register(), from_region(0, 4)),
    case("a negative offset", register(), from_region(-4, 8)),
    case("beyond the segment", register(1000)),
    case("offset beyond the segment", register(offset=1000)),
    case("no bytes", register(0)),
    case("a negative size", register(-1)),
    case("no such segment", register(key="/nothing")),
    case("a path for a key", register(key="/../../etc/passwd")),
    case("no key", post(f"{_API}/region/r/register", {"byte_size": 16})),
    case("an unknown region's status", get(f"{_API}/region/q/status")),
    case("an unknown region unregistered", post(f"{_API}/region/q/unregister")),
    case("classes into it", register(), infer(outputs=[asked(classification=1, **placed(8, 8))])),
]

_BOMB = bytes(100_000_000)
BOMBS = [
    Case("gzip bomb", [Request(body=gzip.compress(_BOMB, mtime=0), headers={"Content-Encoding": "gzip"})]),
    Case("deflate bomb", [Request(body=zlib.compress(_BOMB), headers={"Content-Encoding": "deflate"})]),
]
CASES = [*MEMORY, *BOMBS]
