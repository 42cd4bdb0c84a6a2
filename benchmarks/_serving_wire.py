"""What is sent to each server and what comes back: the bytes of whole HTTP requests, and the logits in replies."""

from __future__ import annotations

import base64
import json
import struct
from dataclasses import dataclass

import numpy as np

MODEL, INPUT, OUTPUT = "net", "input", "logits"


class Wrong(Exception):
    """A reply is an error, or not the reply to its request."""


@dataclass(frozen=True)
class Wire:
    """A way to ask. ``protocol``: ``binary`` (KServe v2, binary tensors), ``base64`` (KServe v2, JSON) or ``raw``."""

    protocol: str

    def request(self, kind: str, item: bytes, shape: tuple[int, ...]) -> bytes:
        """One HTTP request; ``item`` is a float32 tensor of ``shape`` (kind ``tensor``) or an encoded image."""
        if self.protocol == "raw":
            return _post("/predict", item, "application/octet-stream")
        path, image = f"/v2/models/{MODEL}/infer", kind == "image"
        if self.protocol == "base64":
            text = base64.b64encode(item).decode()
            head = {"name": INPUT, "datatype": "BYTES", "shape": [1, 1], "parameters": {"content_type": "base64"}}
            return _post(path, json.dumps({"inputs": [{**head, "data": [text]}]}).encode(), "application/json")
        data = struct.pack("<I", len(item)) + item if image else item
        fields = {"name": INPUT, "datatype": "BYTES" if image else "FP32", "shape": [1, 1] if image else list(shape)}
        outputs = [{"name": OUTPUT, "parameters": {"binary_data": True}}]
        inputs = [{**fields, "parameters": {"binary_data_size": len(data)}}]
        text = json.dumps({"inputs": inputs, "outputs": outputs})
        extra = f"Inference-Header-Content-Length: {len(text)}\r\n"
        return _post(path, text.encode() + data, "application/octet-stream", extra)

    def logits(self, reply: bytes | bytearray) -> np.ndarray | None:
        """The logits of a whole reply, None of a part. Raises :class:`Wrong` for an error."""
        end = reply.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = bytes(reply[:end]).lower()
        if not head.startswith(b"http/1.1 200"):
            raise Wrong(f"the server answers {bytes(reply[:500])!r}")
        body = bytes(reply[end + 4 :])
        if len(body) != _number(head, b"content-length"):
            return None
        if self.protocol == "base64":
            return np.frombuffer(base64.b64decode(json.loads(body)["outputs"][0]["data"][0]), np.float32)
        # One output was asked for: its binary tensor is all that follows the JSON, where there is JSON.
        return np.frombuffer(body, np.float32, offset=_number(head, b"inference-header-content-length"))


def _post(path: str, body: bytes, media: str, extra: str = "") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {media}\r\n{extra}Content-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


def _number(head: bytes, name: bytes) -> int:
    _, found, rest = head.partition(b"\r\n" + name + b":")
    return int(rest.split(b"\r\n", 1)[0]) if found else 0
