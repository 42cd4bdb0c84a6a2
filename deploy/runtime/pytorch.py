"""PyTorch networks by name, and behind the Runner contract: the reference that graphs and engines are compared with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from deploy.errors import InputError, MachineError
from deploy.manifest import Weights
from deploy.runtime.base import Array, Runner
from deploy.specs import NetworkOptions, Preprocessing, TensorSpec
from models import (
    ModelError,
    ModelSpec,
    Transform,
    WeightsUnavailable,
    create_model,
    get_spec,
    imagenet_labels,
    list_models,
)
from models.complexity import complexity
from models.download import Progress
from models.weights import WeightsInfo, load_weights


class TorchRunner(Runner):
    """Runs a module with one input and one output in evaluation mode, without gradients."""

    backend = "pytorch"

    def __init__(self, model: nn.Module, inputs: TensorSpec, outputs: TensorSpec, *, device: str = "cpu") -> None:
        """Wrap ``model``, whose tensors are ``inputs`` and ``outputs``; ``device`` is PyTorch's name of one."""
        self.inputs, self.outputs = (inputs,), (outputs,)
        self.execution = f"executed on {device.upper()} (PyTorch {torch.__version__})"
        self._device = torch.device(device)
        self._model = model.eval().to(self._device)

    def infer(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        self.check(feeds)
        # A copy: PyTorch takes neither read-only arrays nor negative strides, and a module may work in place.
        image = torch.from_numpy(np.array(feeds[self.inputs[0].name], order="C"))
        with torch.inference_mode():
            result = self._model(image.to(self._device))
        return {self.outputs[0].name: result.cpu().numpy()}

    def close(self) -> None:
        """Nothing is held that garbage collection does not free."""


@dataclass(frozen=True)
class Network:
    """A network with its weights and all that its manifest says. ``macs`` are for one image."""

    module: nn.Module
    weights: Weights
    reason_for_random: str | None
    preprocessing: Preprocessing
    labels: tuple[str, ...] | None
    classes: int
    parameters: int
    macs: int

    def runner(self, device: str = "cpu") -> TorchRunner:
        """This network as a reference, on PyTorch's ``device``."""
        image = TensorSpec("input", "float32", ("batch", 3, *self.preprocessing.crop))
        return TorchRunner(self.module, image, TensorSpec("logits", "float32", ("batch", self.classes)), device=device)


def load_network(
    model: str,
    options: NetworkOptions = NetworkOptions(),
    labels: tuple[str, ...] | None = None,
    progress: Progress | None = None,
) -> Network:
    """Create ``model`` with its weights. Another image size keeps the proportion of the resize before the crop.

    Args:
        model: a registered name or alias.
        options: which network that means.
        labels: class names in place of the ones that are known.
        progress: told of a download, in bytes done and in all (None where the server does not say).

    Raises:
        InputError: no such model, option or weights, or they do not fit each other.
        MachineError: official weights were insisted on and cannot be had here.
    """
    with _model_errors():
        spec = get_spec(model)
        module = create_model(spec.name, num_classes=options.num_classes, **dict(options.options))
        side = options.image_size
        size = (side, side) if side else None
        loaded = load_weights(module, spec, options.weights, input_size=size, progress=progress)
        counted = complexity(module.eval(), size or loaded.transform.crop)
    classes = options.num_classes or spec.num_classes
    if labels is not None and len(labels) != classes:
        raise InputError(
            "the labels are not this network's", got=f"{len(labels)} labels", expected=f"{classes} classes"
        )
    if labels is None and loaded.source == "official":
        labels = imagenet_labels()
    return Network(
        module=module,
        weights=Weights(loaded.source, _weights_name(loaded), loaded.sha256),
        reason_for_random=loaded.reason,
        preprocessing=_preprocessing(loaded.transform, options),
        labels=labels,
        classes=classes,
        parameters=counted.parameters,
        macs=counted.macs,
    )


def _weights_name(loaded: WeightsInfo) -> str | None:
    return f"{loaded.name}: {loaded.entry}" if loaded.entry else loaded.name


@contextlib.contextmanager
def _model_errors() -> Iterator[None]:
    """The errors of ``models``, which knows nothing of ours, as ours."""
    try:
        yield
    except ModelError as error:
        kind = MachineError if isinstance(error, WeightsUnavailable) else InputError
        raise kind(error.what, got=error.got, expected=error.expected, fix=error.fix, details=error.details) from error


def _preprocessing(transform: Transform, options: NetworkOptions) -> Preprocessing:
    crop, resize = transform.crop, transform.resize
    if options.image_size:
        crop = (options.image_size, options.image_size)
        resize = round(options.image_size * transform.resize / transform.crop[0])
    return Preprocessing(
        options.resize or resize,
        crop,
        options.interpolation or transform.interpolation,
        options.mean or transform.mean,
        options.std or transform.std,
        transform.mode,
    )


def model_table() -> list[dict[str, Any]]:
    """What ``export.py --list`` shows of every model."""
    return [model_facts(name) for name in list_models()]


def model_facts(name: str) -> dict[str, Any]:
    """What is known of one model without creating it.

    Raises:
        InputError: there is none of that name.
    """
    with _model_errors():
        spec: ModelSpec = get_spec(name)
    return {
        "name": spec.name,
        "family": spec.family,
        "task": spec.task,
        "parameters": spec.parameters,
        "gmacs": spec.gmacs,
        "input_size": f"{spec.input_size[0]}x{spec.input_size[1]}",
        "top1": spec.checkpoints[0].top1 if spec.checkpoints else None,
        "checkpoints": [checkpoint.tag for checkpoint in spec.checkpoints],
        "options": {option: str(default) for option, default in spec.options.items()},
        "aliases": list(spec.aliases),
        "paper": spec.paper,
    }
