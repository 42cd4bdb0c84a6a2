"""What an engine does with the graph it was built from, told by TensorRT's inspector where there is a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from deploy.artifacts import sha256_file
from deploy.engine.audit import EngineAudit, audit_engine
from deploy.engine.flavours import Flavour, load_flavour
from deploy.engine.layers import EngineLayer, read_layers
from deploy.engine.loading import AS_IT_IS, Loading, loading_of
from deploy.engine.plan import graph_of, plan_kind
from deploy.engine.preflight import preflight
from deploy.errors import DeployError
from deploy.graph import files
from deploy.graph.summary import summarize
from deploy.hardware import devices
from deploy.manifest import EngineInfo, Manifest

_NO_GPU = "no GPU to load the engine"


@dataclass(frozen=True)
class Inspection:
    """Either an ``audit`` of the engine's ``layers``, or the ``reason`` why there is none."""

    audit: EngineAudit | None = None
    layers: tuple[EngineLayer, ...] = ()
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return self.audit.to_dict() if self.audit else {"not_verifiable": self.reason}


def inspect_engine(plan: bytes, flavour: Flavour, graph: ir.Model | None, loading: Loading = AS_IT_IS) -> Inspection:
    """Load a plan and compare its layers with ``graph``, where that is known. Never raises for want of a machine."""
    if not devices():
        return Inspection(reason=_NO_GPU)
    from deploy.runtime.trt_inspector import plan_information

    try:
        engine = read_layers(plan_information(plan, flavour, loading))
    except DeployError as error:
        return Inspection(reason=error.headline)
    if not engine.layers:
        return Inspection(reason="the engine was built without the names of its layers")
    return Inspection(audit_engine(engine, None if graph is None else _asked(graph)), engine.layers)


def inspect_plan(path: Path, manifest: Manifest | None) -> Inspection:
    """The same of a plan file; its graph is found by its manifest. Raises :class:`InputError` for no plan at all."""
    kind, engine = plan_kind(path), manifest.engine if manifest else None
    if not devices():
        return Inspection(reason=_NO_GPU)
    try:
        preflight(path, manifest)
        flavour, loading = load_flavour(kind.flavour), loading_of(path, engine)
    except DeployError as error:
        return Inspection(reason=error.headline)
    return inspect_engine(path.read_bytes(), flavour, _graph(path, engine), loading)


def _graph(path: Path, engine: EngineInfo | None) -> ir.Model | None:
    """The graph that the plan was built from, if it is still what it was."""
    if engine is None or not (onnx := graph_of(path, engine)).is_file() or sha256_file(onnx) != engine.onnx_sha256:
        return None
    return files.load(onnx)


def _asked(graph: ir.Model) -> dict[str, tuple[str, str]]:
    """By name; NVIDIA's parser calls a node without one after what it gives."""
    nodes = zip(graph.graph, summarize(graph).layers, strict=True)
    return {layer.name or f"node_of_{node.outputs[0].name}": (layer.operator, layer.precision) for node, layer in nodes}
