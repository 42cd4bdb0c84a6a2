"""gRPC messages and Triton's clients → what is compared."""

from __future__ import annotations

import asyncio
import importlib
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
from google.protobuf.json_format import MessageToDict
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from conformance.cases_grpc import Call, GrpcCase
from conformance.observe import Server, elements, picked, short

_SERVICE = "/inference.GRPCInferenceService/"
_LIMITS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def observe_grpc(server: Server, case: GrpcCase) -> list[dict[str, Any]]:
    """One observation for each reply, or one for the error."""
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc}", options=_LIMITS) as channel:
        if case.stagger is not None:
            return [_settled(future.result, case) for future in _staggered(channel, case)]
        try:
            return [_message(reply, case) for reply in _replies(channel, case)]
        except (grpc.RpcError, grpc.FutureCancelledError) as error:
            return [_failure(error, case.about)]


def _settled(result: Callable[[], Any], case: GrpcCase) -> dict[str, Any]:
    try:
        return _message(result(), case)
    except grpc.RpcError as error:
        return _failure(error, case.about)


def _staggered(channel: grpc.Channel, case: GrpcCase) -> list[Any]:
    futures = []
    for message in case.messages:
        futures.append(_method(channel, case).future(service_pb2.ModelInferRequest(**message), timeout=case.timeout))
        time.sleep(case.stagger or 0)
    return futures


def _method(channel: grpc.Channel, case: GrpcCase) -> Any:
    request, reply = (getattr(service_pb2, f"{case.method}{side}") for side in ("Request", "Response"))
    return channel.unary_unary(_SERVICE + case.method, request.SerializeToString, reply.FromString)


def _replies(channel: grpc.Channel, case: GrpcCase) -> list[Any]:
    if case.wire is not None:
        return [channel.unary_unary(_SERVICE + case.method)(case.wire, timeout=case.timeout)]
    if case.method == "ModelStreamInfer":
        request, reply = service_pb2.ModelInferRequest, service_pb2.ModelStreamInferResponse
        call = channel.stream_stream(_SERVICE + case.method, request.SerializeToString, reply.FromString)
        return list(call((request(**message) for message in case.messages), timeout=case.timeout))
    message = getattr(service_pb2, f"{case.method}Request")(**case.messages[0])
    future = _method(channel, case).future(message, timeout=case.timeout)
    if case.cancel is not None:
        threading.Timer(case.cancel, future.cancel).start()
    return [future.result()]


def _failure(error: Any, about: str | None) -> dict[str, Any]:
    if isinstance(error, grpc.FutureCancelledError):
        return {"code": "CANCELLED"}
    text = error.details() or ""
    right = about is None or re.search(about, text, re.IGNORECASE)
    return {"code": error.code().name, **({} if right else {"about something else": text})}


def _message(message: Any, case: GrpcCase) -> dict[str, Any]:
    if isinstance(message, bytes):
        return {"code": "OK"}
    if case.method == "ModelInfer":
        return {"code": "OK", **_inferred(message)}
    if case.method == "ModelStreamInfer":
        return {"error": bool(message.error_message), **_inferred(message.infer_response)}
    document = MessageToDict(message, preserving_proto_field_name=True)
    return {"code": "OK", **(document if case.fields is None else picked(document, case.fields))}


def _inferred(reply: Any) -> dict[str, Any]:
    outputs = [
        {
            "name": one.name,
            "datatype": one.datatype,
            "shape": list(one.shape),
            "data": short(one.name, one.datatype, elements(raw, one.datatype), one.shape),
        }
        for one, raw in zip(reply.outputs, reply.raw_output_contents)
    ]
    parameters = {name: MessageToDict(value) for name, value in reply.parameters.items()}
    return {
        "model": reply.model_name,
        "version": reply.model_version,
        "id": reply.id,
        "outputs": outputs,
        "parameters": parameters,
    }


def observe_call(server: Server, case: Call) -> list[dict[str, Any]]:
    """What the client's method gave, or the status that it raised."""
    module = importlib.import_module(f"tritonclient.{case.client}")
    port = server.grpc if case.client.startswith("grpc") else server.address[1]
    run = _awaited if case.client.endswith("aio") else _called
    try:
        return [run(module, f"127.0.0.1:{port}", case)]
    except InferenceServerException as error:
        return [{"raises": error.status()}]


def _called(module: Any, address: str, case: Call) -> dict[str, Any]:
    with module.InferenceServerClient(address) as client:
        return _result(getattr(client, case.method)(**_arguments(module, case)), case)


def _awaited(module: Any, address: str, case: Call) -> dict[str, Any]:
    async def call() -> Any:
        async with module.InferenceServerClient(address) as client:
            return await getattr(client, case.method)(**_arguments(module, case))

    return _result(asyncio.run(call()), case)


def _arguments(module: Any, case: Call) -> dict[str, Any]:
    if case.inputs is None:
        return dict(case.arguments)
    inputs = []
    for name, array in case.inputs.items():
        inputs.append(module.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype)))
        inputs[-1].set_data_from_numpy(array)
    outputs = case.outputs and [module.InferRequestedOutput(name, class_count=case.classes) for name in case.outputs]
    return {**case.arguments, "inputs": inputs, "outputs": outputs}


def _result(result: Any, case: Call) -> dict[str, Any]:
    if case.inputs is None:
        return {"result": result if isinstance(result, (bool, dict, type(None))) else MessageToDict(result)}
    reply = result.get_response()
    reply = reply if isinstance(reply, dict) else MessageToDict(reply, preserving_proto_field_name=True)
    names = sorted(output["name"] for output in reply["outputs"])
    return {"id": reply.get("id", ""), "outputs": {name: _array(name, result.as_numpy(name)) for name in names}}


def _array(name: str, array: np.ndarray) -> dict[str, Any]:
    data = [
        item.decode(errors="backslashreplace") if isinstance(item, bytes) else item for item in array.ravel().tolist()
    ]
    return {"dtype": array.dtype.name, "shape": list(array.shape), "data": short(name, "", data, array.shape)}
