"""ONNX files: read with a clear error, written atomically, the manifest in their metadata."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from deploy.artifacts import sha256_bytes, write_bytes
from deploy.errors import InputError
from deploy.manifest import METADATA_KEY, Manifest

REEXPORT = "Export it again: python export.py --model NAME."


def load(path: Path) -> ir.Model:
    """Read an ONNX file.

    Raises:
        InputError: missing, not an ONNX file, truncated, or its external data is missing.
    """
    if not path.is_file():
        raise InputError(f"no ONNX file at {path}", fix=REEXPORT)
    try:
        proto = onnx.load(path)
    except (DecodeError, ValueError) as error:
        raise InputError(f"{path} is not an ONNX file, or it is truncated", got=_reason(error), fix=REEXPORT) from error
    except (OSError, onnx.checker.ValidationError) as error:
        raise InputError(f"cannot read {path}", got=_reason(error)) from error
    if not proto.graph.node and not proto.graph.output:
        size = path.stat().st_size
        raise InputError(f"{path} holds no graph", got=f"{size} bytes", fix=REEXPORT)
    return ir.from_proto(proto)


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def to_bytes(model: ir.Model) -> bytes:
    """The serialised protobuf; the same model gives the same bytes."""
    return bytes(ir.to_proto(model).SerializeToString(deterministic=True))


def serialize(model: ir.Model, manifest: Manifest) -> bytes:
    """The bytes of ``model`` with ``manifest`` in its metadata."""
    model.metadata_props[METADATA_KEY] = manifest.to_json()
    return to_bytes(model)


def save(path: Path, model: ir.Model, manifest: Manifest) -> bytes:
    """Write ``model`` with its manifest to ``path`` and return the bytes written."""
    data = serialize(model, manifest)
    write_bytes(path, data)
    return data


def read_manifest(model: ir.Model, where: str) -> Manifest | None:
    """The manifest in a model's metadata, or None where there is none (a graph that others made)."""
    text = model.metadata_props.get(METADATA_KEY)
    return None if text is None else Manifest.from_json(text, where)


def graph_digest(model: ir.Model) -> str:
    """SHA-256 of the graph alone: the same whatever the metadata says, and wherever the file lies."""
    proto = ir.to_proto(model)
    del proto.metadata_props[:]
    return sha256_bytes(proto.SerializeToString(deterministic=True))
