"""Requests as nobody should send them: the suite's own, changed at random."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

from conformance.requests import Request
from conformance.suite import HTTP

# Nothing that sleeps for as long as it is told, or that takes a model away from the other tests.
_LEFT_OUT = ("slow", "unload")
SEEDS = [
    request
    for case in HTTP
    for request in case.requests
    if request.wire is None
    and len(request.body or b"") < 10_000
    and not any(word in request.path for word in _LEFT_OUT)
]
_WIRE = [request for case in HTTP for request in case.requests if request.wire is not None]
# By index: hypothesis writes out what it samples from.
_SEEDS = st.integers(0, len(SEEDS) - 1).map(SEEDS.__getitem__)
_STREAMS = st.integers(0, len(SEEDS) + len(_WIRE) - 1).map([*SEEDS, *_WIRE].__getitem__)
ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, -(2**63), 10**30, 0.5, 1e308, -0.0),
    *("", "x", "y", "FP32", "BYTES", "1", "\x00", "\ud7ff", "é" * 50, "../..", "%00", [], {}, [[]], [{}], {"a": {}}),
    *(
        [1, 2],
        [1, [2]],
        [0],
        [2**40, 2**40],
        [0, 2**63],
        [0, 2**62, 2**62],
        [1] * 70,
        [[1], [2, 3]],
        ["a", 1],
        [None],
        [True],
        {"binary_data_size": 2**40},
    ),
    *({"binary_data_size": -1}, {"classification": 10**9}, {"shared_memory_region": "r"}, {"binary_data": True}),
]
_FIELDS = (
    "inputs",
    "outputs",
    "name",
    "shape",
    "datatype",
    "data",
    "parameters",
    "id",
    "binary_data_size",
    "ready",
    "key",
)
_HEADERS = {
    "Inference-Header-Content-Length": ["0", "1", "-1", "10", "80", "81", "9" * 20, "x", "", "٣"],
    "Content-Encoding": ["gzip", "deflate", "br", "identity", "", "gzip, gzip", "\xe9"],
    "Accept-Encoding": ["gzip", "deflate", "br", "*", "", "gzip;q=nothing"],
    "Content-Type": ["multipart/form-data", "multipart/form-data; boundary=x", "", "\xff", "application/json"],
    "Expect": ["100-continue"],
    "Authorization": ["Bearer x", "\xff"],
}
_WORDS = (
    "v2 models identity_fp32 cnn pair nothing versions 1 2 .. %00 % infer config stats ready health live repository"
)
_SEGMENTS = st.sampled_from(
    [*_WORDS.split(), "", *["index", "load", "classify", "trace", "setting", "systemsharedmemory", "region", "ÿ"]]
)


def json_requests() -> st.SearchStrategy[Request]:
    """JSON with fields replaced, left out or added."""
    return st.builds(
        _restructured,
        _SEEDS,
        st.lists(st.tuples(st.integers(0, 40), _change()), min_size=1, max_size=3),
    )


def _change() -> st.SearchStrategy[Any]:
    return st.one_of(st.sampled_from(ODD), st.just(...), st.tuples(st.sampled_from(_FIELDS), st.sampled_from(ODD)))


def _restructured(request: Request, changes: list[tuple[int, Any]]) -> Request:
    length = dict(request.headers).get("Inference-Header-Content-Length", "")
    size = int(length) if length.isdigit() and len(length) < 8 else len(request.body or b"")
    try:
        document = json.loads((request.body or b"{}")[:size])
    except ValueError:
        return request
    for place, change in changes:
        document = _changed(document, place, copy.deepcopy(change))
    head = json.dumps(document).encode()
    headers = {**dict(request.headers), **({"Inference-Header-Content-Length": str(len(head))} if length else {})}
    return Request(request.method, request.path, head + (request.body or b"")[size:], headers)


def _changed(document: Any, place: int, change: Any) -> Any:
    """``change`` at the place of that number: ``...`` deletes, a pair adds a field, another value replaces."""
    spots = list(_spots(document))
    if not spots:
        return change if change is not ... else None
    holder, key = spots[place % len(spots)]
    if isinstance(change, type(...)):
        del holder[key]
    elif isinstance(change, tuple) and isinstance(holder, dict):
        holder[change[0]] = change[1]
    else:
        holder[key] = change[1] if isinstance(change, tuple) else change
    return document


def _spots(document: Any) -> Any:
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in list(items):
        yield document, key
        yield from _spots(value)


def byte_requests() -> st.SearchStrategy[Request]:
    """Bodies with bytes changed, cut off or added; odd headers, verbs and paths."""
    return st.builds(
        _damaged,
        _SEEDS,
        st.lists(
            st.tuples(st.integers(0, 200), st.sampled_from(["set", "cut", "add"]), st.binary(max_size=4)), max_size=3
        ),
        st.dictionaries(st.sampled_from(sorted(_HEADERS)), st.integers(0, 9), max_size=2),
        st.one_of(st.none(), st.lists(_SEGMENTS, min_size=1, max_size=8).map("/".join)),
        st.sampled_from(["POST", "POST", "GET", "PUT", "DELETE", "OPTIONS", "HEAD"]),
    )


def _damaged(
    request: Request, edits: list[tuple[int, str, bytes]], headers: dict[str, int], path: str | None, method: str
) -> Request:
    odd = {name: _HEADERS[name][index % len(_HEADERS[name])] for name, index in headers.items()}
    where = request.path if path is None else f"/{path}"
    if "unload" in where:
        where = request.path
    return Request(method, where, damaged(request.body or b"", edits), {**dict(request.headers), **odd})


def damaged(content: bytes, edits: list[tuple[int, str, bytes]]) -> bytes:
    for place, kind, piece in edits:
        at = place % (len(content) + 1)
        rest = {"set": content[at + len(piece) :], "cut": b"", "add": content[at:]}[kind]
        content = content[:at] + piece + rest
    return content


def byte_streams() -> st.SearchStrategy[bytes]:
    """What comes over a socket: a request whose head or body was damaged, alone or before and behind another."""
    edits = st.lists(
        st.tuples(st.integers(0, 400), st.sampled_from(["set", "cut", "add"]), st.binary(max_size=6)), max_size=3
    )
    one = st.builds(lambda request, edits: damaged(request.bytes(), edits), _STREAMS, edits)
    return st.one_of(one, st.tuples(one, one).map(b"".join), st.binary(max_size=200))
