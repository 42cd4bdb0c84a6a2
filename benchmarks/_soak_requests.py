"""Requests of the soak test: the bytes of each, and the judge of its answer."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from random import Random

import numpy as np
from _soak_models import Picture, answer_to, colour, rows_of

Judge = Callable[[Mapping[str, str], bytes], str | None]
QUEUE_FULL = ("Exceeds maximum queue size",)
QUEUE_OR_DEADLINE = (*QUEUE_FULL, "Request timeout expired")
ANYTHING = ("",)


@dataclass(frozen=True)
class Ask:
    """One request. ``judge`` says what is wrong with a 200, ``refusals`` which other statuses are right.

    Attributes:
        refusals: status → what the error's text may begin with.
        model: whose statistics it enters.
    """

    kind: str
    model: str
    head: bytes
    body: bytes
    judge: Judge
    refusals: Mapping[int, tuple[str, ...]] = field(default_factory=dict)

    @property
    def wire(self) -> bytes:
        return self.head + self.body

    def verdict(self, status: int, headers: Mapping[str, str], body: bytes) -> str | None:
        """What is wrong with an answer; None where nothing is."""
        if status == 200:
            return self.judge(headers, body)
        if status not in self.refusals:
            return f"status {status}: {body[:200]!r}"
        said = json.loads(body).get("error", "")
        return None if said.startswith(self.refusals[status]) else f"status {status} says {said!r}"


def post(path: str, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    """A request's head."""
    fields = {"Host": "soak", "Content-Length": str(len(body)), **(headers or {})}
    return f"POST {path} HTTP/1.1\r\n".encode() + "".join(f"{k}: {v}\r\n" for k, v in fields.items()).encode() + b"\r\n"


def tensors(model: str, tag: int, random: Random, *, busy: bool = True) -> Ask:
    """Tagged rows, binary or JSON each way, sometimes compressed, with a priority or a deadline."""
    rows = rows_of(tag, random.choice((1, 1, 1, 2, 4)))
    binary, binary_out = random.random() < 0.7, random.random() < 0.7
    parameters: dict[str, object] = {"binary_data_output": binary_out, "priority": random.choice((0, 1))}
    refusals = {503: QUEUE_FULL} if busy else {}
    if busy and random.random() < 0.05:
        parameters["timeout"], refusals[503] = random.choice((100, 20_000)), QUEUE_OR_DEADLINE
    if model == "moved":  # it is unloaded now and then
        refusals = {404: ANYTHING, 503: ANYTHING}
    tensor: dict[str, object] = {"name": "x", "datatype": "FP32", "shape": list(rows.shape)}
    if binary:
        tensor["parameters"] = {"binary_data_size": rows.nbytes}
    else:
        tensor["data"] = rows.reshape(-1).tolist()
    text = json.dumps({"id": str(tag), "parameters": parameters, "inputs": [tensor]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(text))} if binary else {}
    body = text + rows.tobytes() if binary else text
    if random.random() < 0.1:
        headers["Content-Encoding"] = random.choice(("gzip", "deflate"))
        body = {"gzip": gzip.compress, "deflate": zlib.compress}[headers["Content-Encoding"]](body)
    if random.random() < 0.1:
        headers["Accept-Encoding"] = random.choice(("gzip", "deflate"))
    head = post(f"/v2/models/{model}/infer", body, headers)
    return Ask("tensors", model, head, body, lambda *answer: _tensor_fault(tag, rows, *answer), refusals)


def _tensor_fault(tag: int, rows: np.ndarray, headers: Mapping[str, str], body: bytes) -> str | None:
    body = _plain(headers, body)
    length = int(headers.get("inference-header-content-length", len(body)))
    reply = json.loads(body[:length])
    (output,) = reply["outputs"]
    flat = np.array(output["data"], np.float32) if "data" in output else np.frombuffer(body[length:], "<f4")
    if reply.get("id") != str(tag):
        return f"request {tag} got the answer to {reply.get('id')}"
    got = flat.reshape(output["shape"])
    if len(got) != len(rows) or not np.array_equal(got[:, :2], rows[:, :2]):
        return f"request {tag} got another request's rows"
    if got.shape[1] > 4 and not np.allclose(got, answer_to(rows), rtol=1e-4, atol=1e-3):  # 'slow' gives 4 columns
        return f"request {tag} got wrong numbers"
    return None


def _plain(headers: Mapping[str, str], body: bytes) -> bytes:
    encoding = headers.get("content-encoding")
    return {"gzip": gzip.decompress, "deflate": zlib.decompress}[encoding](body) if encoding else body


def image(tag: int, random: Random, photographs: list[Picture]) -> Ask:
    """An image as BYTES through infer (its numbers are compared) or through classify (its best class is)."""
    picture = random.choice(photographs) if random.random() < 0.5 else colour(tag)
    if random.random() < 0.3:
        best = int(np.argmax(picture.means))
        head = post("/v2/models/pictures/classify?top_k=3", picture.file, {"Content-Type": "image/png"})
        judge: Judge = lambda _, body: _class_fault(tag, best, body)  # noqa: E731
        return Ask("classify", "pictures", head, picture.file, judge, {503: QUEUE_FULL})
    data = len(picture.file).to_bytes(4, "little") + picture.file
    tensor = {"name": "input", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(data)}}
    text = json.dumps({"id": str(tag), "inputs": [tensor]}).encode()
    body = text + data
    head = post("/v2/models/pictures/infer", body, {"Inference-Header-Content-Length": str(len(text))})
    judge = lambda _, reply: _means_fault(tag, picture.means, reply)  # noqa: E731
    return Ask("image", "pictures", head, body, judge, {503: QUEUE_FULL})


def _class_fault(tag: int, best: int, body: bytes) -> str | None:
    predictions = json.loads(body)["predictions"]
    tie = len({round(one["probability"], 4) for one in predictions[:2]}) == 1
    return None if tie or predictions[0]["index"] == best else f"image {tag} got another image's class"


def _means_fault(tag: int, means: np.ndarray, body: bytes) -> str | None:
    reply = json.loads(body)
    if reply.get("id") != str(tag):
        return f"image {tag} got the answer to {reply.get('id')}"
    return None if np.allclose(reply["outputs"][0]["data"], means, atol=2e-3) else f"image {tag} got another's numbers"


def bad(random: Random, photographs: list[Picture]) -> Ask:
    """Something that the protocol or the model forbids; it enters no statistics that are checked."""
    path, body, headers, status = random.choice(_bad_requests(photographs[0].file))
    wrong = f"a bad request was answered: {path} {body[:200]!r}"
    return Ask("bad", "", post(path, body, headers), body, lambda *_: wrong, {status: ANYTHING})


@cache
def _bad_requests(file: bytes) -> list[tuple[str, bytes, dict[str, str], int]]:
    infer, images = "/v2/models/replaced/infer", "/v2/models/pictures/classify"
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 64], "data": [0] * 64}
    wrong = (
        {"name": "z"},
        {"datatype": "INT8"},
        {"datatype": "FP8"},
        {"shape": [64]},
        {"shape": [9, 64]},
        {"data": []},
    )
    wrong += ({"data": ["a"] * 64}, {"shape": [1, -64]}, {"parameters": {"binary_data_size": 1 << 40}})
    rows = [(infer, json.dumps({"inputs": [{**tensor, **one}]}).encode(), {}, 400) for one in wrong]
    priority = json.dumps({"inputs": [tensor], "parameters": {"priority": "x"}}).encode()
    unknown = json.dumps({"inputs": [tensor], "outputs": [{"name": "q"}]}).encode()
    rows += [(infer, body, {}, 400) for body in (b"", b"{", b"[]", b"[" * 9000, b"\xff" * 50, priority, unknown)]
    rows += [(images, file[: len(file) // 2], {}, 400) for _ in range(3)]
    rows += [(images, body, {}, 400) for body in (b"", b"GIF89a", bytes(1000), bomb())]
    return [
        *rows,
        (infer, gzip.compress(b"{}")[:-4], {"Content-Encoding": "gzip"}, 400),
        (infer, b"{}", {"Content-Encoding": "br"}, 501),
        (infer, b"{}", {"Inference-Header-Content-Length": "99"}, 400),
        ("/v2/models/nothing/infer", b"{}", {}, 404),
        ("/v2/models/steady/versions/9/infer", b"{}", {}, 404),
        ("/v2/nothing", b"{}", {}, 404),
        ("/v2/health/live", b"{}", {}, 405),
        (infer, zlib.compress(bytes(70 << 20), 9), {"Content-Encoding": "deflate"}, 413),
    ]


def bomb(side: int = 20_000) -> bytes:
    """A PNG of some hundred bytes that says it has ``side`` x ``side`` pixels."""
    stream = io.BytesIO()
    from PIL import Image

    Image.new("1", (8, 8)).save(stream, "PNG")
    file = bytearray(stream.getvalue())
    file[16:24] = side.to_bytes(4, "big") * 2
    file[29:33] = zlib.crc32(bytes(file[12:29])).to_bytes(4, "big")
    return bytes(file)
