"""PyTorch networks by name with their weights, and all that their manifest says."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from deploy.errors import InputError, MachineError
from deploy.images.detect import BOXES, SCORES
from deploy.manifest import Weights
from deploy.runtime.pytorch import TorchRunner, output_specs
from deploy.specs import BATCH, NetworkOptions, Preprocessing, TensorSpec, image_input
from models import (
    ModelError,
    ModelSpec,
    Transform,
    WeightsUnavailable,
    check_image_size,
    coco_labels,
    get_spec,
    imagenet_labels,
    list_models,
)
from models.complexity import complexity
from models.download import Progress
from models.resolve import Resolved, resolve
from models.weights import WeightsInfo, load_weights

# What our own networks return, by task; others' say it themselves.
OUTPUTS = {"classification": ("logits",), "detection": (BOXES, SCORES)}


@dataclass(frozen=True)
class Network:
    """A network with its weights and all that its manifest says. ``macs`` are for one image.

    ``notes`` tell what had to be assumed, for the user.
    """

    module: nn.Module
    task: str
    weights: Weights
    reason_for_random: str | None
    preprocessing: Preprocessing | None
    labels: tuple[str, ...] | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parameters: int
    macs: int | None
    notes: tuple[str, ...] = ()

    @property
    def classes(self) -> int | None:
        """How many classes the last output tells apart."""
        return _classes(self.outputs)

    def runner(self, device: str = "cpu") -> TorchRunner:
        """This network as a reference, on PyTorch's ``device``."""
        return TorchRunner(self.module, self.inputs, self.outputs, device=device)


def load_network(
    model: str,
    options: NetworkOptions = NetworkOptions(),
    labels: tuple[str, ...] | None = None,
    progress: Progress | None = None,
) -> Network:
    """Create ``model`` with its weights. Another image size keeps the proportion of the resize before the crop.

    Args:
        model: a registered name or alias, or one that :func:`models.resolve.resolve` knows where to find.
        options: which network that means.
        labels: class names in place of the ones that are known.
        progress: told of a download, in bytes done and in all (None where the server does not say).

    Raises:
        InputError: no such model, option, size or weights, or they do not fit each other.
        MachineError: official weights were insisted on and cannot be had here.
    """
    with _model_errors():
        found = _resolve(model, options)
        loaded = _load(found, options, _image_size(found, options), progress)
    preprocessing = _preprocessing(loaded.transform, options) if found.takes_images else None
    inputs = _inputs(found, preprocessing)
    outputs = _outputs(found, inputs)
    parameters, macs = _counted(found, preprocessing)
    return Network(
        module=found.module,
        task=_task(outputs),
        weights=Weights(loaded.source, _weights_name(loaded), loaded.sha256),
        reason_for_random=loaded.reason,
        preprocessing=preprocessing,
        labels=_labels(labels, loaded, outputs),
        inputs=inputs,
        outputs=outputs,
        parameters=parameters,
        macs=macs,
        notes=(*found.notes, *_assumptions(loaded, preprocessing, options)),
    )


def _assumptions(loaded: WeightsInfo, preprocessing: Preprocessing | None, options: NetworkOptions) -> Iterator[str]:
    """What nobody said about the weights, for the user to correct."""
    said = options.resize or options.mean or options.std or options.interpolation
    if loaded.source == "code":
        yield "the weights are those the network's code gave it: if it does not load or seed them, each call has others"
    if loaded.source != "file" or loaded.own_transform or preprocessing is None or said:
        return
    if loaded.layout == "timm":
        yield (
            f"{loaded.name} does not say how images are prepared, and timm's networks differ in it (most tf_ ones "
            f"want --mean 0.5 --std 0.5 --interpolation bicubic): assuming {preprocessing}; its config.json would tell"
        )
        return
    yield (
        f"preprocessing is the model's own, {preprocessing}: if these weights were trained with another, say so with "
        "--resize, --interpolation, --mean, --std"
    )


def _image_size(found: Resolved, options: NetworkOptions) -> tuple[int, int]:
    size = options.image_size or found.spec.input_size
    check_image_size(found.spec, *size)
    return size


def _load(found: Resolved, options: NetworkOptions, size: tuple[int, int], progress: Progress | None) -> WeightsInfo:
    if found.has_weights and options.weights == "auto":
        return WeightsInfo("code", found.spec.name, None, found.spec.transform)
    if found.examples and (options.image_size or options.resize or options.mean or options.std):
        fix = "Leave out --image-size, --resize, --mean and --std."
        raise InputError(f"{found.spec.name} has example_inputs: it takes no images", fix=fix)
    if found.examples and options.weights == "random":
        fix = "Leave --weights out: the network keeps the weights its code gives it."
        raise InputError(f"random weights are fitted to images, which {found.spec.name} does not take", fix=fix)
    return load_weights(found.module, found.spec, options.weights, input_size=size, progress=progress)


def _inputs(found: Resolved, preprocessing: Preprocessing | None) -> tuple[TensorSpec, ...]:
    if preprocessing is not None:
        return (image_input(preprocessing.crop),)
    return tuple(
        TensorSpec(name, str(tensor.dtype).removeprefix("torch."), (BATCH, *tensor.shape[1:]))
        for name, tensor in found.examples.items()
    )


def _outputs(found: Resolved, inputs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    if not found.external:
        return output_specs(found.module, inputs, OUTPUTS[found.spec.task])
    outputs = output_specs(found.module, inputs, None)
    if len(outputs) == 1 and _task(outputs) == "classification":
        return (replace(outputs[0], name="logits"),)
    return outputs


def _task(outputs: Sequence[TensorSpec]) -> str:
    """What the outputs look like; ``other`` is run and compared, but its outputs are not interpreted."""
    if tuple(spec.name for spec in outputs) == OUTPUTS["detection"]:
        return "detection"
    first = outputs[0]
    is_matrix = len(outputs) == 1 and len(first.shape) == 2 and first.dtype == "float32"
    return "classification" if is_matrix else "other"


def _counted(found: Resolved, preprocessing: Preprocessing | None) -> tuple[int, int | None]:
    """Parameters, and multiply-accumulates where they can be counted for one row."""
    with contextlib.suppress(Exception):  # others' modules may not run without real memory
        counted = complexity(found.module, preprocessing.crop if preprocessing else _one_row(found))
        return counted.parameters, counted.macs
    return sum(parameter.numel() for parameter in found.module.parameters()), None


def _one_row(found: Resolved) -> list[torch.Tensor]:
    return [tensor[:1] for tensor in found.examples.values()]


def _classes(outputs: Sequence[TensorSpec]) -> int | None:
    last = outputs[-1].shape[-1] if outputs[-1].shape else None
    return last if isinstance(last, int) else None


def _labels(
    given: tuple[str, ...] | None, loaded: WeightsInfo, outputs: Sequence[TensorSpec]
) -> tuple[str, ...] | None:
    classes = _classes(outputs)
    if given is not None and len(given) != classes:
        raise InputError("the labels are not this network's", got=f"{len(given)} labels", expected=f"{classes} classes")
    if given is None and loaded.source == "official" and classes == len(imagenet_labels()):
        return imagenet_labels()
    detects = _task(outputs) == "detection" and loaded.source != "random"
    if given is None and detects and classes == len(coco_labels()):
        return coco_labels()  # detectors of 80 classes are COCO's: --labels says otherwise
    return given


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
    if options.resize and transform.mode == "letterbox":
        raise InputError("a letterbox has no resize before it", got=f"--resize {options.resize}", fix="Leave it out.")
    crop, resize = transform.crop, transform.resize
    if options.image_size:
        crop = options.image_size
        resize = round(min(crop) * transform.resize / min(transform.crop))
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


def model_facts(name: str, options: NetworkOptions = NetworkOptions()) -> dict[str, Any]:
    """What is known of one model; a registered one is not created for it.

    Raises:
        InputError: there is none of that name.
    """
    with _model_errors():
        spec: ModelSpec = _resolve(name, options).spec if ":" in name else get_spec(name)
    return {
        "name": spec.name,
        "family": spec.family,
        "task": spec.task,
        "parameters": spec.parameters,
        "gmacs": spec.gmacs if math.isfinite(spec.gmacs) else None,
        "input_size": f"{spec.input_size[0]}x{spec.input_size[1]}",
        "top1": spec.checkpoints[0].top1 if spec.checkpoints else None,
        "checkpoints": [checkpoint.tag for checkpoint in spec.checkpoints],
        "options": {option: str(default) for option, default in spec.options.items()},
        "aliases": list(spec.aliases),
        "note": spec.note,
        "paper": spec.paper,
    }


def network_cost(name: str, options: NetworkOptions = NetworkOptions()) -> dict[str, Any]:
    """What one image costs the network that ``options`` mean, in all and per layer. No weights are made or read.

    Raises:
        InputError: no such model or option, or images of that size do not pass through the network.
    """
    with _model_errors(), torch.device("cpu" if ":" in name else "meta"):  # others' code may need real memory
        found = _resolve(name, options)
        size = _image_size(found, options)
    shapes = [(1, 3, *size)] if found.takes_images else [tuple(row.shape) for row in _one_row(found)]
    try:
        counted = complexity(found.module, size if found.takes_images else _one_row(found))
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        what = f"{name} cannot be counted for inputs of {' and '.join('x'.join(map(str, shape)) for shape in shapes)}"
        raise InputError(what, got=reason, fix="Does it take another --image-size?") from error
    totals = {key: value for key, value in asdict(counted).items() if key != "layers"}
    layers = [{**asdict(layer), "outputs": [list(shape) for shape in layer.outputs]} for layer in counted.layers]
    return {"inputs": shapes, **totals, "flops": counted.flops, "layers": layers}


def _resolve(name: str, options: NetworkOptions) -> Resolved:
    return resolve(name, options.num_classes, options.image_size, dict(options.options))
