"""The FP32 graph a build starts from: ours with its manifest, or one that others made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from deploy.data.arrays import ArraySource
from deploy.errors import InputError
from deploy.graph import files
from deploy.graph.indices import index_limits
from deploy.graph.nms import attach_nms, detach_nms, detections_spec
from deploy.graph.sizes import fix_image_size
from deploy.graph.twin import precision_of
from deploy.images.default import default_preprocessing, describe_default
from deploy.images.detect import SCORES
from deploy.manifest import Manifest
from deploy.parity.inputs import synthetic_batches
from deploy.runtime.base import Array
from deploy.specs import NmsSettings, Precision, TensorSpec
from deploy.workflows.foreign import Say, flatten, prepare

# Enough to tell a graph from another, few enough for any machine.
_ROWS = 2


@dataclass(frozen=True)
class Source:
    """A loaded graph. ``manifest`` is never None: for a foreign graph it is what the graph itself tells.

    ``as_filed`` is False where the file holds another form of ``graph``: older, not simplified, or with open axes.
    Where the file ends in NMS, ``graph`` and ``manifest`` are those of the network before it, and ``nms`` is not None.
    """

    path: Path
    graph: ir.Model
    manifest: Manifest
    precision: Precision
    as_filed: bool = True
    nms: NmsSettings | None = None

    def finished(self, graph: ir.Model, manifest: Manifest) -> tuple[ir.Model, Manifest]:
        """``graph``, made of this one, with its manifest, as files of it are: ending in NMS where this one's does."""
        return (graph, manifest) if self.nms is None else with_nms(graph, manifest, self.nms)


def with_nms(graph: ir.Model, manifest: Manifest, settings: NmsSettings) -> tuple[ir.Model, Manifest]:
    """A detector's graph that ends in NMS, and the manifest that says so. Raises as :func:`attach_nms`."""
    ended = attach_nms(graph, settings)
    (scores,) = (spec for spec in manifest.outputs if spec.name == SCORES)
    return ended, manifest.evolve(nms=settings, outputs=(detections_spec(scores, settings),))


def load_source(
    path: Path, note: Say, warn: Say, image_size: tuple[int, int] | None = None, data: Path | None = None
) -> Source:
    """Read an ONNX file; a missing manifest is made up with torchvision's usual preprocessing, and said.

    A foreign FP32 graph is raised to opset 19 and simplified (:mod:`deploy.workflows.foreign`).

    Args:
        path: the file.
        note: told what was done to a foreign graph.
        warn: told what was assumed of it.
        image_size: height and width in pixels, where the graph leaves them open.
        data: where it is an ``.npz`` file, changes of a foreign graph are checked on its arrays.

    Raises:
        InputError: the file cannot be read, or no engine can be built from it.
    """
    graph, nms = detach_nms(files.load(path))
    precision = precision_of(graph)
    manifest = files.read_manifest(graph, str(path))
    if manifest is not None and nms is not None:
        manifest = manifest.evolve(nms=None, outputs=_specs(graph.graph.outputs))
    if image_size is not None:
        graph = fix_image_size(graph, image_size)
        manifest = manifest and manifest.evolve(inputs=_specs(graph.graph.inputs), outputs=_specs(graph.graph.outputs))
    if manifest is not None:
        _check_axes(path, manifest.inputs)
        return Source(path, graph, manifest, precision, image_size is None, nms)
    graph = flatten(graph, str(path))
    manifest = _foreign(path, graph, precision, warn)
    _check_axes(path, manifest.inputs)
    if precision is Precision.FP32:
        prepared = prepare(graph, str(path), _feeds(graph, manifest, data), note, warn)
        # A large file was not simplified, only raised: the builder reads older opsets, and a copy is not made for it.
        same = prepared is graph or not files.fits(graph)
        return Source(path, prepared, manifest, precision, same and image_size is None, nms)
    return Source(path, graph, manifest, precision, image_size is None, nms)


def _check_axes(path: Path, inputs: Sequence[TensorSpec]) -> None:
    for spec in inputs:
        if any(isinstance(dim, str) for dim in spec.shape[1:]):
            raise InputError(
                f"input '{spec.name}' of {path} has a dynamic axis other than the batch",
                got=spec,
                expected="only the first axis dynamic",
                fix="Give --image-size S, or export the model with a fixed image size."
                if len(spec.shape) == 4
                else "Export the model with this axis fixed.",
            )


def _feeds(graph: ir.Model, manifest: Manifest, data: Path | None) -> list[Mapping[str, Array]]:
    if data is not None and data.suffix == ".npz":
        return list(ArraySource(data, manifest.inputs, _ROWS).batches(_ROWS))
    return list(synthetic_batches(manifest.inputs, manifest.preprocessing, [_ROWS], below=index_limits(graph)))


def _foreign(path: Path, graph: ir.Model, precision: Precision, warn: Say) -> Manifest:
    inputs, outputs = _specs(graph.graph.inputs), _specs(graph.graph.outputs)
    try:
        preprocessing = default_preprocessing(inputs)
        warn(f"{path} has no manifest: assuming preprocessing {describe_default(preprocessing)}")
    except InputError as error:
        preprocessing = None
        warn(f"{path} has no manifest, and no image preprocessing fits it ({error.what})")
    return Manifest(path.stem, precision, inputs, outputs, preprocessing=preprocessing)


def _specs(values: Sequence[ir.Value]) -> tuple[TensorSpec, ...]:
    return tuple(_spec(value) for value in values)


def _spec(value: ir.Value) -> TensorSpec:
    if value.shape is None or value.dtype is None:
        raise InputError(f"tensor '{value.name}' has no shape or type", fix="Run onnx's shape inference on the file.")
    shape = tuple(dim if isinstance(dim, int) else dim.value or f"dim{axis}" for axis, dim in enumerate(value.shape))
    return TensorSpec(str(value.name), value.dtype.numpy().name, shape)
