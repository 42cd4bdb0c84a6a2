"""A case sent to a server → what is compared: plain JSON without what no client looks at."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import re
import struct
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from conformance.models import logits
from conformance.requests import Case, Request, infer
from conformance.wire import Reply, send, send_all


class Server(Protocol):
    """Ours or Triton, running."""

    address: tuple[str, int]
    grpc: int

    def restart(self) -> None: ...


_NUMPY = {"FP32": "<f4", "FP16": "<f2", "INT64": "<i8", "UINT8": "u1", "BOOL": "?"}
_MANY = 64
SEGMENT = Path("/dev/shm/deploy_conformance")  # where Linux has POSIX shared memory


def observe(server: Server, case: Case) -> list[dict[str, Any]]:
    """One observation for each reply, and what the shared memory holds then."""
    if case.segment is None:
        return _exchanged(server, case)
    SEGMENT.write_bytes(case.segment)
    try:
        seen = _exchanged(server, case)
        return [*seen, {"segment": np.frombuffer(SEGMENT.read_bytes(), "<f4").tolist()}]
    finally:
        SEGMENT.unlink()


def _sent(server: Server, request: Request) -> list[Reply]:
    if request.path.endswith("/stats"):
        time.sleep(0.3)  # Triton counts a request after it has replied
    return send(server.address, request)


def _exchanged(server: Server, case: Case) -> list[dict[str, Any]]:
    if case.stagger is None:
        replies = [reply for request in case.requests for reply in _sent(server, request)]
    else:
        replies = send_all(server.address, case.requests, case.stagger)
    seen = [observed(reply, case) for reply in replies]
    if case.ordered:
        order = sorted(range(len(replies)), key=lambda index: replies[index].at)
        seen.append({"order of the replies": order})
    return seen


def answers(server: Server) -> bool:
    """Whether a plain request to one of the models is answered."""
    try:
        (reply,) = send(server.address, infer(), seconds=5)
    except OSError:
        return False
    return reply.status == 200


def observed(reply: Reply, case: Case) -> dict[str, Any]:
    if reply.failure is not None:
        return {"failure": reply.failure}
    seen: dict[str, Any] = {"status": reply.status}
    for name in (
        ("content-type", "content-encoding", *case.headers) if reply.body and reply.status == 200 else case.headers
    ):
        if name in reply.headers:
            seen[name] = reply.headers[name]
    body = _plain(reply)
    length = reply.headers.get("inference-header-content-length")
    if length is not None:
        seen["binary"] = True
    if body:
        seen["body"] = _body(body, None if length is None else int(length), case)
    return seen


def _plain(reply: Reply) -> bytes:
    encoding = reply.headers.get("content-encoding")
    return {"gzip": gzip.decompress, "deflate": zlib.decompress}.get(encoding, bytes)(reply.body)


def _body(body: bytes, length: int | None, case: Case) -> Any:
    try:
        document = json.loads(body[:length])
    except ValueError:
        return "no JSON"
    if isinstance(document, dict) and isinstance(document.get("error"), str):
        about = True if case.about is None else bool(re.search(case.about, document["error"], re.IGNORECASE))
        return {"error": "a text" if about else f"about something else: {document['error']}", **_rest(document)}
    if isinstance(document, dict) and {"model_name", "outputs"} <= document.keys():
        return _reply_of(document, b"" if length is None else body[length:])
    return document if case.fields is None else picked(document, case.fields)


def _rest(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name != "error"}


def picked(document: Any, fields: Sequence[str]) -> dict[str, Any]:
    """``a.b[].c`` → the value there, or the values of a list; a field that is not there is left out."""
    found = {}
    for path in fields:
        value = _at(document, path.replace("[]", ".[]").split("."))
        if value is not None:
            found[path] = value
    return found


def _at(value: Any, steps: Sequence[str]) -> Any:
    if not steps or value is None:
        return value
    step, *rest = steps
    if step == "[]":
        items = [_at(item, rest) for item in value]
        return items if any(item is not None for item in items) else None
    return _at(value.get(step) if isinstance(value, dict) else None, rest)


def _reply_of(document: dict[str, Any], tail: bytes) -> dict[str, Any]:
    outputs = []
    for output in document["outputs"]:
        fields = dict(output)
        size = (fields.pop("parameters", None) or {}).get("binary_data_size")
        if size is not None:
            fields["binary"], (raw, tail) = True, (tail[:size], tail[size:])
            fields["data"] = elements(raw, fields["datatype"])
        fields["data"] = short(fields["name"], fields["datatype"], fields.get("data"), fields["shape"])
        outputs.append(fields)
    rest = {"bytes behind the outputs": len(tail)} if tail else {}
    return {**document, "outputs": outputs, **rest}


def elements(raw: bytes, datatype: str) -> list[Any]:
    """The elements of a binary tensor."""
    if datatype != "BYTES":
        return np.frombuffer(raw, _NUMPY[datatype]).tolist()
    items = []
    while raw:
        (size,) = struct.unpack_from("<I", raw)
        items.append(raw[4 : 4 + size].decode("utf-8", "backslashreplace"))
        raw = raw[4 + size :]
    return items


def short(name: str, datatype: str, data: Any, shape: Sequence[int]) -> Any:
    """Elements as JSON can hold them; many become their hash; the CNN's are those of ONNX Runtime here, or not."""
    if name == "logits" and data and isinstance(data[0], str):
        return [text.split(":", 1)[1] for text in data]  # the scores have as many digits as the machine gives them
    if name == "logits":
        return "those of ONNX Runtime" if np.allclose(data, logits(shape[0]).ravel(), rtol=1e-4, atol=1e-5) else data
    if datatype == "FP32":  # 0.1 and 0.10000000149011612 are one number then
        data = [None if item is None else float(np.float32(item)) for item in data or ()]
    items = [str(item) if isinstance(item, float) and not math.isfinite(item) else item for item in data or ()]
    if len(items) <= _MANY:
        return items
    numbers = json.dumps([float(item) for item in items]).encode()
    return f"{len(items)} elements, sha256 {hashlib.sha256(numbers).hexdigest()[:16]}"
