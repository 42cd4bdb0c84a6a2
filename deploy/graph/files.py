"""ONNX files: read with a clear error, written atomically, the manifest in their metadata.

A protobuf message ends at 2 GB. Beyond that weights lie in a second file beside the graph, ``FILE.onnx.data``; they are
then mapped into memory where they are read, and written one by one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path, PurePath

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from deploy.artifacts import replacing_all, sha256_bytes, write_bytes
from deploy.errors import InputError
from deploy.manifest import METADATA_KEY, Manifest

REEXPORT = "Export it again: python export.py --model NAME."
# Bytes of weights that one file holds: protobuf's 2 GiB, less room for the graph around them.
LIMIT = 2**31 - 2**27
# Smaller tensors stay in the graph: shapes and axes, which readers want without a second file.
_SMALLEST_OUTSIDE = 1024


def load(path: Path) -> ir.Model:
    """Read an ONNX file.

    Raises:
        InputError: missing, not an ONNX file, truncated, or its external data is missing.
    """
    if not path.is_file():
        raise InputError(f"no ONNX file at {path}", fix=REEXPORT)
    try:
        proto = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise InputError(f"{path} is not an ONNX file, or it is truncated", got=_reason(error), fix=REEXPORT) from error
    except OSError as error:
        raise InputError(f"cannot read {path}", got=_reason(error)) from error
    if not proto.graph.node and not proto.graph.output:
        size = path.stat().st_size
        raise InputError(f"{path} holds no graph", got=f"{size} bytes", fix=REEXPORT)
    model: ir.Model = ir.from_proto(proto)
    if any(a.type is ir.AttributeType.TENSOR and isinstance(a.value, ir.ExternalTensor) for a in _attributes(model)):
        LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    _find_weights(model, path)
    return model


def _find_weights(model: ir.Model, path: Path) -> None:
    """Read weights that lie outside the file, or, where there are too many for one file, map them into memory."""
    for tensor in _tensors(model):
        if isinstance(tensor, ir.ExternalTensor):
            _check_external(tensor, path)
    ir.external_data.set_base_dir(model.graph, path.parent)
    if fits(model):
        ir.external_data.load_to_model(model)


def _attributes(model: ir.Model) -> Iterator[ir.Attr]:
    for graph in model.graphs():
        for node in graph:
            yield from node.attributes.values()


def _check_external(tensor: ir.ExternalTensor, path: Path) -> None:
    """Hostile files name others of this machine; copied ones come without their weights, or with some of them."""
    location = PurePath(tensor.location)
    if location.is_absolute() or ".." in location.parts:
        fix = "Save it with its weights beside it: onnx.save(model, path, save_as_external_data=True)."
        raise InputError(f"cannot read {path}", got=f"weights outside its folder: {location}", fix=fix)
    data = path.parent / location
    fix = "Copy it with its graph: the two are one model."
    if not data.is_file():
        raise InputError(f"cannot read {path}", got=f"no file {data} with its weights", fix=fix)
    end, size = (tensor.offset or 0) + (tensor.length or tensor.nbytes), data.stat().st_size
    if end > size:
        raise InputError(f"cannot read {path}", got=f"{data} ends at {size} bytes", expected=f"{end} or more", fix=fix)


def _tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value


def fits(model: ir.Model) -> bool:
    """Whether one file holds the model with its weights."""
    return sum(tensor.nbytes for tensor in _tensors(model)) <= LIMIT


def external_files(model: ir.Model) -> set[Path]:
    """The files that a model's weights are read from as they are needed."""
    return {Path(tensor.path) for tensor in _tensors(model) if isinstance(tensor, ir.ExternalTensor)}


def data_path(path: Path) -> Path:
    """``net.onnx`` → ``net.onnx.data``: the weights of a model that does not fit one file."""
    return path.with_name(f"{path.name}.data")


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def to_bytes(model: ir.Model) -> bytes:
    """The serialised protobuf with all weights; the same model gives the same bytes. It must fit one file."""
    if any(isinstance(tensor, ir.ExternalTensor) for tensor in _tensors(model)):
        model = ir.external_data.load_to_model(model.clone())
    return _serialized(model)


def _serialized(model: ir.Model) -> bytes:
    return bytes(ir.to_proto(model).SerializeToString(deterministic=True))


def write(path: Path, model: ir.Model) -> bytes:
    """Write ``path``, with the weights of a model that does not fit one file in :func:`data_path`; not atomically.

    Returns what is in ``path`` itself.
    """
    if fits(model):
        content = to_bytes(model)
    else:
        outside = model.clone()
        ir.external_data.unload_from_model(
            outside, path.parent, data_path(path).name, size_threshold_bytes=_SMALLEST_OUTSIDE
        )
        content = _serialized(outside)
    path.write_bytes(content)
    return content


def serialize(model: ir.Model, manifest: Manifest) -> bytes:
    """The bytes of ``model`` with ``manifest`` in its metadata. It must fit one file."""
    return to_bytes(with_manifest(model, manifest))


def with_manifest(model: ir.Model, manifest: Manifest) -> ir.Model:
    """``model`` itself, with ``manifest`` in its metadata."""
    model.metadata_props[METADATA_KEY] = manifest.to_json()
    return model


def save(path: Path, model: ir.Model, manifest: Manifest) -> bytes:
    """Write ``model`` with its manifest to ``path``, atomically, and return what is in that file."""
    if fits(model):
        data = serialize(model, manifest)
        write_bytes(path, data)
        return data
    with replacing_all(data_path(path), path) as folder:
        return write(folder / path.name, with_manifest(model, manifest))


def read_manifest(model: ir.Model, where: str) -> Manifest | None:
    """The manifest in a model's metadata, or None where there is none (a graph that others made)."""
    text = model.metadata_props.get(METADATA_KEY)
    return None if text is None else Manifest.from_json(text, where)


def graph_digest(model: ir.Model) -> str:
    """SHA-256 of the graph alone: the same whatever the metadata says, and wherever the file lies."""
    if not fits(model):
        return _digest_in_pieces(model)
    if external_files(model):
        model = ir.external_data.load_to_model(model.clone())
    proto = ir.to_proto(model)
    del proto.metadata_props[:]
    return sha256_bytes(proto.SerializeToString(deterministic=True))


def _digest_in_pieces(model: ir.Model) -> str:
    """The weights one by one, then the graph without them."""
    digest, rest = hashlib.sha256(), model.clone()
    for graph in rest.graphs():
        for name, value in graph.initializers.items():
            if value.const_value is not None:
                digest.update(f"{name} {value.const_value.dtype} {value.const_value.shape} ".encode())
                digest.update(value.const_value.tobytes())
                value.const_value = ir.Tensor(np.empty(0, np.int8), name=name)  # no value at all is warned of
    proto = ir.to_proto(rest)
    del proto.metadata_props[:]
    digest.update(proto.SerializeToString(deterministic=True))
    return digest.hexdigest()
