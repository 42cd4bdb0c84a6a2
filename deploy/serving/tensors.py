"""The Open Inference Protocol's tensors ↔ arrays, in JSON and in the binary tensor extension.

Source: the KServe v2 REST protocol and Triton's extensions "binary tensor data" and "classification".
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deploy.errors import InputError
from deploy.runtime.base import Array
from deploy.serving.shared_memory import Access
from deploy.specs import Dim

# The protocol's names of types → numpy's. BYTES are arrays of Python's bytes.
DTYPES = {
    "BOOL": "bool",
    **{f"{sign}INT{bits}": f"{sign.lower()}int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": f"float{bits}" for bits in (16, 32, 64)},
    "BYTES": "object",
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
_MOST_ELEMENTS = 1 << 60  # what numpy can address
_NAMES_OF = {np.dtype(dtype): name for name, dtype in DTYPES.items()}  # numpy takes microseconds to name a dtype
_LENGTH = struct.Struct("<I")
_MAX_RANK = 32  # numpy 1's; numpy 2 has 64


def shape_of(dims: Sequence[Dim]) -> list[int]:
    """A shape as the protocol says it: -1 for what is dynamic."""
    return [dim if isinstance(dim, int) else -1 for dim in dims]


def read_inputs(inputs: object, binary: bytes | memoryview, shared: Access) -> dict[str, Array]:
    """The tensors of a request; ``binary`` is what follows its JSON, ``shared`` reads the others' memory.

    Raises:
        InputError: a field is missing or of the wrong kind, or data does not fill its shape.
    """
    if not isinstance(inputs, list) or not inputs:
        raise InputError("the request has no inputs")
    feeds: dict[str, Array] = {}
    offset = 0
    for tensor in inputs:
        name, dtype, shape, parameters = _head(tensor)
        if name in feeds:
            raise InputError(f"input '{name}' is there twice")
        place, size = shared.placement(parameters), parameters.get("binary_data_size")
        if place is not None:
            feeds[name] = from_bytes(name, shared.read(place), dtype, shape)
            continue
        if size is None:
            feeds[name] = _from_json(name, tensor.get("data"), dtype, shape)
            continue
        if "data" in tensor:
            raise InputError(f"input '{name}' has both data and a binary_data_size")
        if type(size) is not int or not 0 <= size <= len(binary) - offset:
            raise InputError(f"the binary_data_size of input '{name}' is not in the body", got=size)
        feeds[name] = from_bytes(name, binary[offset : offset + size], dtype, shape)
        offset += size
    if offset != len(binary):
        raise InputError("the body has more bytes than its inputs", got=len(binary), expected=offset)
    return feeds


def _head(tensor: object) -> tuple[str, str, list[int], dict[str, Any]]:
    fields: dict[str, Any] = tensor if isinstance(tensor, dict) else {}
    name, datatype, shape = (fields.get(key) for key in ("name", "datatype", "shape"))
    parameters = parameters_of(fields)
    if not isinstance(name, str):
        raise InputError("an input is an object with a name, a datatype, a shape and data")
    if not isinstance(datatype, str) or datatype not in DTYPES:
        raise InputError(f"the datatype of input '{name}' is not known", got=datatype, expected=", ".join(DTYPES))
    return name, DTYPES[datatype], read_shape(name, shape), parameters


def read_shape(name: str, shape: object) -> list[int]:
    """Raises :class:`InputError` unless ``shape`` is a list of counts that an array can have, empty ones too."""
    counts: list[int] = shape if isinstance(shape, list) and len(shape) <= _MAX_RANK else [-1]
    if any(type(dim) is not int or dim < 0 for dim in counts) or math.prod(d or 1 for d in counts) >= _MOST_ELEMENTS:
        raise InputError(f"the shape of input '{name}' is a list of counts", got=str(shape)[:80])
    return counts


def _from_json(name: str, data: object, dtype: str, shape: list[int]) -> Array:
    if dtype == "object":
        values = _texts(name, data)
        return shaped(name, values, shape)
    try:
        values = np.asarray(data)
    except ValueError as error:
        raise InputError(f"the data of input '{name}' are not numbers in one shape") from error
    allowed = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}[np.dtype(dtype).kind]
    if not isinstance(data, list) or (values.size and values.dtype.kind not in allowed):
        raise InputError(f"the data of input '{name}' are not {NAMES[dtype]}")
    return shaped(name, in_range(name, values, dtype), shape)


def in_range(name: str, values: Array, dtype: str) -> Array:
    """``values`` as ``dtype``. Raises :class:`InputError` for an integer beyond it; floats become infinite."""
    if values.size and np.dtype(dtype).kind in "iu":
        limits = np.iinfo(dtype)
        if int(values.min()) < limits.min or int(values.max()) > limits.max:
            raise InputError(f"the data of input '{name}' do not fit {NAMES[dtype]}")
    with np.errstate(over="ignore"):
        return values.astype(dtype, copy=False)


def _texts(name: str, data: object) -> Array:
    flat: list[bytes] = []
    pending = [data]
    while pending:
        item = pending.pop()
        if isinstance(item, list):
            pending.extend(reversed(item))
        elif isinstance(item, str):
            flat.append(item.encode())
        else:
            raise InputError(f"the data of input '{name}' are not texts")
    return objects(flat)


def objects(items: Sequence[bytes]) -> Array:
    """BYTES elements, flat."""
    array = np.empty(len(items), object)
    array[:] = items
    return array


def shaped(name: str, values: Array, shape: list[int]) -> Array:
    """``values`` in ``shape``. Raises :class:`InputError` where they do not fill it."""
    if values.size != math.prod(shape):
        raise InputError(
            f"the data of input '{name}' do not fill its shape", got=f"{values.size} elements", expected=shape
        )
    return values.reshape(shape)


def from_bytes(name: str, raw: bytes | memoryview, dtype: str, shape: list[int]) -> Array:
    """Little-endian elements in row-major order; each of BYTES has its length in front (u32)."""
    if dtype == "object":
        return shaped(name, objects(_elements(name, raw, math.prod(shape))), shape)
    kind = np.dtype(dtype).newbyteorder("<")
    if len(raw) != math.prod(shape) * kind.itemsize:
        expected = f"{math.prod(shape) * kind.itemsize} for {NAMES[dtype]}{shape}"
        raise InputError(f"input '{name}' has another number of bytes", got=len(raw), expected=expected)
    return np.frombuffer(raw, kind).reshape(shape)


def _elements(name: str, raw: bytes | memoryview, most: int) -> list[bytes]:
    items: list[bytes] = []
    offset = 0
    while offset < len(raw):
        if len(items) == most:
            raise InputError(f"input '{name}' has more elements than its shape", expected=most)
        if len(raw) - offset < _LENGTH.size:
            raise InputError(f"input '{name}' ends within a length")
        (length,) = _LENGTH.unpack_from(raw, offset)
        offset += _LENGTH.size
        if length > len(raw) - offset:
            raise InputError(f"input '{name}' ends within an element")
        items.append(bytes(raw[offset : offset + length]))
        offset += length
    return items


def to_bytes(array: Array) -> bytes:
    """What :func:`from_bytes` reads."""
    if array.dtype == object:
        return b"".join(_LENGTH.pack(len(item)) + item for item in array.reshape(-1))
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def classes(array: Array, count: int, labels: Sequence[str] | None) -> Array:
    """The classification extension: each row's ``count`` largest as ``value:index`` or ``value:index:label``."""
    if array.dtype == object:
        raise InputError("BYTES have no classes")
    if not array.size:
        raise InputError("an empty output has no classes")
    rows = array.reshape(len(array) if array.ndim > 1 else 1, -1)
    digits = "f" if array.dtype.kind == "f" else "d"
    order = np.argsort(-rows.astype(np.float64), axis=1, kind="stable")[:, :count]
    named = labels if labels is not None and len(labels) == rows.shape[1] else None
    texts = [
        f"{row[index]:{digits}}:{index}" + (f":{named[index]}" if named else "")
        for row, best in zip(rows, order)
        for index in best
    ]
    return objects([text.encode() for text in texts]).reshape(order.shape)


def describe(name: str, array: Array) -> dict[str, Any]:
    """A tensor of a reply without its data."""
    return {"name": name, "datatype": _NAMES_OF[array.dtype], "shape": list(array.shape)}


def json_data(array: Array) -> Array | list[str]:
    """A tensor's data for orjson: flat, in row-major order."""
    if array.dtype == object:
        return [item.decode(errors="replace") for item in array.reshape(-1)]
    return np.ascontiguousarray(array.reshape(-1))


def parameters_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The ``parameters`` of a request or an output."""
    parameters = fields.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise InputError("parameters are an object", got=type(parameters).__name__)
    return parameters
