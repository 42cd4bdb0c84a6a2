"""Infer requests and replies: gRPC's messages ↔ what the service takes and gives.

Source: the KServe v2 gRPC protocol. Tensors come in ``raw_input_contents``, one for each input that is
not in shared memory, in the inputs' order, or as numbers in each input's ``contents``; replies have raw ones alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from deploy.errors import InputError
from deploy.runtime.base import Array
from deploy.serving.messages import InferReply, InferRequest, asked_for, waiting
from deploy.serving.protobuf import message
from deploy.serving.shared_memory import Access
from deploy.serving.tensors import DTYPES, NAMES, describe, from_bytes, in_range, objects, read_shape, shaped, to_bytes

# Type → the field of InferTensorContents that holds its elements, and the elements' type there. FP16 has none.
_CONTENTS = {
    "bool": ("bool_contents", "bool"),
    **dict.fromkeys(("int8", "int16", "int32"), ("int_contents", "int32")),
    "int64": ("int64_contents", "int64"),
    **dict.fromkeys(("uint8", "uint16", "uint32"), ("uint_contents", "uint32")),
    "uint64": ("uint64_contents", "uint64"),
    "float32": ("fp32_contents", "float32"),
    "float64": ("fp64_contents", "float64"),
    "object": ("bytes_contents", "object"),
}


def read_message(request: Any, shared: Access) -> InferRequest:
    """A ``ModelInferRequest``.

    Raises:
        InputError: it is not what the protocol says.
        Unsupported: it uses an extension that is not here.
    """
    parameters = parameters_of(request.parameters)
    asked = tuple(asked_for(one.name, parameters_of(one.parameters), True, shared) for one in request.outputs)
    return InferRequest(
        _inputs(request.inputs, request.raw_input_contents, shared),
        request.id or None,
        asked or None,
        True,
        *waiting(parameters),
        parameters,
    )


def parameters_of(fields: Any) -> dict[str, Any]:
    """A map of ``InferParameter``; one that holds nothing is None."""
    return {name: _value(choice) for name, choice in fields.items()}


def _value(parameter: Any) -> object:
    kind = parameter.WhichOneof("parameter_choice")
    return None if kind is None else getattr(parameter, kind)


def _inputs(inputs: Sequence[Any], raw: Sequence[bytes], shared: Access) -> dict[str, Array]:
    if not inputs:
        raise InputError("the request has no inputs")
    feeds: dict[str, Array] = {}
    contents = iter(raw) if raw else None
    for tensor in inputs:
        if tensor.name in feeds:
            raise InputError(f"input '{tensor.name}' is there twice")
        feeds[tensor.name] = _input(tensor, contents, shared)
    if contents is not None and next(contents, None) is not None:
        raise InputError("the request has more raw_input_contents than inputs", got=len(raw))
    return feeds


def _input(tensor: Any, contents: Iterator[bytes] | None, shared: Access) -> Array:
    name, dtype = tensor.name, DTYPES.get(tensor.datatype)
    if dtype is None:
        expected = ", ".join(DTYPES)
        raise InputError(f"the datatype of input '{name}' is not known", got=tensor.datatype, expected=expected)
    shape = read_shape(name, list(tensor.shape))
    place = shared.placement(parameters_of(tensor.parameters))
    if place is not None:
        return from_bytes(name, shared.read(place), dtype, shape)
    if contents is None:
        return _typed(name, tensor.contents, dtype, shape)
    if tensor.HasField("contents"):
        raise InputError(f"contents field must not be specified when using raw_input_contents for '{name}'")
    data = next(contents, None)
    if data is None:
        raise InputError(f"the raw_input_contents of input '{name}' are missing")
    return from_bytes(name, data, dtype, shape)


def _typed(name: str, contents: Any, dtype: str, shape: list[int]) -> Array:
    field, element = _CONTENTS.get(dtype, (None, dtype))
    for other, _ in contents.ListFields():
        if other.name != field:
            raise InputError(f"the contents of input '{name}' are not {NAMES[dtype]}", got=other.name, expected=field)
    if field is None:
        raise InputError(f"input '{name}' is {NAMES[dtype]}, which has no contents", fix="Send raw_input_contents.")
    values = list(getattr(contents, field))
    if dtype == "object":
        return shaped(name, objects(values), shape)
    return shaped(name, in_range(name, np.array(values, element), dtype), shape)


def write_message(reply: InferReply) -> Any:
    """A ``ModelInferResponse``. Outputs in shared memory have an empty place among ``raw_output_contents``."""
    made = message("inference.ModelInferResponse")(model_name=reply.model, model_version=reply.version, id=reply.id)
    for one, array in reply.outputs:
        made.outputs.add(**describe(one.name, array))
        made.raw_output_contents.append(b"" if one.memory is not None else to_bytes(array))
    return made
