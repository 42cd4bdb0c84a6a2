"""Everything but inference: health, metadata, configuration, statistics, the repository, verbs and paths."""

from __future__ import annotations

from conformance.requests import FP32, Case, Request, get, infer, post

_TENSORS = [f"{side}[].{name}" for side in ("input", "output") for name in ("name", "data_type", "dims")]
_BATCHING = ["max_queue_delay_microseconds", "preserve_ordering", "priority_levels", "default_queue_policy"]
_CONFIG = [
    *(
        "name",
        "backend",
        "platform",
        "max_batch_size",
        "version_policy",
        "instance_group[].name",
        "instance_group[].count",
    ),
    *(
        "instance_group[].kind",
        "output[].label_filename",
        *_TENSORS,
        *(f"dynamic_batching.{name}" for name in _BATCHING),
    ),
    *("default_model_filename", "parameters", "model_warmup", "optimization.priority"),
]
_STATISTICS = [f"model_stats[].inference_stats.{name}.count" for name in ("success", "fail", "queue", "compute_infer")]
INDEX, MODELS = "/v2/repository/index", "/v2/repository/models"

HEALTH = [
    Case("live", [get("/v2/health/live")]),
    Case("ready", [get("/v2/health/ready")]),
    Case("model ready", [get(f"{FP32}/ready")]),
    Case("model ready, version 1", [get(f"{FP32}/versions/1/ready")]),
    Case("model ready, version 2", [get(f"{FP32}/versions/2/ready")]),
    Case("model ready, version abc", [get(f"{FP32}/versions/abc/ready")]),
    Case("model ready, unknown", [get("/v2/models/nothing/ready")]),
    Case("live, HEAD", [get("/v2/health/live", "HEAD")]),
    Case("live, query", [get("/v2/health/live?x=1")]),
]

METADATA = [
    Case("server metadata", [get("/v2")], fields=["name", "version", "extensions"]),
    Case("server metadata, trailing slash", [get("/v2/")], fields=["error"]),
    Case("metadata, identity", [get(FP32)]),
    Case("metadata, BYTES", [get("/v2/models/identity_bytes")]),
    Case("metadata, two inputs", [get("/v2/models/pair")]),
    Case("metadata, cnn", [get("/v2/models/cnn")]),
    Case("metadata, version 1", [get(f"{FP32}/versions/1")]),
    Case("metadata, version 2", [get(f"{FP32}/versions/2")], about="version|not found"),
    Case("metadata, version abc", [get(f"{FP32}/versions/abc")], about="version"),
    Case("metadata, version huge", [get(f"{FP32}/versions/99999999999999999999")], about="version"),
    Case("metadata, version -1", [get(f"{FP32}/versions/-1")], about="version"),
    Case("metadata, version empty", [get(f"{FP32}/versions/")]),
    Case(
        "metadata, unknown model",
        [get("/v2/models/nothing")],
        about="^Request for unknown model: 'nothing' is not found$",
    ),
    Case("metadata, trailing slash", [get(f"{FP32}/")]),
    Case("metadata, percent-encoded", [get("/v2/models/identity%5Ffp32")]),
    Case("metadata, percent-encoded slash", [get("/v2/models/identity%2Ffp32")]),
    Case("metadata, broken percent", [get("/v2/models/%zz")]),
    Case("metadata, NUL", [get("/v2/models/%00")]),
    Case("metadata, not UTF-8", [get("/v2/models/%ff%fe")]),
    Case("metadata, dots", [get("/v2/models/..%2f..%2fetc")]),
    Case("config, identity", [get(f"{FP32}/config")], fields=_CONFIG),
    Case("config, BYTES", [get("/v2/models/identity_bytes/config")], fields=_CONFIG),
    Case("config, two inputs", [get("/v2/models/pair/config")], fields=_CONFIG),
    Case("config, cnn", [get("/v2/models/cnn/config")], fields=_CONFIG),
    Case("config, version 1", [get(f"{FP32}/versions/1/config")], fields=_CONFIG),
    Case("config, unknown model", [get("/v2/models/nothing/config")], about="unknown model"),
    Case("config, version 2", [get(f"{FP32}/versions/2/config")], about="version|not found"),
]

_ONE = "/v2/models/identity_uint8"
_UINT8 = {"name": "x", "datatype": "UINT8", "shape": [3, 2], "data": [1, 2, 3, 4, 5, 6]}
STATISTICS = [
    Case(
        "statistics count requests, rows and failures",
        [
            infer(_UINT8, model="identity_uint8"),
            infer({**_UINT8, "shape": [9, 1], "data": [1] * 9}, model="identity_uint8"),
            get(f"{_ONE}/stats"),
        ],
        fields=[
            "error",
            "model_name",
            "model_stats[].inference_count",
            "model_stats[].execution_count",
            *_STATISTICS,
            "model_stats[].name",
            "model_stats[].version",
            "model_stats[].batch_stats[].batch_size",
            "model_stats[].batch_stats[].compute_infer.count",
            "model_stats[].memory_usage",
            "model_stats[].response_stats",
        ],
    ),
    Case("statistics, version 1", [get(f"{_ONE}/versions/1/stats")], fields=["model_stats[].name"]),
    Case("statistics, version 2", [get(f"{_ONE}/versions/2/stats")], about="version|not found"),
    Case("statistics, unknown model", [get("/v2/models/nothing/stats")], about="unknown model|not found"),
    Case("statistics, all models", [get("/v2/models/stats")], fields=["model_stats[].name"]),
]

REPOSITORY = [
    Case("index", [post(INDEX)]),
    Case("index, object", [post(INDEX, {})]),
    Case("index, ready", [post(INDEX, {"ready": True})]),
    Case("index, not ready", [post(INDEX, {"ready": False})]),
    Case("index, ready not a truth value", [post(INDEX, {"ready": 1})], about="ready|bool"),
    Case("index, malformed", [post(INDEX, b"{")], about="JSON|parse"),
    Case("index, a list", [post(INDEX, [])]),
    Case("index, GET", [get(INDEX)]),
    Case("load a loaded model", [post(f"{MODELS}/identity_bool/load"), get("/v2/models/identity_bool/ready")]),
    Case("load, object", [post(f"{MODELS}/identity_bool/load", {})]),
    Case("load, malformed", [post(f"{MODELS}/identity_bool/load", b"{")], about="JSON|parse"),
    Case("load, unknown", [post(f"{MODELS}/nothing/load")], about="nothing"),
    Case("load, GET", [get(f"{MODELS}/identity_bool/load")]),
    Case("load, config override", [post(f"{MODELS}/identity_bool/load", {"parameters": {"config": "{}"}})]),
    Case("load, unknown parameter", [post(f"{MODELS}/identity_bool/load", {"parameters": {"nothing": 1}})]),
    Case(
        "unload, ask, load",
        [
            post(f"{MODELS}/identity_bool/unload"),
            get("/v2/models/identity_bool/ready"),
            infer(model="identity_bool"),
            get("/v2/models/identity_bool"),
            post(INDEX, {"ready": True}),
            get("/v2/health/ready"),
            post(f"{MODELS}/identity_bool/unload"),
            post(f"{MODELS}/identity_bool/load"),
            get("/v2/models/identity_bool/ready"),
        ],
    ),
    Case(
        "unload, dependents",
        [
            post(f"{MODELS}/identity_bool/unload", {"parameters": {"unload_dependents": True}}),
            post(f"{MODELS}/identity_bool/load"),
        ],
    ),
    Case("unload, malformed", [post(f"{MODELS}/identity_bool/unload", b"{"), post(f"{MODELS}/identity_bool/load")]),
    Case("unload, unknown", [post(f"{MODELS}/nothing/unload")], about="nothing"),
]

_VERBS = [Request(verb, FP32 + "/infer", b"{}") for verb in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS")]
PATHS = [
    *(Case(f"infer, {request.method}", [request]) for request in _VERBS),
    Case("infer, HEAD", [get(f"{FP32}/infer", "HEAD")]),
    Case("live, POST", [post("/v2/health/live")]),
    Case("metadata, POST", [post(FP32)]),
    Case("metadata, PUT", [Request("PUT", FP32, b"")]),
    Case("server metadata, POST", [post("/v2")]),
    Case("server metadata, HEAD", [get("/v2", "HEAD")]),
    Case("the Content-Type of an error", [get("/v2/models/nothing")], headers=["content-type"]),
    Case("the verbs that a path has", [get(f"{FP32}/infer")], headers=["allow"]),
    Case("unknown path", [get("/v3")]),
    Case("unknown path below v2", [get("/v2/nothing")]),
    Case("unknown path below a model", [get(f"{FP32}/nothing")]),
    Case("the root's neighbour", [get("/nothing")]),
    Case("two slashes", [get("//v2")]),
    Case("upper case", [get("/V2")]),
    Case("infer, trailing slash", [infer(path=f"{FP32}/infer/")]),
    Case("infer, query", [infer(path=f"{FP32}/infer?x=1")]),
    Case("infer, percent-encoded", [infer(path="/v2/models/identity%5Ffp32/infer")]),
    Case("shared memory status", [get("/v2/systemsharedmemory/status")]),
    Case(
        "shared memory register",
        [post("/v2/systemsharedmemory/region/r/register", {"key": "/nothing", "offset": 0, "byte_size": 8})],
    ),
    Case("CUDA shared memory status", [get("/v2/cudasharedmemory/status")]),
    Case("trace setting", [get("/v2/trace/setting")], fields=["error"]),
    Case("logging", [get("/v2/logging")], fields=["error"]),
    Case("generate", [post(f"{FP32}/generate", {"x": 1})]),
]

CASES = [*HEALTH, *METADATA, *STATISTICS, *REPOSITORY, *PATHS]
