"""The FP32 graph a build starts from: ours with its manifest, or one that others made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from deploy.errors import InputError
from deploy.graph import files
from deploy.graph.nms import attach_nms, detach_nms, detections_spec
from deploy.graph.twin import precision_of
from deploy.images.default import default_preprocessing
from deploy.images.detect import SCORES
from deploy.manifest import Manifest
from deploy.specs import NmsSettings, Precision, TensorSpec


@dataclass(frozen=True)
class Source:
    """A loaded graph. ``manifest`` is never None: for a foreign graph it is what the graph itself tells.

    Where the file ends in NMS, ``graph`` and ``manifest`` are those of the network before it, and ``nms`` is not None.
    """

    path: Path
    graph: ir.Model
    manifest: Manifest
    precision: Precision
    nms: NmsSettings | None = None

    def finished(self, graph: ir.Model, manifest: Manifest) -> tuple[ir.Model, Manifest]:
        """``graph``, made of this one, with its manifest, as files of it are: ending in NMS where this one's does."""
        return (graph, manifest) if self.nms is None else with_nms(graph, manifest, self.nms)


def with_nms(graph: ir.Model, manifest: Manifest, settings: NmsSettings) -> tuple[ir.Model, Manifest]:
    """A detector's graph that ends in NMS, and the manifest that says so. Raises as :func:`attach_nms`."""
    ended = attach_nms(graph, settings)
    (scores,) = (spec for spec in manifest.outputs if spec.name == SCORES)
    return ended, manifest.evolve(nms=settings, outputs=(detections_spec(scores, settings),))


def load_source(path: Path, warn: Callable[[str], None]) -> Source:
    """Read an ONNX file; a missing manifest is made up with torchvision's usual preprocessing, and said.

    Raises:
        InputError: the file cannot be read.
    """
    graph, nms = detach_nms(files.load(path))
    precision = precision_of(graph)
    manifest = files.read_manifest(graph, str(path)) or _foreign(path, graph, precision, warn)
    if nms is not None:
        manifest = manifest.evolve(nms=None, outputs=_specs(graph.graph.outputs))
    return Source(path, graph, manifest, precision, nms)


def _foreign(path: Path, graph: ir.Model, precision: Precision, warn: Callable[[str], None]) -> Manifest:
    # Older exporters list initializers among the inputs.
    fed = [value for value in graph.graph.inputs if value.name not in graph.graph.initializers]
    inputs, outputs = _specs(fed), _specs(graph.graph.outputs)
    try:
        preprocessing = default_preprocessing(inputs)
        warn(f"{path} has no manifest: assuming preprocessing '{preprocessing}' with ImageNet's mean and std")
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
