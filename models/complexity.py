"""Size, arithmetic and memory of a network, per layer and in all, from shapes: nothing is computed or allocated."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from models.meter import Cost, Memory, Meter, Shape


@dataclass(frozen=True)
class LayerCost:
    """What one module holds and runs by itself, not counting the modules inside it.

    Attributes:
        path: its name in the network; empty for the network itself.
        type: its class.
        outputs: shapes of the tensors it returned; empty where only its parameters were used, not the module.
        parameters: learnt values. Those shared by several modules are counted at the first.
        macs: multiply-accumulates of convolutions and matrix products, summed over all calls.
        activations: values those convolutions and products wrote.
    """

    path: str
    type: str
    outputs: tuple[Shape, ...]
    parameters: int
    macs: int
    activations: int


@dataclass(frozen=True)
class Complexity:
    """Cost of one forward pass in evaluation mode.

    Attributes:
        parameters: learnt values.
        macs: multiply-accumulates of convolutions and matrix products; element-wise work, norms and pooling are free.
        activations: values that convolutions and matrix products write, the measure that follows time on an accelerator
            better than ``macs`` does ("Designing Network Design Spaces", arXiv 2003.13678; fvcore counts the same).
        peak_bytes: the most bytes of activations alive at once as PyTorch runs the module step by step: its inputs
            count, parameters, buffers and what a kernel needs within itself do not. Attention counts with its scores,
            as where no fused kernel is used.
        layers: every module that runs operators of its own or holds parameters, in the order of definition.
    """

    parameters: int
    macs: int
    activations: int
    peak_bytes: int
    layers: tuple[LayerCost, ...]

    @property
    def flops(self) -> int:
        """Multiplications and additions: two for each of ``macs``."""
        return 2 * self.macs


def complexity(model: nn.Module, inputs: tuple[int, int] | Sequence[Shape | Tensor]) -> Complexity:
    """Count for one forward pass of ``model``, which is left as it is, wherever its tensors are.

    Args:
        model: a module whose operators depend on shapes alone, not on values.
        inputs: height and width of one RGB image; or, for each input, its shape in FP32 or a tensor like it.
    """
    # In inference mode operators would come whole: linear and not addmm.
    with _evaluating(model), torch.inference_mode(False), torch.no_grad():
        costs, peak_bytes = _run(model, _arguments(inputs))
    layers = tuple(_layers(model, costs))
    return Complexity(
        parameters=sum(layer.parameters for layer in layers),
        macs=sum(layer.macs for layer in layers),
        activations=sum(layer.activations for layer in layers),
        peak_bytes=peak_bytes,
        layers=layers,
    )


def _run(model: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[dict[nn.Module, Cost], int]:
    """What each module costs, and the most bytes alive at once."""
    state = {name: tensor.to("meta") for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    memory = Memory(free=state.values())
    memory.hold(arguments)
    with Meter(memory) as meter:
        functional_call(model, state, arguments)
    return meter.costs, memory.peak


def _arguments(inputs: tuple[int, int] | Sequence[Shape | Tensor]) -> tuple[Tensor, ...]:
    if all(isinstance(side, int) for side in inputs):
        height, width = cast("tuple[int, int]", inputs)
        inputs = [(1, 3, height, width)]
    return tuple(_meta(like) for like in cast("Sequence[Shape | Tensor]", inputs))


def _meta(like: Shape | Tensor) -> Tensor:
    if isinstance(like, Tensor):
        return torch.empty_like(like, device="meta")
    return torch.empty(like, dtype=torch.float32, device="meta")


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, in which batch norm takes a single value per channel; then each module's own mode again."""
    modes = {module: module.training for module in model.modules()}
    try:
        for module in modes:
            module.training = False
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _layers(model: nn.Module, costs: dict[nn.Module, Cost]) -> Iterator[LayerCost]:
    counted: set[Tensor] = set()
    for path, module in model.named_modules():
        own = set(module.parameters(recurse=False)) - counted
        counted |= own
        cost = costs.get(module, Cost())
        if own or cost.operators:
            size = sum(parameter.numel() for parameter in own)
            yield LayerCost(path, type(module).__name__, cost.outputs, size, cost.macs, cost.activations)
