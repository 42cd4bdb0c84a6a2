"""The record of a request and what is counted of it, by the HTTP application and by gRPC's interceptor."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time

import grpc
import httpx
import numpy as np
import pytest
from serving_fakes import Colours, Echo, encoded

from deploy.serving.grpc_server import GrpcServer
from deploy.serving.http import application
from deploy.serving.protobuf import message
from deploy.serving.record import STAGES, Record
from deploy.serving.repository import Repository
from deploy.serving.service import Limits, Service
from deploy.serving.settings import BatchSettings
from deploy.serving.telemetry import Background, Telemetry

ROW = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 1]}], "id": "seven"}


class Kept:
    """A sink that keeps what it is given."""

    traces = True

    def __init__(self):
        self.records = []

    def put(self, record):
        self.records.append(record)

    def close(self):
        self.records.append(None)


@contextlib.asynccontextmanager
async def served(**options):
    """A client of the application, the echo behind it, its service and the records it made."""
    echo, kept = Echo(), Kept()
    repository = Repository({"echo": lambda: [echo], "colours": lambda: [Colours()]}, BatchSettings(max_queue=1))
    service = Service(repository, Limits(body=10_000), telemetry=Telemetry([kept]))
    for name in ("echo", "colours"):
        await repository.load(name)
    transport = httpx.ASGITransport(application(service, **options), client=("192.0.2.7", 5))
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        yield client, echo, service, kept.records
    await repository.drain()


def test_the_stages_of_a_request_follow_each_other_and_fill_its_time():
    async def check():
        async with served() as (client, echo, service, records):
            echo.gate.clear()
            first = asyncio.ensure_future(client.post("/v2/models/echo/infer", json=ROW))
            await asyncio.to_thread(echo.entered.acquire)
            second = asyncio.ensure_future(client.post("/v2/models/echo/infer", json=ROW))
            await asyncio.sleep(0.05)
            echo.gate.set()
            replies = await asyncio.gather(first, second)
        for record, reply in zip(records, replies):
            names = [stage for stage, _ in record.laps]
            assert names == [stage for stage in STAGES if stage != "preprocess"]
            assert sum(seconds for _, seconds in record.laps) == pytest.approx(record.seconds, abs=1e-6)
            assert min(seconds for _, seconds in record.laps) >= 0
            assert (record.status, record.rows, record.model, record.id) == (200, 1, "echo", "seven")
            assert (record.bytes_in, record.bytes_out) == (len(reply.request.content), len(reply.content))
            assert record.client == "192.0.2.7"
        assert records[0].seconds_of("compute_infer") >= 0.05
        assert records[1].seconds_of("queue") >= 0.04
        stages = service.telemetry.stages["echo", "1"]
        assert stages["queue"].total == pytest.approx(sum(record.seconds_of("queue") for record in records))
        assert stages["preprocess"].buckets()[-1] == ("+Inf", 0)

    asyncio.run(check())


def test_an_image_is_preprocessed_and_its_classes_are_postprocessed():
    async def check():
        async with served() as (client, _, _, records):
            reply = await client.post("/v2/models/colours/classify", content=encoded((255, 0, 0)))
            assert reply.status_code == 200
        assert [stage for stage, _ in records[0].laps] == list(STAGES)
        assert records[0].seconds_of("preprocess") > 0
        assert records[0].seconds_of("postprocess") > 0

    asyncio.run(check())


def test_requests_are_counted_by_status_and_model_and_those_refused_before_a_model():
    async def check():
        async with served() as (client, echo, service, _):
            infer = "/v2/models/echo/infer"
            assert (await client.post(infer, json=ROW)).status_code == 200
            assert (await client.post(infer, content=b"{")).status_code == 400
            assert (await client.post(infer, content=b"x" * 20_000)).status_code == 413
            assert (await client.post("/v2/models/none/infer", json=ROW)).status_code == 404
            assert (await client.post("/v2/models/colours/classify", content=b"no image")).status_code == 400
            wrong = {"inputs": [{**ROW["inputs"][0], "datatype": "INT32"}]}
            assert (await client.post(infer, json=wrong)).status_code == 400  # the model's batcher refuses it
            echo.error = RuntimeError("broken")
            assert (await client.post(infer, json=ROW)).status_code == 500
            assert (await client.get("/v2/models/none/ready")).status_code == 400  # an answer, not a refusal
        counted = {key: histogram.buckets()[-1][1] for key, histogram in service.telemetry.requests.items()}
        assert counted == {
            ("http", "2xx", "echo", "1"): 1,
            ("http", "4xx", "", ""): 4,
            ("http", "4xx", "colours", "1"): 1,
            ("http", "4xx", "echo", "1"): 1,
            ("http", "5xx", "echo", "1"): 1,
        }
        assert service.telemetry.refused == {("http", "400"): 2, ("http", "413"): 1, ("http", "404"): 1}
        assert service.telemetry.stages["echo", "1"]["read"].buckets()[-1] == ("+Inf", 1)  # of the one answered

    asyncio.run(check())


def test_a_missing_key_is_a_refusal_and_the_key_is_not_kept():
    async def check():
        async with served(key="s3cret") as (client, _, service, records):
            assert (await client.post("/v2/models/echo/infer", json=ROW)).status_code == 401
            headers = {"Authorization": "Bearer s3cret", "traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01"}
            assert (await client.post("/v2/models/echo/infer", json=ROW, headers=headers)).status_code == 200
        assert service.telemetry.refused == {("http", "401"): 1}
        assert records[1].parent == {"traceparent": headers["traceparent"]}
        fields = [getattr(records[1], name) for name in Record.__slots__]
        assert not any("s3cret" in repr(field) for field in fields)

    asyncio.run(check())


def test_what_a_client_names_is_cut_to_a_length():
    record = Record()
    record.named("x" * 1_000_000)
    assert len(record.id) == 256


def test_a_sink_that_hangs_holds_up_nobody_and_what_it_cannot_take_is_counted(monkeypatch):
    monkeypatch.setattr(Background, "MOST", 3)
    gate, seen, given, ended = threading.Event(), threading.Semaphore(0), [], threading.Event()

    def write(records, dropped):
        seen.release()
        assert gate.wait(30)
        given.append((len(records), dropped))

    sink = Background(write, ended.set, "test", period=0.001)
    sink.put(Record())
    assert seen.acquire(timeout=30)  # it hangs in `write` from here on
    began = time.perf_counter()
    for _ in range(5):
        sink.put(Record())
    assert time.perf_counter() - began < 0.1
    gate.set()
    sink.close()
    assert given == [(1, 0), (3, 2)]
    assert ended.is_set()


def test_a_writer_that_fails_is_told_of_and_tried_again(caplog):
    given, ended = [], threading.Event()

    def write(records, dropped):
        given.append(len(records))
        if len(given) == 1:
            raise OSError("disk full")

    sink = Background(write, ended.set, "test", period=0.001)
    sink.put(Record())
    while not given:
        time.sleep(0.001)
    sink.put(Record())
    sink.close()
    assert given == [1, 1]
    assert "disk full" in caplog.text


PATH = "/inference.GRPCInferenceService"


def message_of(model="echo", rows=2):
    asked = message("inference.ModelInferRequest")(model_name=model, id="eight")
    asked.inputs.add(name="x", datatype="FP32", shape=[rows, 2])
    asked.raw_input_contents.append(np.ones((rows, 2), np.float32).tobytes())
    return asked.SerializeToString()


@contextlib.asynccontextmanager
async def called(service, **options):
    """A channel to the service over gRPC."""
    server = GrpcServer(service, host="127.0.0.1", port=0, **options)
    port = await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(5)


def test_a_grpc_call_has_a_record_that_the_service_and_the_batcher_fill():
    async def check():
        traceparent = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
        async with served() as (_, _, service, records), called(service) as channel:
            ask = channel.unary_unary(f"{PATH}/ModelInfer")
            reply = await ask(message_of(), metadata=(("traceparent", traceparent), ("other", "x")))
        (record,) = records
        assert (record.protocol, record.method, record.status) == ("grpc", f"{PATH}/ModelInfer", "OK")
        assert (record.model, record.rows, record.id, record.client) == ("echo", 2, "eight", "127.0.0.1")
        assert (record.bytes_in, record.bytes_out) == (len(message_of()), len(reply))
        assert record.parent == {"traceparent": traceparent}
        assert [stage for stage, _ in record.laps] == [one for one in STAGES if one not in ("read", "preprocess")]
        assert sum(seconds for _, seconds in record.laps) == pytest.approx(record.seconds, abs=1e-6)
        assert service.telemetry.requests["grpc", "OK", "echo", "1"].total == pytest.approx(record.seconds)
        assert service.telemetry.stages["echo", "1"]["compute_infer"].buckets()[-1] == ("+Inf", 1)

    asyncio.run(check())


def test_grpc_calls_that_fail_have_their_status_and_those_before_a_model_are_refused():
    async def check():
        async with served() as (_, echo, service, records), called(service, key="s3cret") as channel:
            ask = channel.unary_unary(f"{PATH}/ModelInfer")
            allowed = (("authorization", "Bearer s3cret"),)
            echo.error = RuntimeError("broken")
            for data, metadata in (
                (message_of("none"), allowed),
                (b"\xff", allowed),
                (message_of(), ()),
                (message_of(rows=100), allowed),
                (message_of(), allowed),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as failed:
                    await ask(data, metadata=metadata)
                assert records[-1].status == failed.value.code().name
            echo.gate.clear()
            waits = ask(message_of(), metadata=allowed)
            await asyncio.to_thread(echo.entered.acquire)
            await asyncio.to_thread(echo.entered.acquire)
            waits.cancel()
            while len(records) < 6:
                await asyncio.sleep(0.01)
            echo.gate.set()
        statuses = ["NOT_FOUND", "INVALID_ARGUMENT", "UNAUTHENTICATED", "INVALID_ARGUMENT", "INTERNAL", "CANCELLED"]
        assert [record.status for record in records] == statuses
        assert service.telemetry.refused == {("grpc", status): 1 for status in statuses[:3]}
        assert "s3cret" not in repr([record.parent for record in records])

    asyncio.run(check())


def test_each_message_of_a_stream_has_a_record_of_its_own():
    async def check():
        async with served() as (_, _, service, records), called(service) as channel:
            stream = channel.stream_stream(f"{PATH}/ModelStreamInfer")()
            for model, rows in (("echo", 1), ("none", 1), ("echo", 3)):
                await stream.write(message_of(model, rows))
                await stream.read()
            await stream.done_writing()
        assert [(one.status, one.model, one.rows) for one in records] == [
            ("OK", "echo", 1),
            ("NOT_FOUND", "", 0),
            ("OK", "echo", 3),
        ]
        assert {record.method for record in records} == {f"{PATH}/ModelStreamInfer"}

    asyncio.run(check())
