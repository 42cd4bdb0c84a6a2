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

_BATCH = 8
_LARGEST = 128  # pixels; larger inputs are settled at this size to save time
_SQUARES = (1, 3, 9, 27, 81)  # squares along a side


def settle(model: nn.Module, input_size: tuple[int, int], seed: int = 0, batches: int = 2) -> None:
    """Initialise ``model`` from ``seed`` and fit its batch norms and last layers to synthetic images.

    Norms take their statistics from ``batches`` batches in train mode. Then every linear layer, and the convolutions a
    detector names as its ``heads``, are rescaled to outputs of mean 0 and deviation 1 over images and positions
    (data-dependent initialisation, arXiv 1511.06422). ``input_size`` is (height, width); equal arguments give equal
    weights. PyTorch's global random state, the modes of the modules and the momentum of the norms stay as they are.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad(), _modes_kept(model):
        torch.manual_seed(seed)
        model.apply(_reset)
        images = [_images(input_size) for _ in range(batches)]
        _fit_norms(model, images)
        _fit_linears(model, torch.cat(images))


def _reset(module: nn.Module) -> None:
    reset = getattr(module, "reset_parameters", None)
    if callable(reset):
        reset()


def _images(input_size: tuple[int, int]) -> Tensor:
    """Normalised images of coloured squares at several scales, for even areas and edges as photographs have.

    Plain noise would not do: after pooling, all images of noise are alike. Mean 0, deviation 1.
    """
    height, width = (min(side, _LARGEST) for side in input_size)
    noise = [torch.randn(_BATCH, 3, side, side) for side in _SQUARES]
    squares = torch.stack([interpolate(colours, (height, width), mode="nearest") for colours in noise])
    images: Tensor = squares.sum(0) / len(_SQUARES) ** 0.5
    return images


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


def _fit_linears(model: nn.Module, images: Tensor) -> None:
    model.eval()
    heads = set(getattr(model, "heads", ()))
    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, nn.Linear) or module in heads:
                stack.callback(module.register_forward_hook(_normalise).remove)
        model(images)


def _normalise(layer: nn.Linear | nn.Conv2d, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Rescale a layer so that this output has mean 0 for each feature (axis 1) and deviation 1 over all of them."""
    mean = output.mean([axis for axis in range(output.ndim) if axis != 1], keepdim=True)
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
