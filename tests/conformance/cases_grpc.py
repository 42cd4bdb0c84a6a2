"""gRPC: messages as the protocol allows and forbids them, and Triton's clients calling both protocols."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from conformance.cases_infer import TWO, texts
from conformance.models import image


@dataclass(frozen=True)
class GrpcCase:
    """One call of ``method`` with a message of these fields (several for a stream), or with ``wire`` as it is.

    Attributes:
        about: as of :class:`~conformance.requests.Case`.
        fields: of the reply, the only ones compared (dotted); None compares all.
        stagger: seconds between the messages, each a call of its own that does not wait for the others.
        timeout: the deadline in seconds. ``cancel``: seconds after which the client takes the call back.
    """

    name: str
    method: str = "ModelInfer"
    messages: Sequence[Mapping[str, Any]] = ({},)
    about: str | None = None
    fields: Sequence[str] | None = None
    wire: bytes | None = None
    timeout: float = 10.0
    cancel: float | None = None
    stagger: float | None = None


FP32, X = "identity_fp32", {"name": "x", "datatype": "FP32", "shape": [1, 2]}
_TYPED = {**X, "contents": {"fp32_contents": [1, 2]}}


def infer(
    *inputs: Mapping[str, Any], raw: Sequence[bytes] = (), model: str = FP32, **rest: Any
) -> list[dict[str, Any]]:
    return [{"model_name": model, "inputs": inputs or [X], "raw_input_contents": raw, **rest}]


def of(name: str, model: str, version: str = "") -> list[dict[str, Any]]:
    return [{"name" if name != "infer" else "model_name": model, "version": version}]


def held(datatype: str, field: str, values: Sequence[Any], model: str) -> list[dict[str, Any]]:
    """One input with its data in one of the typed fields."""
    return infer(
        {"name": "x", "datatype": datatype, "shape": [1, len(values)], "contents": {field: values}}, model=model
    )


SERVER = [
    GrpcCase("gRPC live", "ServerLive"),
    GrpcCase("gRPC ready", "ServerReady"),
    GrpcCase("gRPC model ready", "ModelReady", of("", FP32)),
    GrpcCase("gRPC model ready, version 2", "ModelReady", of("", FP32, "2")),
    GrpcCase("gRPC model ready, version abc", "ModelReady", of("", FP32, "abc"), "version"),
    GrpcCase("gRPC model ready, unknown", "ModelReady", of("", "nothing")),
    GrpcCase("gRPC server metadata", "ServerMetadata", fields=["name", "version", "extensions"]),
    GrpcCase("gRPC metadata", "ModelMetadata", of("", FP32)),
    GrpcCase("gRPC metadata, unknown", "ModelMetadata", of("", "nothing"), "unknown model: 'nothing' is not found$"),
    GrpcCase("gRPC metadata, version 2", "ModelMetadata", of("", FP32, "2"), "version|not found"),
    GrpcCase("gRPC metadata, version abc", "ModelMetadata", of("", FP32, "abc"), "version"),
    GrpcCase(
        "gRPC config",
        "ModelConfig",
        of("", "cnn"),
        fields=["config.name", "config.max_batch_size", "config.input", "config.output[].name", "config.output[].dims"],
    ),
    GrpcCase("gRPC config, unknown", "ModelConfig", of("", "nothing"), "unknown model|not found"),
    GrpcCase(
        "gRPC statistics", "ModelStatistics", of("", "cnn"), fields=["model_stats[].name", "model_stats[].version"]
    ),
    GrpcCase("gRPC statistics, unknown", "ModelStatistics", of("", "nothing"), "nothing"),
    GrpcCase("gRPC index", "RepositoryIndex"),
    GrpcCase("gRPC load, unknown", "RepositoryModelLoad", [{"model_name": "nothing"}], "nothing"),
    GrpcCase("gRPC unload, unknown", "RepositoryModelUnload", [{"model_name": "nothing"}], "nothing"),
    GrpcCase("gRPC shared memory status", "SystemSharedMemoryStatus"),
    GrpcCase("gRPC CUDA shared memory status", "CudaSharedMemoryStatus"),
    GrpcCase("gRPC trace setting", "TraceSetting", fields=[]),
    GrpcCase("gRPC log settings", "LogSettings", fields=[]),
    GrpcCase("gRPC method unknown", "Nothing", wire=b""),
    GrpcCase("gRPC message malformed", wire=b"\xff\xff\xff"),
    GrpcCase("gRPC message empty", wire=b""),
]

INFER = [
    GrpcCase("gRPC raw contents", messages=infer(raw=[TWO])),
    GrpcCase("gRPC typed contents", messages=infer(_TYPED)),
    GrpcCase("gRPC typed INT64", messages=held("INT64", "int64_contents", [2**53 + 1, -1], "identity_int64")),
    GrpcCase("gRPC typed UINT8", messages=held("UINT8", "uint_contents", [0, 255], "identity_uint8")),
    GrpcCase("gRPC typed UINT8, 256", messages=held("UINT8", "uint_contents", [0, 256], "identity_uint8")),
    GrpcCase("gRPC typed BOOL", messages=held("BOOL", "bool_contents", [True, False], "identity_bool")),
    GrpcCase("gRPC typed BYTES", messages=held("BYTES", "bytes_contents", [b"a", b"\xff"], "identity_bytes")),
    GrpcCase("gRPC typed FP16", messages=held("FP16", "fp32_contents", [1, 2], "identity_fp16")),
    GrpcCase("gRPC typed in another field", messages=held("FP32", "int_contents", [1, 2], FP32)),
    GrpcCase(
        "gRPC typed in two fields", messages=infer({**X, "contents": {"fp32_contents": [1, 2], "int_contents": [1, 2]}})
    ),
    GrpcCase(
        "gRPC typed, too few", messages=infer({**X, "contents": {"fp32_contents": [1]}}), about="size|shape|elements"
    ),
    GrpcCase("gRPC raw and typed at once", messages=infer(_TYPED, raw=[TWO]), about="contents|raw"),
    GrpcCase("gRPC no contents", messages=infer(X)),
    GrpcCase("gRPC raw contents, one too many", messages=infer(raw=[TWO, TWO])),
    GrpcCase("gRPC raw contents, wrong size", messages=infer(raw=[TWO[:4]]), about="size|bytes"),
    GrpcCase(
        "gRPC raw BYTES",
        messages=infer(
            {"name": "x", "datatype": "BYTES", "shape": [1, 2]}, raw=[texts(b"a", b"\xff")], model="identity_bytes"
        ),
    ),
    GrpcCase(
        "gRPC raw FP16",
        messages=infer(
            {"name": "x", "datatype": "FP16", "shape": [1, 2]}, raw=[np.ones(2, "<f2").tobytes()], model="identity_fp16"
        ),
    ),
    GrpcCase("gRPC id", messages=infer(raw=[TWO], id="7")),
    GrpcCase("gRPC version 1", messages=infer(raw=[TWO], model_version="1")),
    GrpcCase("gRPC version 2", messages=infer(raw=[TWO], model_version="2"), about="version|not found"),
    GrpcCase("gRPC version abc", messages=infer(raw=[TWO], model_version="abc"), about="version"),
    GrpcCase(
        "gRPC unknown model", messages=infer(raw=[TWO], model="nothing"), about="unknown model: 'nothing' is not found$"
    ),
    GrpcCase("gRPC name wrong", messages=infer({**X, "name": "q"}, raw=[TWO]), about="input"),
    GrpcCase("gRPC datatype wrong", messages=infer({**X, "datatype": "INT32"}, raw=[TWO]), about="INT32|int32|type"),
    GrpcCase("gRPC datatype unknown", messages=infer({**X, "datatype": "FP8"}, raw=[TWO]), about="type|FP8"),
    GrpcCase("gRPC rank wrong", messages=infer({**X, "shape": [2]}, raw=[TWO]), about="shape|batch|fit"),
    GrpcCase(
        "gRPC shape negative", messages=infer({**X, "shape": [-1, 2]}, raw=[TWO]), about="shape|dim|negative|size"
    ),
    GrpcCase("gRPC shape of 100 axes", messages=infer({**X, "shape": [1] * 100}, raw=[TWO[:4]])),
    GrpcCase("gRPC shape of nothing and too much", messages=infer({**X, "shape": [0, 2**62, 2**62]}, raw=[b""])),
    GrpcCase("gRPC shape of 10000 axes", messages=infer({**X, "shape": [1] * 10_000}, raw=[TWO]), about="shape|fit"),
    GrpcCase("gRPC name of 100000 characters", messages=infer({**X, "name": "q" * 100_000}, raw=[TWO]), about="q"),
    GrpcCase("gRPC batch above the most", messages=infer({**X, "shape": [9, 1]}, raw=[bytes(36)]), about="batch"),
    GrpcCase("gRPC input missing", messages=[{"model_name": "pair"}], about="input"),
    GrpcCase("gRPC input twice", messages=infer(X, X, raw=[TWO, TWO])),
    GrpcCase("gRPC no inputs", messages=[{"model_name": FP32}], about="input"),
    GrpcCase("gRPC output unknown", messages=infer(raw=[TWO], outputs=[{"name": "q"}]), about="output"),
    GrpcCase("gRPC output asked for", messages=infer(raw=[TWO], outputs=[{"name": "y"}])),
    GrpcCase(
        "gRPC classes",
        messages=infer(raw=[TWO], outputs=[{"name": "y", "parameters": {"classification": {"int64_param": 1}}}]),
    ),
    GrpcCase("gRPC priority", messages=infer(raw=[TWO], parameters={"priority": {"uint64_param": 1}})),
    GrpcCase(
        "gRPC timeout a text",
        messages=infer(raw=[TWO], parameters={"timeout": {"string_param": "1"}}),
        about="timeout|int64",
    ),
    GrpcCase("gRPC parameter unknown", messages=infer(raw=[TWO], parameters={"a": {"string_param": "b"}})),
    GrpcCase(
        "gRPC cnn",
        messages=infer(
            {"name": "input", "datatype": "FP32", "shape": [2, 3, 16, 16]}, raw=[image(2).tobytes()], model="cnn"
        ),
    ),
    GrpcCase(
        "gRPC big message",
        messages=infer({**X, "shape": [1, 2_000_000]}, raw=[np.arange(2_000_000, dtype="<f4").tobytes()]),
    ),
    GrpcCase(
        "gRPC deadline",
        messages=infer({**X, "shape": [1, 1]}, raw=[np.float32(0.6).tobytes()], model="slow"),
        timeout=0.2,
    ),
    GrpcCase(
        "gRPC cancel", messages=infer({**X, "shape": [1, 1]}, raw=[np.float32(0.6).tobytes()], model="slow"), cancel=0.2
    ),
    GrpcCase("gRPC afterwards", messages=infer({**X, "shape": [1, 1]}, raw=[np.float32(0.01).tobytes()], model="slow")),
]


def slow(seconds: float, **parameters: int) -> list[dict[str, Any]]:
    tensor = {**X, "shape": [1, 1]}
    told = {name: {"int64_param": value} for name, value in parameters.items()}
    return infer(tensor, raw=[np.float32(seconds).tobytes()], model="slow", parameters=told)


QUEUE = [
    GrpcCase(
        "gRPC queue full",
        messages=[*slow(1.5), *slow(0.01), *slow(0.01), *slow(0.01)],
        stagger=0.2,
        about="Exceeds maximum queue size$",
    ),
    GrpcCase(
        "gRPC timeout",
        messages=[*slow(1.5), *slow(0.01, timeout=100_000)],
        stagger=0.2,
        about="Request timeout expired$",
    ),
]

STREAM = [
    GrpcCase("gRPC stream", "ModelStreamInfer", infer(raw=[TWO], id="1") + infer(raw=[TWO], id="2")),
    GrpcCase(
        "gRPC stream, the first refused",
        "ModelStreamInfer",
        infer(raw=[TWO], model="nothing") + infer(raw=[TWO], id="2"),
    ),
    GrpcCase("gRPC stream, nothing", "ModelStreamInfer", []),
]


@dataclass(frozen=True)
class Call:
    """A method of Triton's clients, called on each kind of client. ``inputs`` are arrays by name."""

    name: str
    client: str
    method: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Any] | None = None
    outputs: Sequence[str] | None = None
    classes: int = 0
    fields: Sequence[str] | None = None


CLIENTS = ("http", "http.aio", "grpc", "grpc.aio")
_ROWS = {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}
_PAIR = {"a": np.ones((2, 3), np.float32), "b": np.arange(4).reshape(2, 2)}
_CALLS: dict[str, dict[str, Any]] = {
    "is live": {"method": "is_server_live"},
    "is ready": {"method": "is_server_ready"},
    "model is ready": {"method": "is_model_ready", "arguments": {"model_name": FP32}},
    "unknown model is ready": {"method": "is_model_ready", "arguments": {"model_name": "nothing"}},
    "metadata": {"method": "get_model_metadata", "arguments": {"model_name": FP32}},
    "metadata of an unknown model": {"method": "get_model_metadata", "arguments": {"model_name": "nothing"}},
    "infer": {"arguments": {"model_name": FP32, "request_id": "7"}, "inputs": _ROWS},
    "infer, two inputs": {"arguments": {"model_name": "pair"}, "inputs": _PAIR, "outputs": ["d", "c"]},
    "infer, texts": {
        "arguments": {"model_name": "identity_bytes"},
        "inputs": {"x": np.array([[b"a", b"\xff"]], object)},
    },
    "infer, BOOL": {"arguments": {"model_name": "identity_bool"}, "inputs": {"x": np.array([[True, False]])}},
    "infer, FP16": {"arguments": {"model_name": "identity_fp16"}, "inputs": {"x": np.ones((1, 2), np.float16)}},
    "infer, cnn": {"arguments": {"model_name": "cnn"}, "inputs": {"input": image(2)}},
    "infer, classes": {"arguments": {"model_name": FP32}, "inputs": _ROWS, "outputs": ["y"], "classes": 2},
    "infer, priority and timeout": {
        "arguments": {"model_name": FP32, "priority": 1, "timeout": 10**7},
        "inputs": _ROWS,
    },
    "infer, sequence": {"arguments": {"model_name": FP32, "sequence_id": 5, "sequence_start": True}, "inputs": _ROWS},
    "infer, parameters": {"arguments": {"model_name": FP32, "parameters": {"a": "b"}}, "inputs": _ROWS},
    "infer, unknown model": {"arguments": {"model_name": "nothing"}, "inputs": _ROWS},
    "infer, wrong name": {"arguments": {"model_name": FP32}, "inputs": {"q": _ROWS["x"]}},
    "infer, too many rows": {"arguments": {"model_name": FP32}, "inputs": {"x": np.ones((9, 1), np.float32)}},
    "load": {"method": "load_model", "arguments": {"model_name": "identity_bool"}},
}
CALLS = [
    Call(f"tritonclient.{client}: {name}", client, **{"method": "infer", **call})
    for client in CLIENTS
    for name, call in _CALLS.items()
]
CASES = [*SERVER, *INFER, *QUEUE, *STREAM, *CALLS]
