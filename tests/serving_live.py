"""A server with HTTP and gRPC on free ports, in a thread of its own; and requests to it."""

from __future__ import annotations

import asyncio
import threading
import time

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import uvicorn
from serving_fakes import Echo
from tritonclient.grpc import service_pb2

from deploy.runtime.base import Runner
from deploy.serving.grpc_server import GrpcServer
from deploy.serving.http import application
from deploy.serving.repository import Repository
from deploy.serving.service import Limits, Service
from deploy.serving.settings import BatchSettings
from deploy.specs import TensorSpec


class Same(Runner):
    """Gives back a tensor of any one type."""

    backend, execution = "fake", "fake"

    def __init__(self, dtype="float32", shape=("batch", "n")):
        self.inputs = (TensorSpec("x", dtype, shape),)
        self.outputs = (TensorSpec("y", dtype, shape),)

    def infer(self, feeds):
        self.check(feeds)
        return {"y": feeds["x"]}

    def close(self):
        pass


class Colours(Runner):
    """Mean and greatest value of each channel of an image."""

    backend, execution = "fake", "fake"
    inputs = (TensorSpec("input", "float32", ("batch", 3, 8, 8)),)
    outputs = (TensorSpec("mean", "float32", ("batch", 3)), TensorSpec("max", "float32", ("batch", 3)))

    def infer(self, feeds):
        self.check(feeds)
        return {"mean": feeds["input"].mean(axis=(2, 3)), "max": feeds["input"].max(axis=(2, 3))}

    def close(self):
        pass


def broken():
    raise RuntimeError("/secret/path/model.onnx is missing")


class BothLive:
    """``echo`` doubles and can be held; ``same_DTYPE`` gives back; ``colours`` takes images; ``broken`` never loads."""

    def __init__(self, *, queue=256, body=1 << 20, key=None, regions=None, dtypes=()):
        self.echo = Echo()
        openers = {"echo": lambda: [self.echo], "colours": lambda: [Colours()], "broken": broken}
        openers |= {f"same_{dtype}": lambda dtype=dtype: [Same(dtype)] for dtype in dtypes}
        self._names = [name for name in openers if name != "broken"]
        self.repository = Repository(openers, BatchSettings(max_batch=4, max_queue=queue))
        service = Service(self.repository, Limits(body=body, pixels=10_000), regions=regions)
        self._grpc = GrpcServer(service, host="127.0.0.1", port=0, key=key)
        app = application(service, key=key)
        self._http = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", lifespan="off"))
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._started.wait(30)

    async def _serve(self):
        for name in self._names:
            await self.repository.load(name)
        self.grpc = f"127.0.0.1:{await self._grpc.start()}"
        task = asyncio.create_task(self._http.serve())
        while not self._http.started:
            await asyncio.sleep(0.01)
        self.http = f"127.0.0.1:{self._http.servers[0].sockets[0].getsockname()[1]}"
        self._started.set()
        await task
        self.answered = await self.repository.drain()
        await self._grpc.stop(5)

    def stop(self):
        """Begin to drain."""
        self._http.should_exit = True

    def close(self):
        self.stop()
        self.echo.gate.set()
        self._thread.join(30)
        assert not self._thread.is_alive()


def eventually(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)


def echo_input(rows=ROWS):
    tensor = triton.InferInput("x", list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows)
    return [tensor]


def asking(rows=ROWS, model="echo", **fields):
    request = service_pb2.ModelInferRequest(model_name=model, **fields)
    request.inputs.add(name="x", datatype="FP32", shape=list(rows.shape))
    request.raw_input_contents.append(rows.tobytes())
    return request


def refused(call, *given, **options):
    with pytest.raises(grpc.RpcError) as caught:
        call(*given, **options)
    return caught.value.code(), caught.value.details()
