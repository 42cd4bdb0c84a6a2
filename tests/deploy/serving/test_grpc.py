"""The gRPC surface over a real socket: Triton's own clients, and messages that mean nothing."""

from __future__ import annotations

import asyncio
import io
import re

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from PIL import Image
from serving_live import ROWS, BothLive, asking, echo_input, refused
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

NUMBERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64")
# Triton's own proto says these; numpy's names say the same of the arrays.
DATATYPES = {"bool": "BOOL", "object": "BYTES"} | {name: re.sub(r"^FLOAT", "FP", name.upper()) for name in NUMBERS}


@pytest.fixture(scope="module")
def live():
    server = BothLive(dtypes=(*DATATYPES,))
    yield server
    server.close()


@pytest.fixture
def stub(live):
    with grpc.insecure_channel(live.grpc) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_tritonclient_infers(live, compression):
    with triton.InferenceServerClient(live.grpc) as client:
        result = client.infer("echo", echo_input(), request_id="7", compression_algorithm=compression)
    np.testing.assert_array_equal(result.as_numpy("y"), ROWS * 2)
    assert (result.get_response().id, result.get_response().model_version) == ("7", "1")


def test_tritonclient_aio_infers_many_at_once(live):
    async def check():
        async with triton_aio.InferenceServerClient(live.grpc) as client:
            rows = [np.full((1, 3), tag, np.float32) for tag in range(1, 40)]
            results = await asyncio.gather(*(client.infer("echo", echo_input(row)) for row in rows))
            for row, result in zip(rows, results):
                np.testing.assert_array_equal(result.as_numpy("y"), row * 2)

    asyncio.run(check())


@pytest.mark.parametrize("dtype", DATATYPES)
def test_each_type_comes_back_raw(live, dtype):
    values = np.array([[b"", b"\0a"]], object) if dtype == "object" else np.array([[0, 1, 100]]).astype(dtype)
    tensor = triton.InferInput("x", list(values.shape), DATATYPES[dtype])
    tensor.set_data_from_numpy(values)
    with triton.InferenceServerClient(live.grpc) as client:
        found = client.infer(f"same_{dtype}", [tensor]).as_numpy("y")
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values)


CONTENTS = {
    "bool": ("bool_contents", [True, False]),
    "int8": ("int_contents", [-128, 127]),
    "int16": ("int_contents", [-5, 6]),
    "int32": ("int_contents", [-(2**31), 2**31 - 1]),
    "int64": ("int64_contents", [-(2**63), 2**63 - 1]),
    "uint8": ("uint_contents", [0, 255]),
    "uint16": ("uint_contents", [0, 65535]),
    "uint32": ("uint_contents", [0, 2**32 - 1]),
    "uint64": ("uint64_contents", [1, 2**64 - 1]),
    "float32": ("fp32_contents", [0.5, -1.0]),
    "float64": ("fp64_contents", [0.1, float("inf")]),
    "object": ("bytes_contents", [b"", b"\xff"]),
}


def typed(dtype, field, values):
    request = service_pb2.ModelInferRequest(model_name=f"same_{dtype}")
    tensor = request.inputs.add(name="x", datatype=DATATYPES[dtype], shape=[1, len(values)])
    getattr(tensor.contents, field).extend(values)
    return request


@pytest.mark.parametrize("dtype", CONTENTS)
def test_each_type_comes_in_its_contents(stub, dtype):
    field, values = CONTENTS[dtype]
    result = triton.InferResult(stub.ModelInfer(typed(dtype, field, values))).as_numpy("y")
    assert result.tolist() == [values]


@pytest.mark.parametrize(
    ("dtype", "field", "values", "words"),
    [
        ("int8", "int_contents", [128], "do not fit INT8"),
        ("uint16", "uint_contents", [65536], "do not fit UINT16"),
        ("int64", "int_contents", [1], "are not INT64"),
        ("float16", "fp32_contents", [1.0], "are not FP16"),
        ("float16", "fp32_contents", [], "has no contents"),
        ("float32", "fp32_contents", [], "do not fill its shape"),
    ],
)
def test_contents_of_another_type_are_refused(stub, dtype, field, values, words):
    request = typed(dtype, field, values)
    request.inputs[0].shape[:] = [1, 1]
    code, details = refused(stub.ModelInfer, request)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert words in details


def jpeg(colour, size=(20, 10)):
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "JPEG")
    return stream.getvalue()


def test_encoded_images_and_classes(live):
    tensor = triton.InferInput("input", [2], "BYTES")
    tensor.set_data_from_numpy(np.array([jpeg((255, 0, 0)), jpeg((0, 0, 255))], object))
    outputs = [triton.InferRequestedOutput("max"), triton.InferRequestedOutput("mean", class_count=1)]
    with triton.InferenceServerClient(live.grpc) as client:
        result = client.infer("colours", [tensor], outputs=outputs)
    assert [output.name for output in result.get_response().outputs] == ["max", "mean"]
    assert result.as_numpy("max").shape == (2, 3)
    assert [text[0].split(b":")[1] for text in result.as_numpy("mean")] == [b"0", b"2"]


@pytest.mark.parametrize(("dtype", "shape", "raw"), [("object", [1, 1], b"\1\0\0\0a"), ("float32", [1, 0], b"")])
def test_what_has_no_classes_is_told_so(stub, dtype, shape, raw):
    request = service_pb2.ModelInferRequest(model_name=f"same_{dtype}", raw_input_contents=[raw])
    request.inputs.add(name="x", datatype=DATATYPES[dtype], shape=shape)
    request.outputs.add(name="y").parameters["classification"].int64_param = 1
    code, details = refused(stub.ModelInfer, request)
    assert (code, "no classes" in details) == (grpc.StatusCode.INVALID_ARGUMENT, True)


def test_metadata_config_and_statistics(live):
    with triton.InferenceServerClient(live.grpc) as client:
        assert client.is_server_live()
        assert not client.is_server_ready()  # 'broken' is not loaded
        assert client.is_model_ready("echo", "1")
        assert not client.is_model_ready("echo", "2")
        assert not client.is_model_ready("nothing")
        extensions = client.get_server_metadata().extensions
        assert "statistics" in extensions
        assert "system_shared_memory" not in extensions
        (tensor,) = client.get_model_metadata("echo").inputs
        assert (tensor.name, tensor.datatype, list(tensor.shape)) == ("x", "FP32", [-1, -1])
        config = client.get_model_config("colours").config
        assert (config.name, config.max_batch_size, list(config.input[0].dims)) == ("colours", 4, [3, 8, 8])
        assert config.input[0].data_type == triton.model_config_pb2.TYPE_FP32
        assert config.dynamic_batching.default_queue_policy.max_queue_size == 256
        client.infer("echo", echo_input())
        (stats,) = client.get_inference_statistics("echo").model_stats
        assert stats.inference_stats.success.count >= 1
        assert stats.batch_stats[0].compute_infer.ns > 0
        assert {row.name for row in client.get_inference_statistics().model_stats} >= {"echo", "colours"}


def test_nothing_that_http_tells_of_a_model_is_left_out(live):
    """Names of fields are the same in both, so that one description serves both."""
    import httpx
    from google.protobuf.json_format import MessageToDict

    with triton.InferenceServerClient(live.grpc) as client:
        for model in ("colours", "same_object"):
            told = MessageToDict(client.get_model_config(model).config, preserving_proto_field_name=True)
            said = httpx.get(f"http://{live.http}/v2/models/{model}/config").json()
            assert told.keys() == {name for name, value in said.items() if value}
            for row, other in zip(told["input"], said["input"]):
                assert row == {**other, "dims": [str(dim) for dim in other["dims"]]}


def test_models_are_unloaded_and_loaded(live):
    with triton.InferenceServerClient(live.grpc) as client:
        client.unload_model("colours")
        assert not client.is_model_ready("colours")
        states = {row.name: row.state for row in client.get_model_repository_index().models}
        assert (states["echo"], states["colours"], states["broken"]) == ("READY", "UNAVAILABLE", "UNAVAILABLE")
        client.load_model("colours")
        assert client.is_model_ready("colours")
        with pytest.raises(InferenceServerException, match=r"UNAVAILABLE.*cannot be loaded") as caught:
            client.load_model("broken")
        assert "secret" not in str(caught.value)
        with pytest.raises(InferenceServerException, match="UNIMPLEMENTED"):
            client.load_model("echo", config="{}")


def spoilt(**changes):
    request = asking()
    for name, value in changes.items():
        setattr(request if name.startswith("model") else request.inputs[0], name, value)
    return request


def with_shape(*shape):
    request = asking()
    request.inputs[0].shape[:] = shape
    return request


def with_both():
    request = asking()
    request.inputs[0].contents.fp32_contents.extend([1] * 6)
    return request


def with_raw(*contents):
    request = asking()
    request.ClearField("raw_input_contents")
    request.raw_input_contents.extend(contents)
    return request


def twice():
    request = asking()
    request.inputs.append(request.inputs[0])
    request.raw_input_contents.append(b"")
    return request


def with_parameter(name, **value):
    request = asking()
    request.parameters[name].SetInParent()
    for field, one in value.items():
        setattr(request.parameters[name], field, one)
    return request


def with_output(name, **parameters):
    request = asking()
    output = request.outputs.add(name=name)
    for field, value in parameters.items():
        output.parameters[field].int64_param = value
    return request


BAD = {
    "model": (spoilt(model_name="nothing"), "NOT_FOUND"),
    "no model": (service_pb2.ModelInferRequest(), "NOT_FOUND"),
    "version": (spoilt(model_version="2"), "NOT_FOUND"),
    "no inputs": (service_pb2.ModelInferRequest(model_name="echo"), "INVALID_ARGUMENT"),
    "name": (spoilt(name="z"), "INVALID_ARGUMENT"),
    "datatype": (spoilt(datatype="INT32"), "INVALID_ARGUMENT"),
    "datatype unknown": (spoilt(datatype="FP8"), "INVALID_ARGUMENT"),
    "rank": (with_shape(6), "INVALID_ARGUMENT"),
    "negative": (with_shape(-2, -3), "INVALID_ARGUMENT"),
    "shape": (with_shape(2, 4), "INVALID_ARGUMENT"),
    "huge shape": (with_shape(1 << 62, 1 << 62), "INVALID_ARGUMENT"),
    "empty and huge": (with_shape(0, 1 << 62, 1 << 62), "INVALID_ARGUMENT"),
    "axes": (with_shape(*[1] * 100), "INVALID_ARGUMENT"),
    "batch": (asking(np.ones((5, 1), np.float32)), "INVALID_ARGUMENT"),
    "raw and typed": (with_both(), "INVALID_ARGUMENT"),
    "no raw": (with_raw(), "INVALID_ARGUMENT"),
    "more raw": (with_raw(ROWS.tobytes(), b""), "INVALID_ARGUMENT"),
    "twice": (twice(), "INVALID_ARGUMENT"),
    "output": (with_output("q"), "INVALID_ARGUMENT"),
    "classes": (with_output("y", classification=-1), "INVALID_ARGUMENT"),
    "priority": (with_parameter("priority", string_param="a"), "INVALID_ARGUMENT"),
    "timeout": (with_parameter("timeout", int64_param=-1), "INVALID_ARGUMENT"),
    "empty parameter": (with_parameter("timeout"), "INVALID_ARGUMENT"),
    "shared memory": (with_output("y", shared_memory_region=1), "UNIMPLEMENTED"),
    "large": (asking(np.ones((1, 300_000), np.float32)), "RESOURCE_EXHAUSTED"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_told_so_and_the_next_is_answered(stub, case):
    request, code = BAD[case]
    assert refused(stub.ModelInfer, request)[0] == grpc.StatusCode[code]
    assert stub.ModelInfer(asking()).outputs[0].name == "y"


def test_what_is_no_message_is_told_so(live):
    with grpc.insecure_channel(live.grpc) as channel:
        for method in ("ModelInfer", "ModelMetadata"):
            assert refused(channel.unary_unary(f"/inference.GRPCInferenceService/{method}"), b"\xff\xff") == (
                grpc.StatusCode.INVALID_ARGUMENT,
                "Unable to parse request",
            )


def test_a_large_message_passes_grpcs_own_limit():
    live = BothLive(body=24 << 20)
    try:
        rows = np.ones((1, 5 << 20), np.float32)
        with triton.InferenceServerClient(live.grpc) as client:
            found = client.infer("echo", echo_input(rows)).as_numpy("y")
        assert found.shape == rows.shape
        assert (found == 2).all()
    finally:
        live.close()


def test_a_compressed_message_is_bounded_by_what_it_unpacks_to(stub):
    bomb = asking(np.zeros((1, 20_000_000), np.float32))
    assert refused(stub.ModelInfer, bomb, compression=grpc.Compression.Gzip) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "Decompressed message larger than max",  # older versions unpack it whole first, and say it in other words
    )


def test_extensions_that_are_not_here(stub):
    for call, request in (
        (stub.CudaSharedMemoryStatus, service_pb2.CudaSharedMemoryStatusRequest()),
        (stub.TraceSetting, service_pb2.TraceSettingRequest()),
        (stub.LogSettings, service_pb2.LogSettingsRequest()),
        (stub.SystemSharedMemoryStatus, service_pb2.SystemSharedMemoryStatusRequest()),
    ):
        assert refused(call, request)[0] == grpc.StatusCode.UNIMPLEMENTED


def test_a_bug_tells_nothing_of_itself(live, stub):
    live.echo.error = RuntimeError("/secret/path")
    try:
        assert refused(stub.ModelInfer, asking()) == (grpc.StatusCode.INTERNAL, "internal error")
    finally:
        live.echo.error = None


def health(channel, **options):
    return channel.unary_unary("/grpc.health.v1.Health/Check")(b"", **options)


def test_health_is_that_of_the_models(live):
    with grpc.insecure_channel(live.grpc) as channel:
        assert health(channel) == b"\x08\x02"  # 'broken' is not loaded
        with triton.InferenceServerClient(live.grpc) as client:
            client.unload_model("broken")
        assert health(channel) == b"\x08\x01"


def test_only_who_has_the_key_is_answered():
    live = BothLive(key="k")
    try:
        with triton.InferenceServerClient(live.grpc) as client:
            assert client.is_server_live()
            for headers in (None, {"authorization": "Bearer x"}):
                with pytest.raises(InferenceServerException, match=r"UNAUTHENTICATED.*key is missing or wrong"):
                    client.infer("echo", echo_input(), headers=headers)
            found = client.infer("echo", echo_input(), headers={"authorization": "Bearer k"}).as_numpy("y")
            np.testing.assert_array_equal(found, ROWS * 2)
        with grpc.insecure_channel(live.grpc) as channel:
            assert health(channel) == b"\x08\x02"
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            assert refused(list, stub.ModelStreamInfer(iter([asking()])))[0] == grpc.StatusCode.UNAUTHENTICATED
    finally:
        live.close()
