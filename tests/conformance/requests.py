"""How the suite's rows are written: HTTP requests as bytes, built from what they differ in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FP32 = "/v2/models/identity_fp32"


@dataclass(frozen=True)
class Request:
    """One HTTP request. ``wire`` is sent as it is in place of what the other fields make; it may hold several."""

    method: str = "POST"
    path: str = f"{FP32}/infer"
    body: bytes | None = b""
    headers: Mapping[str, str] = ()
    wire: bytes | None = None
    replies: int = 1

    def bytes(self) -> bytes:
        if self.wire is not None:
            return self.wire
        headers = {"Host": "localhost", **dict(self.headers)}
        if self.body is not None and not {"Content-Length", "Transfer-Encoding"} & set(headers):
            headers["Content-Length"] = str(len(self.body))
        lines = [f"{self.method} {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + (self.body or b"")


@dataclass(frozen=True)
class Case:
    """Requests that are sent one after the other, or ``stagger`` seconds apart without waiting for the replies.

    Attributes:
        about: a regular expression that the error's text must match, for an error is only right for the right reason.
        fields: of a JSON reply, the only ones compared (dotted; ``[]`` goes into a list); None compares all.
        headers: of an error's reply that are compared too.
        segment: what a segment of shared memory holds before; afterwards it is observed.
        ordered: whether the order in which replies came is part of the observation.
    """

    name: str
    requests: Sequence[Request]
    about: str | None = None
    fields: Sequence[str] | None = None
    headers: Sequence[str] = ()
    stagger: float | None = None
    ordered: bool = False
    segment: bytes | None = None


def get(path: str, method: str = "GET", **headers: str) -> Request:
    return Request(method, path, None, {name.replace("_", "-"): value for name, value in headers.items()})


def post(path: str, body: object = b"", **headers: str) -> Request:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Request("POST", path, content, {name.replace("_", "-"): value for name, value in headers.items()})


def tensor(
    data: object = (1, 2), shape: object = (1, 2), datatype: object = "FP32", name: object = "x"
) -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, "data": data}


def infer(
    *inputs: object, model: str = "identity_fp32", path: str | None = None, headers: Mapping[str, str] = (), **rest: Any
) -> Request:
    """JSON in; ``rest`` are further fields of the request."""
    body = json.dumps({"inputs": list(inputs) or [tensor()], **rest}).encode()
    return Request("POST", path or f"/v2/models/{model}/infer", body, headers)


def binary(raw: bytes, *inputs: object, model: str = "identity_fp32", length: object = None, **rest: Any) -> Request:
    """The JSON of ``inputs``, then ``raw``; ``length`` in place of the true Inference-Header-Content-Length."""
    head = json.dumps({"inputs": list(inputs), **rest}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head) if length is None else length)}
    return Request("POST", f"/v2/models/{model}/infer", head + raw, headers)


def sized(size: object, shape: object = (1, 2), datatype: object = "FP32", name: object = "x") -> dict[str, Any]:
    """An input whose data are ``size`` bytes behind the JSON."""
    return {"name": name, "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": size}}


def asked(name: object = "y", **parameters: Any) -> dict[str, Any]:
    return {"name": name, "parameters": parameters} if parameters else {"name": name}
