"""Inference that the protocol forbids, and the ways of HTTP that clients and proxies really have."""

from __future__ import annotations

import json
import struct

from conformance.cases_infer import TWO, texts
from conformance.requests import Case, Request, asked, binary, get, infer, post, sized, tensor

_INFER = "/v2/models/identity_fp32/infer"
_JSON = infer(tensor()).body or b""


def body(content: bytes) -> Request:
    return Request(body=content)


def without(field: str) -> dict[str, object]:
    return {name: value for name, value in tensor().items() if name != field}


BODIES = [
    Case("empty body", [body(b"")]),
    Case("no JSON", [body(b"hello")], about="JSON|parse"),
    Case("JSON cut off", [body(_JSON[:-5])], about="JSON|parse"),
    Case("JSON with a tail", [body(_JSON + b"x")], about="JSON|parse"),
    Case("JSON with a NUL behind", [body(_JSON + b"\x00")]),
    Case("JSON with a byte order mark", [body(b"\xef\xbb\xbf" + _JSON)]),
    Case("not UTF-8", [body(_JSON.replace(b'"x"', b'"\xff"'))]),
    Case("UTF-16", [body(_JSON.decode().encode("utf-16"))]),
    Case("a lone surrogate", [body(_JSON.replace(b'"x"', rb'"\ud800"'))]),
    Case("a list", [body(b"[]")]),
    Case("a number", [body(b"1")]),
    Case("null", [body(b"null")]),
    Case("an empty object", [body(b"{}")], about="input"),
    Case("a comment", [body(b"/* */" + _JSON)]),
    Case("a trailing comma", [body(_JSON[:-1] + b",}")]),
    Case("a field twice", [body(_JSON[:-1] + b',"id":"1","id":"2"}')]),
    Case("deep nesting", [body(b"[" * 5000 + b"]" * 5000)]),
    Case(
        "deep data",
        [
            infer(
                json.loads(b'{"name":"x","shape":[1,1],"datatype":"FP32","data":' + b"[" * 60 + b"1" + b"]" * 60 + b"}")
            )
        ],
    ),
    Case("NaN in JSON", [body(_JSON.replace(b"[1, 2]}", b"[NaN, 2]}"))]),
    Case("Infinity in JSON", [body(_JSON.replace(b"[1, 2]}", b"[Infinity, -Infinity]}"))]),
]

FIELDS = [
    Case("inputs missing", [post(_INFER, {"id": "1"})], about="input"),
    Case("inputs empty", [post(_INFER, {"inputs": []})], about="input"),
    Case("inputs null", [post(_INFER, {"inputs": None})], about="input"),
    Case("inputs an object", [post(_INFER, {"inputs": tensor()})]),
    Case("an input a text", [infer("x")]),
    Case("an input null", [infer(None)]),
    *(
        Case(f"input without {field}", [infer(without(field))], about=field)
        for field in ("name", "datatype", "shape", "data")
    ),
    Case("name a number", [infer(tensor(name=1))]),
    Case("name wrong", [infer(tensor(name="q"))], about="q|input"),
    Case("name empty", [infer(tensor(name=""))]),
    Case("an input too many", [infer(tensor(), tensor(name="q"))], about="input"),
    Case("an input missing", [infer(tensor(name="a"), model="pair")], about="input"),
    Case("an input twice", [infer(tensor(), tensor())]),
    Case("datatype wrong", [infer(tensor(datatype="INT32"))], about="INT32|data.?type"),
    Case("datatype unknown", [infer(tensor(datatype="FP8"))], about="type"),
    Case("datatype in small letters", [infer(tensor(datatype="fp32"))], about="type"),
    Case("datatype a number", [infer(tensor(datatype=32))]),
    Case("datatype BYTES for numbers", [infer(tensor(["1", "2"], datatype="BYTES"))]),
    Case("rank too small", [infer(tensor(shape=[2]))], about="shape|dim|batch|fit"),
    Case("rank too large", [infer(tensor(shape=[1, 1, 2]))], about="shape|dim|fit"),
    Case("shape wrong", [infer(tensor(data=[1, 2], shape=[1, 2]), model="slow")], about="shape|fit"),
    Case("shape a number", [infer(tensor(shape=2))]),
    Case("shape a text", [infer(tensor(shape="12"))]),
    Case("shape empty, two elements", [infer(tensor(shape=[]))]),
    Case("shape of texts", [infer(tensor(shape=["1", "2"]))]),
    Case("shape of fractions", [infer(tensor(shape=[1.5, 2]))]),
    Case("shape of whole fractions", [infer(tensor(shape=[1.0, 2.0]))]),
    Case("shape of truth values", [infer(tensor(shape=[True, 2]))]),
    Case("shape negative", [infer(tensor(shape=[-1, 2]))], about="shape|negative|elements"),
    Case("shape negative twice", [infer(tensor(shape=[-1, -2]))], about="shape|negative|elements"),
    Case("shape huge", [infer(tensor(shape=[1, 2**40]))], about="shape|elements|size"),
    Case("shape beyond 64 bits", [infer(tensor(shape=[1, 2**70]))]),
    Case("shape whose product overflows", [infer(tensor(data=[], shape=[4, 2**62]))]),
    Case("shape whose product overflows, binary", [binary(b"", sized(0, [4, 2**62]))]),
    Case("shape of nothing and too much", [infer(tensor(data=[], shape=[0, 2**63]))]),
    Case("shape of nothing and too much, binary", [binary(b"", sized(0, [0, 2**62, 2**62]))]),
    Case("shape of 40 axes", [infer(tensor([1], [1] * 40))]),
    Case("shape of 10000 axes", [infer(tensor([1], [1] * 10_000))]),
    Case("batch above the most", [infer(tensor([1] * 9, (9, 1)))], about="batch"),
    Case(
        "batches that differ",
        [infer(tensor([1, 2], (1, 2), name="a"), tensor([1, 2, 3, 4], (2, 2), "INT64", "b"), model="pair")],
        about="batch",
    ),
]

DATA = [
    Case("too few elements", [infer(tensor([1]))], about="shape|elements|size"),
    Case("too many elements", [infer(tensor([1, 2, 3]))], about="shape|elements|size"),
    Case("no elements", [infer(tensor([]))], about="shape|elements|size"),
    Case("data null", [infer(tensor(None))]),
    Case("data an object", [infer(tensor({"a": 1}))]),
    Case("data a text", [infer(tensor("12"))]),
    Case("data a number", [infer(tensor(1, (1, 1)))]),
    Case("numbers as texts", [infer(tensor(["1", "2"]))]),
    Case("nulls for numbers", [infer(tensor([None, 2]))]),
    Case("truth values for FP32", [infer(tensor([True, False]))]),
    Case("truth values among numbers", [infer(tensor([True, 2]))]),
    Case("truth values for INT64", [infer(tensor([True, False], datatype="INT64"), model="identity_int64")]),
    Case("fractions for INT64", [infer(tensor([1.5, 2], datatype="INT64"), model="identity_int64")]),
    Case("whole fractions for INT64", [infer(tensor([1.0, 2.0], datatype="INT64"), model="identity_int64")]),
    Case("beyond INT64", [infer(tensor([2**63, 0], datatype="INT64"), model="identity_int64")]),
    Case("beyond 64 bits", [infer(tensor([2**64, 0], datatype="INT64"), model="identity_int64")]),
    Case("beyond UINT8", [infer(tensor([256, 0], datatype="UINT8"), model="identity_uint8")]),
    Case("below UINT8", [infer(tensor([-1, 0], datatype="UINT8"), model="identity_uint8")]),
    Case("numbers for BOOL", [infer(tensor([1, 0], datatype="BOOL"), model="identity_bool")]),
    Case("2 for BOOL", [infer(tensor([2, 0], datatype="BOOL"), model="identity_bool")]),
    Case("texts for BOOL", [infer(tensor(["true", "false"], datatype="BOOL"), model="identity_bool")]),
]

_SHORT = struct.pack("<I", 5) + b"abc"
BINARY = [
    Case("binary too short", [binary(TWO[:4], sized(4))], about="byte|size"),
    Case("binary too long", [binary(TWO * 2, sized(16))], about="byte|size"),
    Case("binary beyond the body", [binary(TWO, sized(16))], about="size|bytes"),
    Case("binary with a tail", [binary(TWO + b"tail", sized(8))]),
    Case("binary size negative", [binary(TWO, sized(-8))], about="size|unsigned"),
    Case("binary size a text", [binary(TWO, sized("8"))], about="size|unsigned"),
    Case("binary size a fraction", [binary(TWO, sized(8.0))]),
    Case("binary size huge", [binary(TWO, sized(2**63))]),
    Case("binary size beyond 64 bits", [binary(TWO, sized(2**70))]),
    Case("binary size null", [binary(TWO, sized(None))]),
    Case("binary size 0", [binary(b"", sized(0))]),
    Case("binary size and data", [binary(TWO, {**sized(8), "data": [3, 4]})]),
    Case("binary size without the header", [infer(sized(8))]),
    Case("binary bytes without a size", [binary(TWO, tensor())]),
    Case("BYTES, a length beyond the element", [binary(_SHORT, sized(7, (1, 1), "BYTES"), model="identity_bytes")]),
    Case("BYTES, within a length", [binary(b"\x01\x00", sized(2, (1, 1), "BYTES"), model="identity_bytes")]),
    Case("BYTES, too few", [binary(texts(b"a"), sized(5, (1, 2), "BYTES"), model="identity_bytes")]),
    Case("BYTES, too many", [binary(texts(b"a", b"b"), sized(10, (1, 1), "BYTES"), model="identity_bytes")]),
    *(
        Case(f"header length {length!r}", [binary(TWO, sized(8), length=length)])
        for length in ("-1", "999999", "10", "abc", "", "1.5", " 5", "+5", "0x10", "9" * 30)
    ),
    Case("header length the body's, no binary", [infer(headers={"Inference-Header-Content-Length": str(len(_JSON))})]),
    Case(
        "shared memory input",
        [
            infer(
                {
                    "name": "x",
                    "shape": [1, 2],
                    "datatype": "FP32",
                    "parameters": {"shared_memory_region": "nothing", "shared_memory_byte_size": 8},
                }
            )
        ],
    ),
    Case("shared memory output", [infer(outputs=[asked(shared_memory_region="nothing", shared_memory_byte_size=8)])]),
    Case("empty BYTES for an image", [binary(texts(b""), sized(4, (1,), "BYTES", "input"), model="cnn")]),
]

OUTPUTS = [
    Case("output unknown", [infer(outputs=[asked("q")])], about="q|output"),
    Case("outputs an object", [infer(outputs={"name": "y"})]),
    Case("an output a text", [infer(outputs=["y"])]),
    Case("an output without name", [infer(outputs=[{}])], about="name"),
    Case("binary_data a number", [infer(outputs=[asked(binary_data=1)])]),
    Case("binary_data_output a text", [infer(parameters={"binary_data_output": "true"})]),
    Case("output parameters a list", [infer(outputs=[{"name": "y", "parameters": []}])]),
    Case("parameters a list", [infer(parameters=[])]),
    Case("input parameters a list", [infer({**tensor(), "parameters": []})]),
    Case("id a number", [infer(id=7)]),
    Case("id a list", [infer(id=[])]),
]


def wire(head: str, content: bytes = b"", replies: int = 1) -> Request:
    return Request(wire="\r\n".join([*head.split("\n"), "", ""]).encode("latin-1") + content, replies=replies)


_POST = f"POST {_INFER} HTTP/1.1\nHost: localhost"
_CHUNKED = f"{_POST}\nTransfer-Encoding: chunked"
_HALF = len(_JSON) // 2
_CHUNKS = b"%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (_HALF, _JSON[:_HALF], len(_JSON) - _HALF, _JSON[_HALF:])
_LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
_SIZED = f"{_POST}\nContent-Length: {len(_JSON)}"
HTTP = [
    Case("chunked", [wire(_CHUNKED, _CHUNKS)]),
    Case("chunked, malformed", [wire(_CHUNKED, b"zz\r\n{}\r\n0\r\n\r\n")]),
    Case("chunked, a trailer", [wire(_CHUNKED, _CHUNKS[:-2] + b"Trailing: 1\r\n\r\n")]),
    Case("chunked and a length", [wire(f"{_SIZED}\nTransfer-Encoding: chunked", _CHUNKS)]),
    Case("Expect: 100-continue", [wire(f"{_SIZED}\nExpect: 100-continue", _JSON)]),
    Case("Expect something else", [wire(f"{_SIZED}\nExpect: nothing", _JSON)]),
    Case("pipelined", [Request(wire=_LIVE + wire(_SIZED, _JSON).bytes() + _LIVE, replies=3)]),
    Case("pipelined, the first refused", [Request(wire=infer(tensor(name="q")).bytes() + _LIVE, replies=2)]),
    Case("HTTP/1.0", [wire("GET /v2/health/live HTTP/1.0")]),
    Case("HTTP/1.0 infer", [wire(f"POST {_INFER} HTTP/1.0\nContent-Length: {len(_JSON)}", _JSON)]),
    Case("HTTP/2.0 by name", [wire("GET /v2/health/live HTTP/2.0\nHost: localhost")]),
    Case("no Host", [wire("GET /v2/health/live HTTP/1.1")]),
    Case("a full address", [wire("GET http://localhost/v2/health/live HTTP/1.1\nHost: localhost")]),
    Case("Connection: close", [wire("GET /v2/health/live HTTP/1.1\nHost: localhost\nConnection: close")]),
    Case("Content-Length twice, alike", [wire(f"{_SIZED}\nContent-Length: {len(_JSON)}", _JSON)]),
    Case("Content-Length twice, unlike", [wire(f"{_SIZED}\nContent-Length: 1", _JSON)]),
    Case("Content-Length negative", [wire(f"{_POST}\nContent-Length: -1")]),
    Case("Content-Length no number", [wire(f"{_POST}\nContent-Length: abc")]),
    Case("no length and no body", [wire(_POST)]),
    Case("no request at all", [Request(wire=b"hello\r\n\r\n")]),
    Case("no verb", [wire("/v2/health/live HTTP/1.1")]),
    Case("a verb of our own", [wire("NOTHING /v2/health/live HTTP/1.1\nHost: localhost")]),
    Case("TLS", [Request(wire=bytes.fromhex("16030100a5010000a10303") + bytes(100))]),
    Case("a header without a colon", [wire("GET /v2/health/live HTTP/1.1\nHost: localhost\nnothing")]),
    Case("a folded header", [wire("GET /v2/health/live HTTP/1.1\nHost: localhost\nA: b\n c")]),
    Case("bare line feeds", [Request(wire=b"GET /v2/health/live HTTP/1.1\nHost: localhost\n\n")]),
    Case("an empty line first", [Request(wire=b"\r\n" + _LIVE)]),
    Case("a body with GET", [Request("GET", "/v2/health/live", b"hello")]),
    Case("a header in Latin-1", [wire("GET /v2/health/live HTTP/1.1\nHost: localhost\nA: \xe9")]),
]


def slow(seconds: float, **parameters: object) -> Request:
    return infer(tensor([seconds], (1, 1)), model="slow", parameters=parameters)


QUEUE = [
    Case(
        "queue full", [slow(1.5), slow(0.01), slow(0.02), slow(0.03)], stagger=0.2, about="Exceeds maximum queue size$"
    ),
    Case("timeout", [slow(1.5), slow(0.01, timeout=100_000)], stagger=0.2, about="Request timeout expired$"),
    Case("timeout, order of the replies", [slow(1.5), slow(0.01, timeout=100_000)], stagger=0.2, ordered=True),
    Case("the next is answered", [slow(0.01), get("/v2/models/slow/ready")]),
]
CASES = [*BODIES, *FIELDS, *DATA, *BINARY, *OUTPUTS, *HTTP, *QUEUE]
