"""What the server and its models say of themselves: metadata and Triton's model configuration."""

from __future__ import annotations

from typing import Any

from deploy import __version__
from deploy.serving.batcher import Batcher
from deploy.serving.repository import Model
from deploy.serving.tensors import NAMES, shape_of
from deploy.specs import TensorSpec

EXTENSIONS = ("classification", "model_configuration", "model_repository", "binary_tensor_data", "statistics")
# Runner.backend → the protocol's platform.
_PLATFORMS = {"onnxrt": "onnxruntime_onnx", "tensorrt": "tensorrt_plan", "tensorrt_rtx": "tensorrt_rtx_plan"}


def server_metadata(shared_memory: bool) -> dict[str, Any]:
    """The reply to ``GET /v2``."""
    extensions = [*EXTENSIONS, *(["system_shared_memory"] if shared_memory else [])]
    return {"name": "deploy", "version": __version__, "extensions": extensions}


def model_metadata(model: Model) -> dict[str, Any]:
    """The reply to ``GET /v2/models/NAME``; shapes have their batch axis."""
    batcher = model.batcher
    return {
        "name": model.name,
        "versions": [model.version],
        "platform": platform(batcher),
        "inputs": [_tensor(spec) for spec in batcher.inputs],
        "outputs": [_tensor(spec) for spec in _outputs(batcher)],
    }


def model_config(model: Model) -> dict[str, Any]:
    """Triton's ModelConfig: ``dims`` are without the batch axis where ``max_batch_size`` is above 0.

    ``parameters`` hold what the manifest tells of the model and the protocol has no field for.
    """
    batcher, settings = model.batcher, model.batcher.settings
    config = {
        "name": model.name,
        "platform": platform(batcher),
        "backend": batcher.runner.backend,
        "max_batch_size": batcher.max_batch if batcher.batches else 0,
        "input": [_configured(spec, batcher.batches) for spec in batcher.inputs],
        "output": [_configured(spec, batcher.batches) for spec in _outputs(batcher)],
        "instance_group": [{"name": model.name, "count": batcher.instances}],
    }
    if batcher.batches:
        queue = {
            "timeout_action": "REJECT",
            "default_timeout_microseconds": 0,
            "allow_timeout_override": True,
            "max_queue_size": settings.max_queue,
        }
        config["dynamic_batching"] = {
            "max_queue_delay_microseconds": round(settings.max_delay * 1e6),
            "preserve_ordering": False,
            "priority_levels": settings.priorities,
            "default_queue_policy": queue,
        }
    manifest = batcher.runner.manifest
    if manifest is not None:
        told = {"task": manifest.task, "precision": str(manifest.precision), "weights": manifest.weights.source}
        config["parameters"] = {name: {"string_value": value} for name, value in told.items()}
    return config


def model_statistics(model: Model) -> dict[str, Any]:
    """One row of ``model_stats``."""
    return {"name": model.name, "version": model.version, **model.batcher.statistics.as_dict()}


def platform(batcher: Batcher) -> str:
    """The protocol's word for what runs the model."""
    return _PLATFORMS.get(batcher.runner.backend, batcher.runner.backend)


def _outputs(batcher: Batcher) -> list[TensorSpec]:
    if not batcher.batches:
        return list(batcher.runner.outputs)
    return [TensorSpec(spec.name, spec.dtype, ("batch", *spec.shape[1:])) for spec in batcher.runner.outputs]


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": NAMES[spec.dtype], "shape": shape_of(spec.shape)}


def _configured(spec: TensorSpec, batches: bool) -> dict[str, Any]:
    datatype = {"BYTES": "STRING"}.get(NAMES[spec.dtype], NAMES[spec.dtype])
    return {"name": spec.name, "data_type": f"TYPE_{datatype}", "dims": shape_of(spec.shape[1 if batches else 0 :])}
