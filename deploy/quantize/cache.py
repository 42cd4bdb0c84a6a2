"""The calibration artefact, ``<model>.int8.calib.json``: ranges, and what they were made of."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from deploy.artifacts import write_bytes
from deploy.errors import InputError

SCHEMA = 2


@dataclass(frozen=True)
class CalibrationCache:
    """Ranges and their origin. Hashes are SHA-256 in hex.

    Attributes:
        amax: tensor → the absolute value that INT8's 127 stands for.
        method: how it was found.
        images: the number of images seen.
        graph_sha256: of the FP32 ONNX file.
        data_sha256: of the images (:meth:`deploy.data.CalibrationData.digest`).
        preprocessing_sha256: :meth:`deploy.specs.Preprocessing.digest`, None for arrays fed as they are.
        keep_fp32: node that these images show to leave FP16's range → reason.
        equalization: factors of channels that were applied to the graph first
            (:func:`deploy.quantize.equalize.encode`); None: the graph was calibrated as it is.
        convergence: see :attr:`deploy.quantize.calibrate.CalibrationResult.convergence`.
        peak: tensor → max |x| seen, for :func:`deploy.graph.headroom.headroom`.
    """

    amax: Mapping[str, float]
    method: str
    images: int
    graph_sha256: str
    data_sha256: str
    preprocessing_sha256: str | None
    keep_fp32: Mapping[str, str] = field(default_factory=dict)
    equalization: str | None = None
    convergence: Mapping[str, float] = field(default_factory=dict)
    peak: Mapping[str, float] = field(default_factory=dict)
    schema: int = SCHEMA


def save(path: Path, cache: CalibrationCache) -> None:
    """Write ``cache`` atomically.

    Raises:
        InputError, MachineError: ``path`` cannot be written.
    """
    write_bytes(path, json.dumps(asdict(cache), indent=2, sort_keys=True, allow_nan=False).encode())


def load(path: Path) -> CalibrationCache:
    """Read a cache.

    Raises:
        InputError: missing, damaged, or of another schema.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    schema = fields.get("schema") if isinstance(fields, dict) else None
    if schema != SCHEMA:
        raise _damaged(path, f"schema {schema}", expected=f"schema {SCHEMA}")
    try:
        return _from_fields(fields)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path, repr(error)) from error


def why_not_reusable(
    cache: CalibrationCache,
    *,
    graph_sha256: str,
    preprocessing_sha256: str | None,
    method: str,
    tensors: Iterable[str],
    equalized: bool = False,
    data_sha256: str | None = None,
    images: int | None = None,
) -> str | None:
    """The first reason why ``cache`` does not answer this request; None if it does.

    ``data_sha256`` and ``images`` are None when the request names no data: then whatever made the cache is right.
    """
    missing = sorted(set(tensors) - set(cache.amax))
    checks = (
        (cache.graph_sha256 != graph_sha256, "it was made with another graph"),
        (cache.preprocessing_sha256 != preprocessing_sha256, "images were prepared in another way"),
        (cache.method != method, f"it was made with method {cache.method}, not {method}"),
        (equalized != (cache.equalization is not None), f"it was made with{'out' if equalized else ''} equalization"),
        (data_sha256 not in (None, cache.data_sha256), "it was made with other images"),
        (images not in (None, cache.images), f"it was made with {cache.images} images, not {images}"),
        (bool(missing), f"it has no range for tensor '{missing[0] if missing else ''}'"),
    )
    return next((reason for fails, reason in checks if fails), None)


def _from_fields(fields: Mapping[str, Any]) -> CalibrationCache:
    preprocessing = fields["preprocessing_sha256"]
    return CalibrationCache(
        amax=_ranges(fields["amax"]),
        method=_text(fields["method"]),
        images=int(fields["images"]),
        graph_sha256=_text(fields["graph_sha256"]),
        data_sha256=_text(fields["data_sha256"]),
        preprocessing_sha256=None if preprocessing is None else _text(preprocessing),
        keep_fp32={str(node): _text(reason) for node, reason in fields["keep_fp32"].items()},
        equalization=None if fields["equalization"] is None else _text(fields["equalization"]),
        convergence={str(int(images)): float(change) for images, change in fields["convergence"].items()},
        peak=_ranges(fields["peak"]),
    )


def _ranges(values: Mapping[str, Any]) -> dict[str, float]:
    found = {str(name): float(value) for name, value in values.items()}
    if unusable := [name for name, value in found.items() if not (math.isfinite(value) and value >= 0)]:
        raise ValueError(f"range of '{unusable[0]}' is {found[unusable[0]]}")
    return found


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value


def _damaged(path: Path, got: str, expected: str | None = None) -> InputError:
    fix = "Delete it and calibrate again with --calibration-data."
    return InputError(f"the calibration cache {path} cannot be read", got=got, expected=expected, fix=fix)
