"""The manifest: what an artefact is, where it came from and what was measured on it.

One schema for all artefacts. It travels in an ONNX file's ``metadata_props["deploy"]`` and beside a plan as
``<plan>.json``; nothing is prepended to a plan, so trtexec and Triton load it as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from deploy.artifacts import plan_manifest_path, write_bytes
from deploy.errors import InputError
from deploy.specs import NmsSettings, Precision, Preprocessing, ShapeProfile, TensorSpec

SCHEMA = 1
METADATA_KEY = "deploy"

_T = TypeVar("_T")


@dataclass(frozen=True)
class Weights:
    """Where the parameters came from.

    ``source`` is ``official``, ``file``, ``random``, ``code`` (as the network's own code made them) or ``unknown``.
    """

    source: str
    name: str | None = None
    sha256: str | None = None

    @property
    def warning(self) -> str | None:
        """What every command that uses such an artefact tells the user."""
        if self.source == "random":
            return "the weights are RANDOM (no checkpoint was loaded): predictions mean nothing"
        return None


@dataclass(frozen=True)
class EngineInfo:
    """What a plan was built by and for. ``None`` means that the builder does not tell (no GPU was there).

    ``inspection`` is what the inspector found in it, or why it could not look. ``device_memory`` is what it took of
    the GPU's memory when it was run, in bytes.
    """

    flavour: str
    version: str
    batch: ShapeProfile
    onnx_file: str
    onnx_sha256: str
    plan_sha256: str
    compute_capability: str | None = None
    gpu: str | None = None
    driver: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    inspection: dict[str, Any] | None = None
    device_memory: int | None = None


@dataclass(frozen=True)
class Manifest:
    """One artefact's description; see the fields. Sizes are in elements, hashes are SHA-256 in hex.

    ``nms`` is set where the graph ends in it; its outputs are then ``detections``.
    """

    model: str
    precision: Precision
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    task: str = "classification"
    weights: Weights = Weights("unknown")
    preprocessing: Preprocessing | None = None
    labels: tuple[str, ...] | None = None
    parameters: int | None = None
    macs: int | None = None
    tools: dict[str, str] = field(default_factory=dict)
    parity: tuple[dict[str, Any], ...] = ()
    quantization: dict[str, Any] | None = None
    engine: EngineInfo | None = None
    nms: NmsSettings | None = None
    schema: int = SCHEMA

    def to_dict(self) -> dict[str, Any]:
        fields = asdict(self)
        fields["precision"] = str(self.precision)
        fields["preprocessing_sha256"] = self.preprocessing.digest() if self.preprocessing else None
        return fields

    def to_json(self, indent: int | None = None) -> str:
        return json.dumps(self.to_dict(), indent=indent, sort_keys=True)

    @staticmethod
    def from_json(text: str | bytes, where: str) -> Manifest:
        """Read a manifest; ``where`` names its file in the :class:`InputError` raised for a broken one."""
        try:
            fields = json.loads(text)
            schema = fields["schema"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"the manifest of {where} cannot be read", got=repr(error)) from error
        if schema != SCHEMA:
            raise InputError(
                f"the manifest of {where} has another schema",
                got=schema,
                expected=SCHEMA,
                fix="Export the model again with this version.",
            )
        try:
            return _from_fields(fields)
        except (KeyError, TypeError, ValueError, ArithmeticError, IndexError, InputError) as error:
            raise InputError(f"the manifest of {where} is damaged", got=repr(error)) from error

    def evolve(self, **changes: Any) -> Manifest:
        """A copy with some fields replaced."""
        return replace(self, **changes)


def _from_fields(fields: Mapping[str, Any]) -> Manifest:
    known = _known(Manifest, fields)
    known["precision"] = Precision(fields["precision"])
    for side in ("inputs", "outputs"):
        known[side] = tuple(TensorSpec.from_dict(tensor) for tensor in fields[side])
    known["weights"] = Weights(**_known(Weights, fields["weights"]))
    known["parity"] = tuple(_typed(dict, figures) for figures in fields["parity"])
    if fields["labels"] is not None:
        known["labels"] = tuple(_typed(str, label) for label in fields["labels"])
    weights = known["weights"]
    for text in filter(None, (known["model"], known.get("task"), weights.source, weights.name, weights.sha256)):
        _typed(str, text)
    if known.get("quantization") is not None:
        _typed(dict, known["quantization"])
    if fields["preprocessing"] is not None:
        known["preprocessing"] = Preprocessing.from_dict(fields["preprocessing"])
    if fields.get("nms") is not None:
        known["nms"] = NmsSettings(**_known(NmsSettings, fields["nms"]))
    if fields["engine"] is not None:
        engine = _known(EngineInfo, fields["engine"])
        engine["batch"] = ShapeProfile(**engine["batch"])
        known["engine"] = EngineInfo(**engine)
    return Manifest(**known)


def _known(kind: type[Manifest | Weights | EngineInfo | NmsSettings], values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that this version knows: a later one may have written more."""
    return {name: values[name] for name in kind.__dataclass_fields__ if name in values}


def _typed(kind: type[_T], value: object) -> _T:
    if not isinstance(value, kind):
        raise TypeError(f"{value!r:.80} is not a {kind.__name__}")
    return value


def read_plan_manifest(plan: Path) -> Manifest | None:
    """The manifest beside a plan, or None where there is none (a plan that others built)."""
    path = plan_manifest_path(plan)
    return Manifest.from_json(path.read_bytes(), str(path)) if path.is_file() else None


def write_plan_manifest(plan: Path, manifest: Manifest) -> None:
    """Write ``<plan>.json`` beside a plan."""
    write_bytes(plan_manifest_path(plan), manifest.to_json(indent=2).encode())
