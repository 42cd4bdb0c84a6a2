"""Size and arithmetic of a network, counted without computing anything."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Complexity:
    """Learnt parameters, and multiply-accumulates of convolutions and matrix products for one image."""

    parameters: int
    macs: int


def complexity(model: nn.Module, input_size: tuple[int, int]) -> Complexity:
    """Count for one RGB image of ``input_size`` (height, width). The model is left as it is and copies no memory."""
    state = {name: tensor.to("meta") for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        # Two images: in train mode batch norm refuses a single value per channel.
        functional_call(model, state, (torch.empty(2, 3, *input_size, device="meta"),))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Complexity(parameters, counter.get_total_flops() // 2 // 2)
