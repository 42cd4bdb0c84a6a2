"""The HTTP surface over a real socket: Triton's own clients, curl's form, and requests that mean nothing."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import socket
import threading
import zlib

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
import uvicorn
from PIL import Image
from serving_fakes import Colours, Echo
from tritonclient.utils import InferenceServerException

from deploy.serving.connection import Connection
from deploy.serving.http import application
from deploy.serving.repository import Repository
from deploy.serving.service import Limits, Service
from deploy.serving.settings import BatchSettings


def broken():
    raise RuntimeError("/secret/path/model.onnx is missing")


class Live:
    """A server on a free port, in a thread of its own."""

    def __init__(self, queue=256, seconds=5, **options):
        self.echo = Echo()
        openers = {"echo": lambda: [self.echo], "colours": lambda: [Colours()], "broken": broken}
        self.repository = Repository(openers, BatchSettings(max_batch=4, max_queue=queue))
        limits = Limits(body=100_000, pixels=10_000, body_seconds=seconds)
        app = application(Service(self.repository, limits), **options)
        self.server = uvicorn.Server(uvicorn.Config(app, http=Connection, port=0, log_level="critical", lifespan="off"))
        self.started = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self.thread.start()
        assert self.started.wait(30)
        self.address = f"127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}"
        self.http = httpx.Client(base_url=f"http://{self.address}", timeout=30)

    async def _serve(self):
        for name in ("echo", "colours"):
            await self.repository.load(name)
        task = asyncio.create_task(self.server.serve())
        while not self.server.started:
            await asyncio.sleep(0.01)
        self.started.set()
        await task
        await self.repository.drain()

    def close(self):
        self.http.close()
        self.server.should_exit = True
        self.thread.join(30)


@pytest.fixture(scope="module")
def live():
    server = Live()
    yield server
    server.close()


ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)


def echo_input(binary=True, rows=ROWS, kind=triton):
    tensor = kind.InferInput("x", list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows, binary_data=binary)
    return [tensor]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_tritonclient_infers(live, binary_in, binary_out, compression):
    outputs = None if binary_out is None else [triton.InferRequestedOutput("y", binary_data=binary_out)]
    with triton.InferenceServerClient(live.address) as client:
        result = client.infer(
            "echo",
            echo_input(binary_in),
            outputs=outputs,
            request_id="7",
            request_compression_algorithm=compression,
            response_compression_algorithm=compression,
        )
    np.testing.assert_array_equal(result.as_numpy("y"), ROWS * 2)
    assert result.get_response()["id"] == "7"


def test_tritonclient_aio_infers_many_at_once(live):
    async def check():
        async with triton_aio.InferenceServerClient(live.address) as client:
            rows = [np.full((1, 3), tag, np.float32) for tag in range(1, 40)]
            results = await asyncio.gather(*(client.infer("echo", echo_input(rows=row)) for row in rows))
            for row, result in zip(rows, results):
                np.testing.assert_array_equal(result.as_numpy("y"), row * 2)
            assert await client.is_server_live()

    asyncio.run(check())


def test_tritonclient_reads_metadata_config_and_statistics(live):
    with triton.InferenceServerClient(live.address) as client:
        assert client.is_server_live()
        assert client.is_model_ready("echo")
        assert client.is_model_ready("echo", "1")
        assert not client.is_model_ready("echo", "2")
        assert not client.is_model_ready("nothing")
        assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
        metadata = client.get_model_metadata("echo")
        assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, -1]}]
        config = client.get_model_config("colours")
        assert (config["max_batch_size"], config["input"][0]["dims"]) == (4, [3, 8, 8])
        client.infer("echo", echo_input())
        (stats,) = client.get_inference_statistics("echo")["model_stats"]
        assert stats["inference_stats"]["success"]["count"] >= 1


def test_models_are_unloaded_and_loaded(live):
    with triton.InferenceServerClient(live.address) as client:
        client.unload_model("colours")
        assert not client.is_model_ready("colours")
        states = {row["name"]: row["state"] for row in client.get_model_repository_index()}
        assert states == {"echo": "READY", "colours": "UNAVAILABLE", "broken": "UNAVAILABLE"}
        client.load_model("colours")
        assert client.is_model_ready("colours")
        client.load_model("colours")
        with pytest.raises(InferenceServerException, match="cannot be loaded") as caught:
            client.load_model("broken")
        assert "secret" not in str(caught.value)


def jpeg(colour=(255, 0, 0), size=(20, 10)):
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "JPEG")
    return stream.getvalue()


def test_encoded_images_take_the_place_of_the_tensor_and_classes_come_back(live):
    images = np.array([jpeg((255, 0, 0)), jpeg((0, 0, 255))], object)
    tensor = triton.InferInput("input", [2], "BYTES")
    tensor.set_data_from_numpy(images)
    outputs = [triton.InferRequestedOutput("logits", class_count=1)]
    with triton.InferenceServerClient(live.address) as client:
        found = client.infer("colours", [tensor], outputs=outputs).as_numpy("logits")
    assert found.shape == (2, 1)
    assert [text[0].split(b":")[1] for text in found] == [b"0", b"2"]


@pytest.mark.parametrize("form", [True, False])
def test_classify_takes_a_form_and_a_bare_body(live, form):
    given = {"files": {"image": ("cat.jpg", jpeg((0, 255, 0)))}} if form else {"content": jpeg((0, 255, 0))}
    reply = live.http.post("/v2/models/colours/classify?top_k=2", **given)
    assert reply.status_code == 200
    assert reply.json()["predictions"][0]["index"] == 1
    assert len(reply.json()["predictions"]) == 2


def test_a_raw_body_needs_a_model_of_one_input_and_one_open_size(live):
    headers = {"Inference-Header-Content-Length": "0"}
    rows = np.ones((1, 3, 8, 8), np.float32)
    reply = live.http.post("/v2/models/colours/infer", content=rows.tobytes(), headers=headers)
    length = int(reply.headers["Inference-Header-Content-Length"])
    np.testing.assert_array_equal(np.frombuffer(reply.content[length:], "<f4"), [1, 1, 1])
    reply = live.http.post("/v2/models/echo/infer", content=bytes(12), headers=headers)
    assert json.loads(reply.content[: int(reply.headers["Inference-Header-Content-Length"])])["outputs"][0][
        "shape"
    ] == [1, 3]
    assert live.http.post("/v2/models/echo/infer", content=b"12345", headers=headers).status_code == 400


def asking(**changes):
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
    return json.dumps({"inputs": [{**tensor, **changes}]}).encode()


SMALL = asking()
INFER = "/v2/models/echo/infer"
BAD = {
    "no JSON": (INFER, b"{", {}, 400),
    "no object": (INFER, b"[]", {}, 400),
    "no inputs": (INFER, b"{}", {}, 400),
    "deep": (INFER, b"[" * 5000 + b"]" * 5000, {}, 400),
    "name": (INFER, asking(name="z"), {}, 400),
    "dtype": (INFER, asking(datatype="INT32"), {}, 400),
    "dtype unknown": (INFER, asking(datatype="FP8"), {}, 400),
    "rank": (INFER, asking(shape=[2]), {}, 400),
    "negative": (INFER, asking(shape=[-1, 2]), {}, 400),
    "empty and huge": (INFER, asking(shape=[0, 1 << 62, 1 << 62], data=[]), {}, 400),
    "axes without end": (INFER, asking(shape=[1 << 60] * 4000), {}, 400),
    "too few": (INFER, asking(data=[1]), {}, 400),
    "ragged": (INFER, asking(data=[[1], [2, 3]]), {}, 400),
    "texts": (INFER, asking(data=["1", "2"]), {}, 400),
    "nulls": (INFER, asking(data=[None, 2]), {}, 400),
    "batch": (INFER, asking(shape=[5, 1], data=[1] * 5), {}, 400),
    "binary size": (INFER, asking(parameters={"binary_data_size": 9}), {}, 400),
    "header length": (INFER, SMALL, {"Inference-Header-Content-Length": "9999"}, 400),
    "header no number": (INFER, SMALL, {"Inference-Header-Content-Length": "-1"}, 400),
    "output": (INFER, SMALL[:-1] + b',"outputs":[{"name":"q"}]}', {}, 400),
    "gzip broken": (INFER, b"1234", {"Content-Encoding": "gzip"}, 400),
    "gzip cut": (INFER, gzip.compress(SMALL)[:-3], {"Content-Encoding": "gzip"}, 400),
    "bomb": (INFER, zlib.compress(bytes(10_000_000)), {"Content-Encoding": "deflate"}, 413),
    "large": (INFER, bytes(200_000), {}, 413),
    "encoding": (INFER, SMALL, {"Content-Encoding": "br"}, 501),
    "shared memory": (INFER, asking(parameters={"shared_memory_region": "r"}), {}, 501),
    "model": ("/v2/models/nothing/infer", SMALL, {}, 404),
    "version": ("/v2/models/echo/versions/2/infer", SMALL, {}, 404),
    "version no number": ("/v2/models/echo/versions/x/infer", SMALL, {}, 404),
    "no image": ("/v2/models/colours/classify", b"not an image", {}, 400),
    "no image network": ("/v2/models/echo/classify", jpeg(), {}, 400),
    "pixels": ("/v2/models/colours/classify", jpeg(size=(101, 100)), {}, 400),
    "shared memory api": ("/v2/systemsharedmemory/region/r/register", b"{}", {}, 501),
    "path": ("/v3", b"", {}, 404),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_told_so_and_the_next_is_answered(live, case):
    path, body, headers, status = BAD[case]
    reply = live.http.post(path, content=body, headers=headers)
    assert reply.status_code == status, reply.text
    assert isinstance(reply.json()["error"], str)
    assert live.http.post(INFER, content=SMALL).json()["outputs"][0]["data"] == [2, 4]


def test_the_wrong_verb_is_405(live):
    assert live.http.get(INFER).status_code == 405
    assert live.http.post("/v2/health/live").status_code == 405


def test_ready_is_no_while_a_model_has_not_been_loaded(live):
    assert live.http.get("/v2/health/live").status_code == 200
    assert live.http.get("/v2/health/ready").status_code == 400  # 'broken' is not


def test_only_who_has_the_key_is_answered():
    server = Live(key="k")
    try:
        assert server.http.get("/v2/health/live").status_code == 200
        assert server.http.get("/v2/models/echo").status_code == 401
        assert server.http.get("/v2/models/echo", headers={"Authorization": "Bearer k"}).status_code == 200
        assert server.http.get("/v2/models/echo", headers={"Authorization": "Bearer é".encode()}).status_code == 401
    finally:
        server.close()


@pytest.mark.parametrize("origin", ["https://elsewhere.example", "http://127.0.0.1:1", "null", ""])
def test_a_page_of_another_site_can_do_nothing(live, origin):
    reply = live.http.post("/v2/repository/models/colours/unload", headers={"Origin": origin})
    assert reply.status_code == 403
    assert live.http.get("/v2/models/colours/ready").status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [("evil.example:8000", 403), ("evil.example", 403), ("localhost:8000", 200), ("127.0.0.1", 200), ("[::1]:1", 200)],
)
def test_a_name_that_leads_here_is_no_name_of_this_machine(host, status):
    async def check():
        app = application(Service(Repository({}, BatchSettings())), local=True)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://{host}") as client:
            own = {"Origin": f"http://{host}"}
            assert (await client.post("/v2/repository/index", headers=own)).status_code == status
            assert (await client.post("/v2/repository/index")).status_code == 200

    asyncio.run(check())


def test_a_page_of_the_server_itself_may_ask(live):
    own = {"Origin": f"http://{live.address}"}
    assert live.http.post("/v2/repository/index", headers=own).status_code == 200


def test_a_full_queue_a_deadline_and_a_client_that_leaves():
    async def check():
        echo, batcher = live.echo, live.repository.model("echo").batcher
        echo.gate.clear()
        async with httpx.AsyncClient(base_url=f"http://{live.address}", timeout=30) as client:

            async def post(tag, **parameters):
                tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [tag]}
                return await client.post(INFER, json={"inputs": [tensor], "parameters": parameters})

            runs = asyncio.create_task(post(99))
            await asyncio.to_thread(echo.entered.acquire)
            late = await post(1, timeout=1000)
            assert (late.status_code, late.json()["error"]) == (503, "Request timeout expired")
            leaves = asyncio.create_task(post(2))
            while not batcher.waiting:
                await asyncio.sleep(0.001)
            full = await post(3)
            assert (full.status_code, full.json()["error"]) == (503, "Exceeds maximum queue size")
            leaves.cancel()
            while batcher.waiting:
                await asyncio.sleep(0.001)
            echo.gate.set()
            assert (await runs).json()["outputs"][0]["data"] == [198]
        assert echo.batches == [[99]]

    live = Live(queue=1)
    try:
        asyncio.run(asyncio.wait_for(check(), 30))
    finally:
        live.echo.gate.set()
        live.close()


def test_half_a_body_does_not_hold_the_server():
    server = Live(seconds=0.05)
    try:
        host, port = server.address.split(":")
        with socket.create_connection((host, int(port)), timeout=30) as half:
            half.sendall(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{".encode())
            assert half.recv(100).startswith(b"HTTP/1.1 408")
    finally:
        server.close()
