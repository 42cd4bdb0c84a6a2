"""Requests under way: the queue, deadlines, streams, and the server's end, over gRPC."""

from __future__ import annotations

import asyncio
import queue
import threading
import time

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from serving_fakes import Echo
from serving_live import BothLive, asking, echo_input, eventually, refused
from tritonclient.grpc import service_pb2_grpc

from deploy.serving.batcher import BatchSettings
from deploy.serving.grpc_server import GrpcServer
from deploy.serving.repository import Repository
from deploy.serving.service import Service


@pytest.fixture(scope="module")
def live():
    server = BothLive()
    yield server
    server.close()


@pytest.fixture
def held():
    """A server of its own, whose network waits until ``echo.gate`` is set."""
    server = BothLive(queue=1)
    server.echo.gate.clear()
    yield server
    server.close()


@pytest.fixture
def stub(live):
    with grpc.insecure_channel(live.grpc) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def one(tag):
    return asking(np.full((1, 1), tag, np.float32))


def test_a_full_queue_a_timeout_a_deadline_and_a_client_that_leaves(held):
    batcher = held.repository.model("echo").batcher
    with grpc.insecure_channel(held.grpc) as channel:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        runs = infer.future(one(99))
        assert held.echo.entered.acquire(timeout=10)
        late = one(1)
        late.parameters["timeout"].int64_param = 1000
        assert refused(infer, late) == (grpc.StatusCode.UNAVAILABLE, "Request timeout expired")
        leaves = infer.future(one(2))
        eventually(lambda: batcher.waiting == 1)
        assert refused(infer, one(3)) == (grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size")
        leaves.cancel()
        eventually(lambda: batcher.waiting == 0)
        assert refused(infer, one(4), timeout=0.1)[0] == grpc.StatusCode.DEADLINE_EXCEEDED
        eventually(lambda: batcher.waiting == 0)
        held.echo.gate.set()
        assert triton.InferResult(runs.result()).as_numpy("y").tolist() == [[198]]
    assert held.echo.batches == [[99]]
    assert batcher.statistics.failures["CANCELED"].count == 2


def test_a_stream_has_a_reply_for_each_request_in_order(live):
    replies: queue.Queue = queue.Queue()
    with triton.InferenceServerClient(live.grpc) as client:
        client.start_stream(lambda result, error: replies.put((result, error)))
        for tag in range(200):
            client.async_stream_infer("echo", echo_input(np.full((1, 1), tag, np.float32)), request_id=str(tag))
        for tag in range(200):
            result, error = replies.get(timeout=30)
            assert error is None
            response = result.get_response()
            assert response.id == str(tag)
            assert response.parameters["triton_final_response"].bool_param
            assert result.as_numpy("y").item() == tag * 2
        client.stop_stream()


def test_an_error_in_a_stream_is_a_reply_and_the_stream_goes_on(stub):
    given = [asking(id="1"), asking(id="2", model="nothing"), asking(np.ones((5, 1), np.float32)), asking(id="3")]
    replies = list(stub.ModelStreamInfer(iter(given)))
    assert [reply.infer_response.id for reply in replies] == ["1", "2", "", "3"]
    assert replies[1].error_message == "Request for unknown model: 'nothing' is not found"
    assert "batch does not fit" in replies[2].error_message
    assert [bool(reply.error_message) for reply in replies] == [False, True, True, False]


def test_tritonclient_aio_streams(live):
    async def check():
        async def requests():
            for tag in range(5):
                yield {"model_name": "echo", "inputs": echo_input(np.full((1, 1), tag, np.float32))}

        async with triton_aio.InferenceServerClient(live.grpc) as client:
            found = [(result.as_numpy("y").item(), error) async for result, error in client.stream_infer(requests())]
        assert found == [(tag * 2, None) for tag in range(5)]

    asyncio.run(check())


def test_requests_of_one_stream_run_together(held):
    with grpc.insecure_channel(held.grpc) as channel:
        stream = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer
        release = threading.Event()

        def requests():
            yield one(1)
            yield one(2)
            release.wait(10)

        replies = stream(requests())
        assert held.echo.entered.acquire(timeout=10)
        eventually(lambda: held.repository.model("echo").batcher.waiting == 1)
        held.echo.gate.set()
        assert [triton.InferResult(next(replies).infer_response).as_numpy("y").item() for _ in range(2)] == [2, 4]
        release.set()
        assert list(replies) == []


def test_a_stream_that_is_cancelled_drops_what_waits(held):
    batcher = held.repository.model("echo").batcher
    with grpc.insecure_channel(held.grpc) as channel:
        replies = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(iter([one(1), one(2)]))
        assert held.echo.entered.acquire(timeout=10)
        eventually(lambda: batcher.waiting == 1)
        replies.cancel()
        eventually(lambda: batcher.waiting == 0)
        held.echo.gate.set()
    assert held.echo.batches == [[1]]


def test_a_stream_has_so_many_under_way_and_no_more():
    live = BothLive()
    live.echo.gate.clear()
    try:
        batcher = live.repository.model("echo").batcher
        with grpc.insecure_channel(live.grpc) as channel:
            replies = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(
                one(tag) for tag in range(1, 101)
            )
            assert live.echo.entered.acquire(timeout=10)
            running = len(live.echo.batches[0])
            eventually(lambda: batcher.waiting == 64 - running)
            time.sleep(0.1)  # the others would be here by now
            assert batcher.waiting == 64 - running
            live.echo.gate.set()
            found = [triton.InferResult(reply.infer_response).as_numpy("y").item() for reply in replies]
        assert found == [2 * tag for tag in range(1, 101)]
    finally:
        live.close()


def test_a_message_that_is_too_large_ends_its_stream_alone(stub):
    replies = stub.ModelStreamInfer(iter([asking(), asking(np.ones((1, 300_000), np.float32))]))
    with pytest.raises(grpc.RpcError) as ended:
        list(replies)
    assert ended.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert stub.ModelInfer(asking()).outputs[0].name == "y"


def test_drain_answers_what_was_accepted_ends_streams_and_refuses_the_rest(held):
    with grpc.insecure_channel(held.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        release = threading.Event()

        def requests():
            yield one(1)
            release.wait(10)  # the client would go on

        replies = stub.ModelStreamInfer(requests())
        assert held.echo.entered.acquire(timeout=10)
        waits = stub.ModelInfer.future(one(2))
        eventually(lambda: held.repository.model("echo").batcher.waiting == 1)
        held.stop()
        eventually(lambda: not held.repository.model("echo").batcher.ready)
        assert refused(stub.ModelInfer, one(3))[0] == grpc.StatusCode.UNAVAILABLE
        held.echo.gate.set()
        assert triton.InferResult(next(replies).infer_response).as_numpy("y").item() == 2
        assert triton.InferResult(waits.result()).as_numpy("y").item() == 4
        with pytest.raises(grpc.RpcError) as ended:
            next(replies)
        assert (ended.value.code(), ended.value.details()) == (grpc.StatusCode.UNAVAILABLE, "the server stops")
        release.set()
    held.close()
    assert held.answered


@pytest.mark.parametrize("hangs", [True, False])
def test_the_end_tells_whether_all_calls_were_answered(hangs):
    async def check():
        echo = Echo()
        repository = Repository({"echo": lambda: [echo]}, BatchSettings())
        await repository.load("echo")
        echo.gate.clear()
        server = GrpcServer(Service(repository), host="127.0.0.1", port=0)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{await server.start()}") as channel:
            call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(one(1))
            while not echo.batches:
                await asyncio.sleep(0.002)
            if not hangs:
                asyncio.get_running_loop().call_later(0.05, echo.gate.set)
            assert await server.stop(0.2 if hangs else 20) is not hangs
            assert (await call.code() == grpc.StatusCode.OK) is not hangs
        echo.gate.set()
        assert await repository.drain(20)

    asyncio.run(check())
