"""Inference that the protocol allows, plain and odd."""

from __future__ import annotations

import gzip
import struct
import zlib

import numpy as np

from conformance.models import image
from conformance.requests import Case, Request, asked, binary, infer, sized, tensor

TWO = np.array([[1, 2]], "<f4").tobytes()
_PAIR = [tensor([1.5, 2.5], name="a"), tensor([3, 4], datatype="INT64", name="b")]
_PAIR_BYTES = np.array([1.5, 2.5], "<f4").tobytes() + np.array([3, 4], "<i8").tobytes()
_PAIR_SIZED = [sized(8, name="a"), sized(16, datatype="INT64", name="b")]
_TEXTS = ["a", "", "é", "line\nbreak", '"quoted"', "a\x00b"]


def texts(*items: bytes) -> bytes:
    """BYTES as they follow the JSON: each with its length in front."""
    return b"".join(struct.pack("<I", len(item)) + item for item in items)


def typed(datatype: str, data: list[object], raw: bytes, model: str) -> list[Case]:
    """Each of JSON and binary, in and out."""
    shape = [1, len(data)]
    plain, behind = tensor(data, shape, datatype), sized(len(raw), shape, datatype)
    return [
        Case(f"{datatype}, JSON in, JSON out", [infer(plain, model=model)]),
        Case(f"{datatype}, JSON in, binary out", [infer(plain, model=model, outputs=[asked(binary_data=True)])]),
        Case(f"{datatype}, binary in, JSON out", [binary(raw, behind, model=model)]),
        Case(
            f"{datatype}, binary in, binary out", [binary(raw, behind, model=model, outputs=[asked(binary_data=True)])]
        ),
    ]


TYPES = [
    *typed("FP32", [1.5, -2.25, 1e30, 1e-40], np.array([1.5, -2.25, 1e30, 1e-40], "<f4").tobytes(), "identity_fp32"),
    *typed("FP16", [1.5, -2.25], np.array([1.5, -2.25], "<f2").tobytes(), "identity_fp16"),
    *typed("INT64", [2**53 + 1, -(2**63)], np.array([2**53 + 1, -(2**63)], "<i8").tobytes(), "identity_int64"),
    *typed("UINT8", [0, 255], bytes([0, 255]), "identity_uint8"),
    *typed("BOOL", [True, False], bytes([1, 0]), "identity_bool"),
    *typed("BYTES", _TEXTS, texts(*(text.encode() for text in _TEXTS)), "identity_bytes"),
    Case(
        "BYTES that are no text, JSON out",
        [binary(texts(b"\xff\xfe"), sized(6, (1, 1), "BYTES"), model="identity_bytes")],
    ),
    Case(
        "BYTES that are no text, binary out",
        [
            binary(
                texts(b"\xff\xfe"), sized(6, (1, 1), "BYTES"), model="identity_bytes", outputs=[asked(binary_data=True)]
            )
        ],
    ),
    Case(
        "BYTES from numbers in JSON",
        [infer(tensor([1, 2], datatype="BYTES"), model="identity_bytes")],
        about="string|text",
    ),
    Case("BOOL bytes other than 0 and 1", [binary(bytes([2, 255]), sized(2, (1, 2), "BOOL"), model="identity_bool")]),
    Case(
        "FP32 NaN and infinity, binary both ways",
        [
            binary(
                np.array([[np.nan, np.inf, -np.inf]], "<f4").tobytes(),
                sized(12, (1, 3)),
                outputs=[asked(binary_data=True)],
            )
        ],
    ),
    Case(
        "FP32 NaN and infinity, JSON out",
        [binary(np.array([[np.nan, np.inf, -np.inf]], "<f4").tobytes(), sized(12, (1, 3)))],
    ),
    Case("FP32 too large for it in JSON", [infer(tensor([1e300, 1]))]),
    Case("FP16 too large for it in JSON", [infer(tensor([1e30, 1], datatype="FP16"), model="identity_fp16")]),
    Case("FP32 from whole numbers", [infer(tensor([1, 2]))]),
    Case("FP32 from a number of 300 digits", [infer(tensor([int("1" * 300), 1]))]),
    Case("FP32 rounded as the nearest", [infer(tensor([0.1, 16777217]))]),
]

SHAPES = [
    Case("nested rows", [infer(tensor([[1, 2], [3, 4]], (2, 2)))]),
    Case("nested otherwise than the shape", [infer(tensor([[1, 2, 3, 4]], (2, 2)))]),
    Case("nested deeper than the shape", [infer(tensor([[[1], [2]]], (1, 2)))]),
    Case("ragged nesting of the right count", [infer(tensor([[1, 2, 3], [4]], (2, 2)))]),
    Case("no rows", [infer(tensor([], (0, 2)))]),
    Case("no rows, binary", [binary(b"", sized(0, (0, 2)))]),
    Case("rows of nothing", [infer(tensor([], (2, 0)))]),
    Case("rows of nothing, binary", [binary(b"", sized(0, (2, 0)), outputs=[asked(binary_data=True)])]),
    Case("BYTES, no rows", [infer(tensor([], (0, 1), "BYTES"), model="identity_bytes")]),
    Case("a scalar", [infer(tensor([1], ()))], about="shape|dim|fit"),
    Case("a scalar, data no list", [infer(tensor(1, ()))]),
    Case("the largest batch", [infer(tensor(list(range(8)), (8, 1)))]),
    Case(
        "a big tensor, binary",
        [
            binary(
                np.arange(2_000_000, dtype="<f4").tobytes(),
                sized(8_000_000, (1, 2_000_000)),
                outputs=[asked(binary_data=True)],
            )
        ],
    ),
    Case("a big tensor, JSON", [infer(tensor(list(range(50_000)), (1, 50_000)))]),
]

OUTPUTS = [
    Case("two inputs", [infer(*_PAIR, model="pair")]),
    Case("two inputs, the other order", [infer(*_PAIR[::-1], model="pair")]),
    Case(
        "two inputs, binary",
        [
            binary(
                _PAIR_BYTES,
                *_PAIR_SIZED,
                model="pair",
                outputs=[asked("c", binary_data=True), asked("d", binary_data=True)],
            )
        ],
    ),
    Case("two inputs, one binary", [binary(_PAIR_BYTES[:8], _PAIR_SIZED[0], _PAIR[1], model="pair")]),
    Case("two inputs, the second binary", [binary(_PAIR_BYTES[8:], _PAIR[0], _PAIR_SIZED[1], model="pair")]),
    Case("one of two outputs", [infer(*_PAIR, model="pair", outputs=[asked("d")])]),
    Case("outputs in the other order", [infer(*_PAIR, model="pair", outputs=[asked("d"), asked("c")])]),
    Case(
        "outputs in the other order, binary",
        [infer(*_PAIR, model="pair", outputs=[asked("d", binary_data=True), asked("c", binary_data=True)])],
    ),
    Case("one output binary", [infer(*_PAIR, model="pair", outputs=[asked("c", binary_data=True), asked("d")])]),
    Case("an output twice", [infer(*_PAIR, model="pair", outputs=[asked("c"), asked("c")])]),
    Case("outputs empty", [infer(outputs=[])]),
    Case("outputs null", [infer(outputs=None)]),
    Case("all outputs binary", [infer(*_PAIR, model="pair", parameters={"binary_data_output": True})]),
    Case(
        "all outputs binary but one",
        [
            infer(
                *_PAIR,
                model="pair",
                outputs=[asked("c", binary_data=False), asked("d")],
                parameters={"binary_data_output": True},
            )
        ],
    ),
    Case("all outputs binary is false", [infer(*_PAIR, model="pair", parameters={"binary_data_output": False})]),
    Case("output parameters empty", [infer(outputs=[{"name": "y", "parameters": {}}])]),
    Case("output parameter unknown", [infer(outputs=[asked(nothing=1)])]),
]

PARAMETERS = [
    Case("id", [infer(id="7")]),
    Case("id empty", [infer(id="")]),
    Case("id long", [infer(id="x" * 1000)]),
    Case("id with escapes", [infer(id='é"\\\n')]),
    Case("id null", [infer(id=None)]),
    Case("id, binary", [binary(TWO, sized(8), id="7", outputs=[asked(binary_data=True)])]),
    Case("parameter unknown", [infer(parameters={"a": 1, "b": "text", "c": True, "d": 1.5})]),
    Case("parameter null", [infer(parameters={"a": None})]),
    Case("parameter an object", [infer(parameters={"a": {}})]),
    Case("parameters null", [infer(parameters=None)]),
    Case("parameters empty", [infer(parameters={})]),
    Case("parameters reserved for Triton", [infer(parameters={"triton_a": 1})]),
    Case("input parameters unknown", [infer({**tensor(), "parameters": {"nothing": 1}})]),
    Case("priority 1", [infer(parameters={"priority": 1})]),
    Case("priority 99", [infer(parameters={"priority": 99})]),
    Case("priority negative", [infer(parameters={"priority": -1})], about="priority|unsigned"),
    Case("priority a text", [infer(parameters={"priority": "high"})], about="priority|unsigned"),
    Case("timeout generous", [infer(parameters={"timeout": 60_000_000})]),
    Case("timeout 0", [infer(parameters={"timeout": 0})]),
    Case("timeout negative", [infer(parameters={"timeout": -1})], about="timeout|unsigned"),
    Case("timeout a text", [infer(parameters={"timeout": "1"})], about="timeout|unsigned"),
    Case("sequence", [infer(parameters={"sequence_id": 7, "sequence_start": True, "sequence_end": True})]),
    Case("sequence id a text", [infer(parameters={"sequence_id": "seven", "sequence_start": True})]),
    Case("sequence id negative", [infer(parameters={"sequence_id": -7})]),
    Case("field unknown", [infer(nothing=1)]),
    Case("input field unknown", [infer({**tensor(), "nothing": 1})]),
    Case("version 1", [infer(path="/v2/models/identity_fp32/versions/1/infer")]),
    Case("version 01", [infer(path="/v2/models/identity_fp32/versions/01/infer")]),
    Case("version 2", [infer(path="/v2/models/identity_fp32/versions/2/infer")], about="version|not found"),
    Case("version 0", [infer(path="/v2/models/identity_fp32/versions/0/infer")], about="version|not found"),
    Case("version -1", [infer(path="/v2/models/identity_fp32/versions/-1/infer")]),
    Case("version empty", [infer(path="/v2/models/identity_fp32/versions//infer")]),
    Case("version abc", [infer(path="/v2/models/identity_fp32/versions/abc/infer")], about="version"),
    Case("version huge", [infer(path="/v2/models/identity_fp32/versions/99999999999999999999/infer")], about="version"),
    Case("unknown model", [infer(model="nothing")], about="^Request for unknown model: 'nothing' is not found$"),
]

_SCORES = tensor([0.5, 2, -1, 2, 0.25, 3], (2, 3))
CLASSES = [
    Case("classes, two rows", [infer(_SCORES, outputs=[asked(classification=2)])]),
    Case("classes, binary", [infer(_SCORES, outputs=[asked(classification=2, binary_data=True)])]),
    Case("classes, as many as there are", [infer(_SCORES, outputs=[asked(classification=3)])]),
    Case("classes, more than there are", [infer(_SCORES, outputs=[asked(classification=9)])]),
    Case("classes, ties", [infer(tensor([1, 1, 0, 1], (1, 4)), outputs=[asked(classification=3)])]),
    Case("classes, many ties", [infer(tensor([1] * 20, (1, 20)), outputs=[asked(classification=5)])]),
    Case("classes 0", [infer(_SCORES, outputs=[asked(classification=0)])]),
    Case("classes negative", [infer(_SCORES, outputs=[asked(classification=-1)])], about="classification|unsigned"),
    Case("classes a text", [infer(_SCORES, outputs=[asked(classification="2")])], about="classification|unsigned"),
    Case(
        "classes of whole numbers",
        [infer(tensor([5, 9, 2], (1, 3), "INT64"), model="identity_int64", outputs=[asked(classification=2)])],
    ),
    Case(
        "classes of FP16",
        [infer(tensor([5, 9, 2], (1, 3), "FP16"), model="identity_fp16", outputs=[asked(classification=2)])],
    ),
    Case(
        "classes of BOOL",
        [infer(tensor([True, False], (1, 2), "BOOL"), model="identity_bool", outputs=[asked(classification=1)])],
    ),
    Case(
        "classes of BYTES",
        [infer(tensor(["a", "b"], (1, 2), "BYTES"), model="identity_bytes", outputs=[asked(classification=1)])],
    ),
    Case(
        "classes of NaN",
        [binary(np.array([[np.nan, 1, 2]], "<f4").tobytes(), sized(12, (1, 3)), outputs=[asked(classification=2)])],
    ),
    Case(
        "classes of large scores",
        [infer(tensor([1e10, 0.000001, 123456.789], (1, 3)), outputs=[asked(classification=3)])],
    ),
    Case(
        "classes with labels",
        [
            binary(
                image(2).tobytes(),
                sized(image(2).nbytes, (2, 3, 16, 16), name="input"),
                model="cnn",
                outputs=[asked("logits", classification=3)],
            )
        ],
    ),
]

CNN = [
    Case("cnn, one row", [binary(image().tobytes(), sized(image().nbytes, (1, 3, 16, 16), name="input"), model="cnn")]),
    Case("cnn, JSON", [infer(tensor(image(2).ravel().tolist(), (2, 3, 16, 16), name="input"), model="cnn")]),
    Case(
        "cnn, binary out",
        [
            binary(
                image(8).tobytes(),
                sized(image(8).nbytes, (8, 3, 16, 16), name="input"),
                model="cnn",
                outputs=[asked("logits", binary_data=True)],
            )
        ],
    ),
    Case(
        "cnn, raw body",
        [
            Request(
                path="/v2/models/cnn/infer", body=image().tobytes(), headers={"Inference-Header-Content-Length": "0"}
            )
        ],
    ),
    Case("raw body, open size", [Request(body=TWO, headers={"Inference-Header-Content-Length": "0"})]),
    Case(
        "raw body, two inputs",
        [Request(path="/v2/models/pair/infer", body=TWO, headers={"Inference-Header-Content-Length": "0"})],
    ),
    Case(
        "raw body, BYTES",
        [
            Request(
                path="/v2/models/identity_bytes/infer",
                body=texts(b"abc"),
                headers={"Inference-Header-Content-Length": "0"},
            )
        ],
    ),
    Case(
        "raw body, wrong size",
        [Request(path="/v2/models/cnn/infer", body=TWO, headers={"Inference-Header-Content-Length": "0"})],
    ),
]

_JSON = infer(tensor()).body or b""
_BINARY = binary(TWO, sized(8), outputs=[asked(binary_data=True)])
_HEADER = dict(_BINARY.headers)
_BEHIND = _BINARY.body or b""


def encoded(body: bytes, encoding: str, **headers: str) -> Request:
    return Request(body=body, headers={"Content-Encoding": encoding, **headers})


ENCODINGS = [
    Case("gzip", [encoded(gzip.compress(_JSON, mtime=0), "gzip")]),
    Case("deflate", [encoded(zlib.compress(_JSON), "deflate")]),
    Case("deflate without zlib's head", [encoded(zlib.compress(_JSON, wbits=-15), "deflate")]),
    Case("identity", [encoded(_JSON, "identity")]),
    Case("Content-Encoding empty", [encoded(_JSON, "")]),
    Case("Content-Encoding in capitals", [encoded(gzip.compress(_JSON, mtime=0), "GZIP")]),
    Case(
        "gzip, binary", [Request(body=gzip.compress(_BEHIND, mtime=0), headers={**_HEADER, "Content-Encoding": "gzip"})]
    ),
    Case("deflate, binary", [Request(body=zlib.compress(_BEHIND), headers={**_HEADER, "Content-Encoding": "deflate"})]),
    Case(
        "gzip in two members",
        [encoded(gzip.compress(_JSON[:20], mtime=0) + gzip.compress(_JSON[20:], mtime=0), "gzip")],
    ),
    Case("br", [encoded(_JSON, "br")]),
    Case("two encodings", [encoded(_JSON, "gzip, deflate")]),
    Case("gzip corrupt", [encoded(b"1234", "gzip")]),
    Case("gzip cut off", [encoded(gzip.compress(_JSON, mtime=0)[:-9], "gzip")]),
    Case("gzip with a wrong checksum", [encoded(gzip.compress(_JSON, mtime=0)[:-8] + bytes(8), "gzip")]),
    Case("gzip with a tail", [encoded(gzip.compress(_JSON, mtime=0) + b"tail", "gzip")]),
    Case("gzip empty", [encoded(b"", "gzip")]),
    Case("deflate corrupt", [encoded(b"1234", "deflate")]),
    *(
        Case(f"Accept-Encoding {accepted}", [infer(headers={"Accept-Encoding": accepted})])
        for accepted in ("gzip", "deflate", "gzip, deflate, br", "br", "identity", "*", "gzip;q=0", "nothing", "")
    ),
    Case("Accept-Encoding gzip, binary out", [Request(body=_BEHIND, headers={**_HEADER, "Accept-Encoding": "gzip"})]),
    Case("Accept-Encoding gzip, an error", [infer(tensor(name="q"), headers={"Accept-Encoding": "gzip"})]),
]
_TYPES = ("application/json", "application/octet-stream", "text/plain", "nothing", "application/json; charset=utf-16")
CONTENT_TYPES = [Case(f"Content-Type {kind}", [infer(headers={"Content-Type": kind})]) for kind in _TYPES]
CASES = [*TYPES, *SHAPES, *OUTPUTS, *PARAMETERS, *CLASSES, *CNN, *ENCODINGS, *CONTENT_TYPES]
