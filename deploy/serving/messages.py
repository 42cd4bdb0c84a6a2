"""Infer requests and replies: bodies ↔ what the batcher takes and gives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from deploy.errors import InputError
from deploy.runtime.base import Array
from deploy.serving.shared_memory import Access, Memory
from deploy.serving.tensors import (
    describe,
    from_bytes,
    json_data,
    parameters_of,
    read_inputs,
    to_bytes,
)
from deploy.specs import TensorSpec


@dataclass(frozen=True)
class Asked:
    """One output as a request wants it; ``classes`` above 0 is the classification extension.

    With ``memory`` it is written there, and the reply has no data of it.
    """

    name: str
    binary: bool
    classes: int = 0
    memory: Memory | None = None


@dataclass(frozen=True)
class InferRequest:
    """A request, read but not checked against the model. ``outputs`` None asks for all; ``timeout`` is in seconds."""

    feeds: dict[str, Array]
    id: str | None = None
    outputs: tuple[Asked, ...] | None = None
    binary: bool = False
    priority: int = 0
    timeout: float | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


def read_request(
    body: bytes | memoryview,
    header_length: str | None,
    inputs: Sequence[TensorSpec],
    shared: Access | None = None,
) -> InferRequest:
    """A request's body; ``header_length`` is the header Inference-Header-Content-Length.

    Raises:
        InputError: it is not what the protocol says.
        Unsupported: it uses an extension that is not here.
    """
    shared = shared or Access()
    length = len(body) if header_length is None else _length(header_length, len(body))
    if length == 0 and header_length is not None:
        return InferRequest({inputs[0].name: _raw(body, inputs)}, binary=True)
    try:
        fields = orjson.loads(body[:length])
    except orjson.JSONDecodeError as error:
        raise InputError("the request is not JSON", got=str(error)) from error
    if not isinstance(fields, dict):
        raise InputError("the request is not a JSON object")
    parameters = parameters_of(fields)
    identifier = fields.get("id")
    if identifier is not None and not isinstance(identifier, str):
        raise InputError("the id is a text", got=type(identifier).__name__)
    binary = _flag(parameters, "binary_data_output")
    return InferRequest(
        read_inputs(fields.get("inputs"), memoryview(body)[length:], shared),
        identifier,
        _asked(fields.get("outputs"), binary, shared),
        binary,
        *waiting(parameters),
        parameters,
    )


def _length(text: str, most: int) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 12 or int(text) > most:
        raise InputError("the Inference-Header-Content-Length is not in the body", got=text, expected=f"0 to {most}")
    return int(text)


def _raw(body: bytes | memoryview, inputs: Sequence[TensorSpec]) -> Array:
    """A body that is the one input itself: one row where the batch is dynamic; what one more open axis can hold."""
    spec = inputs[0]
    shape = [1 if axis == 0 and isinstance(dim, str) else dim for axis, dim in enumerate(spec.shape)]
    sized = math.prod(dim for dim in shape if isinstance(dim, int))
    if len(inputs) != 1 or sum(isinstance(dim, str) for dim in shape) > (spec.dtype != "object" and sized > 0):
        raise InputError("a raw body needs a model with one input of one size", got=", ".join(map(str, inputs)))
    rest = len(body) // max(1, sized * np.dtype(spec.dtype).itemsize)
    return from_bytes(spec.name, body, spec.dtype, [rest if isinstance(dim, str) else dim for dim in shape])


def waiting(parameters: Mapping[str, Any]) -> tuple[int, float | None]:
    """Priority, and the timeout in seconds, which requests have in microseconds."""
    return _count(parameters, "priority"), _count(parameters, "timeout") / 1e6 or None


def _asked(outputs: object, binary: bool, shared: Access) -> tuple[Asked, ...] | None:
    if outputs is None or outputs == []:
        return None
    if not isinstance(outputs, list):
        raise InputError("outputs are a list")
    asked = []
    for output in outputs:
        if not isinstance(output, dict) or not isinstance(output.get("name"), str):
            raise InputError("an output is an object with a name")
        asked.append(asked_for(output["name"], parameters_of(output), binary, shared))
    return tuple(asked)


def asked_for(name: str, parameters: Mapping[str, Any], binary: bool, shared: Access) -> Asked:
    """An output with its parameters; ``binary`` where they do not say."""
    classes, place = _count(parameters, "classification"), shared.placement(parameters)
    if classes and place:
        raise InputError("Output can't set both 'shared_memory_region' and 'classification'", got=name)
    memory = shared.memory(place) if place else None
    return Asked(name, _flag(parameters, "binary_data", binary), classes, memory)


def _flag(parameters: Mapping[str, Any], name: str, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InputError(f"{name} is true or false", got=type(value).__name__)
    return value


def _count(parameters: Mapping[str, Any], name: str) -> int:
    value = parameters.get(name, 0)
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise InputError(f"{name} is a count", got=repr(value)[:40])
    return value


def asked_of(request: InferRequest, outputs: Sequence[TensorSpec]) -> tuple[Asked, ...]:
    """The outputs that the reply holds. Raises :class:`InputError` for one that the model has not."""
    names = [spec.name for spec in outputs]
    asked = request.outputs or tuple(Asked(name, request.binary) for name in names)
    unknown = [one.name for one in asked if one.name not in names]
    if unknown:
        raise InputError("the model has no such output", got=unknown, expected=names)
    return tuple({one.name: one for one in asked}.values())  # one that is asked for twice comes once


@dataclass(frozen=True)
class InferReply:
    """What was asked for, with its data; ``id`` is the request's."""

    model: str
    version: str
    id: str | None
    outputs: Sequence[tuple[Asked, Array]]


def write_reply(reply: InferReply) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON where binary tensors follow."""
    described, tail = [], []
    for one, array in reply.outputs:
        fields = describe(one.name, array)
        if one.memory is not None:
            pass  # the client has it already
        elif one.binary:
            tail.append(to_bytes(array))
            fields["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            fields["data"] = json_data(array)
        described.append(fields)
    head = {"model_name": reply.model, "model_version": reply.version, **({"id": reply.id} if reply.id else {})}
    text = orjson.dumps({**head, "outputs": described}, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"".join([text, *tail]), len(text) if tail else None
