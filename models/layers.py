"""Building blocks the families share. Keys of the ``state_dict`` are torchvision's."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.padding import Conv2d

Activation = Callable[[], nn.Module]


def make_divisible(channels: float, divisor: int = 8) -> int:
    """Round to a multiple of ``divisor``, but not down by more than 10 % (MobileNet's reference code)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * channels else rounded + divisor


class ConvNormAct(nn.Sequential):
    """Convolution without bias, padded to keep the size at stride 1, then batch norm, then maybe an activation."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        norm: Callable[[int], nn.Module],
        activation: Activation | None = None,
        stride: int = 1,
        groups: int = 1,
    ) -> None:
        conv = Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
        super().__init__(conv, norm(outputs), *([activation()] if activation else []))


class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation (arXiv 1709.01507): channels are scaled by a gate computed from their means."""

    def __init__(self, channels: int, squeezed: int, *, activation: Activation, gate: Activation) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.activation = activation()
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.gate = gate()

    def forward(self, x: Tensor) -> Tensor:
        scale: Tensor = self.gate(self.fc2(self.activation(self.fc1(self.avgpool(x)))))
        return scale * x


class StochasticDepth(nn.Module):
    """Drops the residual branch of whole images in training with ``probability`` (arXiv 1603.09382)."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return x
        kept = 1 - self.probability
        return x * torch.empty(x.shape[0], 1, 1, 1, dtype=x.dtype, device=x.device).bernoulli_(kept).div_(kept)


def init_convolutions(network: nn.Module) -> None:
    """Draw every convolution from He's normal distribution (arXiv 1502.01852, by fan-out); norms become identities."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
