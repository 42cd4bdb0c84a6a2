"""Random weights that behave like learnt ones: activations and logits of order one that differ between images.

A freshly initialised network has logits near zero that hardly depend on the image, so that comparing two backends on
it proves nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from models.registry import Transform

IMAGENET = Transform(256, (224, 224))
_BATCH = 8
_LARGEST = 224  # pixels; larger inputs are settled at this size to save time, where the network takes it
_SQUARES = (1, 3, 9, 27, 81)  # squares along a side
_NORM = 0.5  # deviation and mean behind a norm
_BRANCH = 0.2  # what a residual branch adds, beside an input of order one
# Photographs' mean and deviation in pixels of 0 to 1, about.
_PIXEL_MEAN, _PIXEL_STD = 0.45, 0.225


def settle(
    model: nn.Module,
    input_size: tuple[int, int],
    seed: int = 0,
    batches: int = 2,
    transform: Transform = IMAGENET,
    multiple: int = 1,
) -> None:
    """Initialise ``model`` from ``seed`` and fit its batch norms and last layers to synthetic images.

    Norms scale and shift so that the network is well conditioned, and residual branches are small beside what they are
    added to, as learnt ones are (arXiv 1706.02677, section 5.1): else a deep network magnifies every rounding until two
    backends seem to disagree. Norms take their statistics from ``batches`` batches in train mode. Then the linear
    layers behind the last norm, and the convolutions a detector names as its ``heads``, are rescaled to outputs of mean
    0 and deviation 1 over images and positions (data-dependent initialisation, arXiv 1511.06422); in a network without
    batch norms every convolution and linear layer is.

    ``input_size`` is (height, width), in sides that are a multiple of ``multiple`` if smaller ones are to serve, and
    ``transform`` says what pixels become. Equal arguments give equal weights.
    PyTorch's global random state, the modes of the modules and the momentum of the norms stay as they are.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad(), _modes_kept(model):
        torch.manual_seed(seed)
        model.apply(_reset)
        _tame(model)
        size = _quick_size(model, input_size, multiple)
        images = [_images(size, transform) for _ in range(batches)]
        _fit_norms(model, images)
        _fit_layers(model, images[-1])


def _reset(module: nn.Module) -> None:
    reset = getattr(module, "reset_parameters", None)
    if callable(reset):
        reset()


def _tame(model: nn.Module) -> None:
    """Let norms feed activations where those are nearly straight, and make residual branches small.

    Around zero a layer magnifies what differs between two inputs by a little more than it does the inputs: a settled
    ShuffleNetV2 magnified rounding errors 20 to 40 times, with these norms twice.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.fill_(_NORM)
            module.bias.fill_(_NORM)
    for module in model.modules():
        norms = [inner for inner in module.modules() if isinstance(inner, nn.BatchNorm2d)]
        if norms and getattr(module, "residual", False):
            norms[-1].weight.fill_(_BRANCH)
            norms[-1].bias.zero_()


def _quick_size(model: nn.Module, input_size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """A smaller size, unless the network insists on its own (position embeddings of transformers)."""
    height, width = (min(side, max(_LARGEST // multiple, 1) * multiple) for side in input_size)
    try:
        model.eval()(torch.zeros(1, 3, height, width))
    except Exception:  # noqa: BLE001 - others' networks say it in any way
        return input_size
    return height, width


def _images(size: tuple[int, int], transform: Transform) -> Tensor:
    """Normalised images of coloured squares at several scales, for even areas and edges as photographs have.

    Plain noise would not do: after pooling, all images of noise are alike.
    """
    height, width = size
    noise = [torch.randn(_BATCH, 3, side, side) for side in _SQUARES]
    squares = torch.stack([interpolate(colours, (height, width), mode="nearest") for colours in noise])
    pixels = _PIXEL_MEAN + _PIXEL_STD * squares.sum(0) / len(_SQUARES) ** 0.5
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (transform.mean, transform.std))
    normalised: Tensor = (pixels - mean) / std
    return normalised


def _fit_norms(model: nn.Module, images: list[Tensor]) -> None:
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    model.eval()  # dropout stays off
    for norm in norms:
        norm.train()
        norm.momentum = None  # an average over all batches instead of a running one
    for batch in images:
        model(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _fit_layers(model: nn.Module, images: Tensor) -> None:
    model.eval()
    with ExitStack() as stack:
        for layer in _layers_to_fit(model):
            stack.callback(layer.register_forward_hook(_normalise).remove)
        model(images)


def _layers_to_fit(model: nn.Module) -> list[nn.Module]:
    modules = list(model.modules())
    norms = [index for index, module in enumerate(modules) if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return [module for module in modules if isinstance(module, nn.Conv2d | nn.Linear)]
    # Not the linear layers of gates inside: rescaled, they would amplify what little differs between images.
    last = [module for module in modules[norms[-1] :] if isinstance(module, nn.Linear)]
    return [*last, *getattr(model, "heads", ())]


def _normalise(layer: nn.Linear | nn.Conv2d, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Rescale a layer so that this output has mean 0 for each feature and deviation 1 over all of them."""
    features = 1 if isinstance(layer, nn.Conv2d) else output.ndim - 1
    mean = output.mean([axis for axis in range(output.ndim) if axis != features], keepdim=True)
    scale = 1 / (output - mean).std().clamp_min(1e-6)
    layer.weight *= scale
    bias: Tensor | None = layer.bias
    if bias is None:
        return output * scale
    bias.copy_((bias - mean.flatten()) * scale)
    return (output - mean) * scale


@contextmanager
def _modes_kept(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
