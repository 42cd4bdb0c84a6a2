"""ShuffleNet V2, "Practical Guidelines for Efficient CNN Architecture Design", arXiv 1807.11164. torchvision's keys."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import channel_shuffle

from models.layers import ConvNormAct
from models.registry import Checkpoint, Transform, register

_layer = partial(ConvNormAct, norm=nn.BatchNorm2d)

STEM = 24  # channels, 112x112 and, after the max-pool, 56x56
REPEATS = (4, 8, 4)  # units of the stages 2, 3 and 4; the first of each has stride 2


class Widths(NamedTuple):
    """Channels of the stages and of the last convolution, a column of table 5."""

    stage2: int  # 28x28
    stage3: int  # 14x14
    stage4: int  # 7x7
    conv5: int  # 7x7


# Table 5.
X0_5 = Widths(48, 96, 192, 1024)
X1_0 = Widths(116, 232, 464, 1024)
X1_5 = Widths(176, 352, 704, 1024)
X2_0 = Widths(244, 488, 976, 2048)


class Unit(nn.Module):
    """Half of the channels pass by, the others go through 1x1, depthwise 3x3, 1x1; then all are mixed (figure 3c)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch2 = _filters(channels // 2, channels // 2, stride=1)

    def forward(self, x: Tensor) -> Tensor:
        kept, filtered = x.chunk(2, dim=1)
        return channel_shuffle(torch.cat((kept, self.branch2(filtered)), 1), 2)


class DownUnit(nn.Module):
    """Stride 2: both branches see all channels and each gives half of the outputs (figure 3d)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.branch1 = nn.Sequential(
            *_layer(inputs, inputs, 3, stride=2, groups=inputs), *_layer(inputs, half, 1, activation=nn.ReLU)
        )
        self.branch2 = _filters(inputs, half, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return channel_shuffle(torch.cat((self.branch1(x), self.branch2(x)), 1), 2)


def _filters(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """The layers unpacked into one sequence, as torchvision numbers them."""
    return nn.Sequential(
        *_layer(inputs, outputs, 1, activation=nn.ReLU),
        *_layer(outputs, outputs, 3, stride=stride, groups=outputs),
        *_layer(outputs, outputs, 1, activation=nn.ReLU),
    )


def _stage(inputs: int, outputs: int, repeats: int) -> nn.Sequential:
    return nn.Sequential(DownUnit(inputs, outputs), *(Unit(outputs) for _ in range(repeats - 1)))


class ShuffleNetV2(nn.Module):
    """Images ``[N, 3, H, W]`` to logits ``[N, num_classes]``. Initialised as PyTorch's layers are, as torchvision's."""

    def __init__(self, widths: Widths, num_classes: int) -> None:
        super().__init__()
        self.conv1 = _layer(3, STEM, 3, stride=2, activation=nn.ReLU)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.stage2 = _stage(STEM, widths.stage2, REPEATS[0])
        self.stage3 = _stage(widths.stage2, widths.stage3, REPEATS[1])
        self.stage4 = _stage(widths.stage3, widths.stage4, REPEATS[2])
        self.conv5 = _layer(widths.stage4, widths.conv5, 1, activation=nn.ReLU)
        self.fc = nn.Linear(widths.conv5, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.conv1(x))
        x = self.conv5(self.stage4(self.stage3(self.stage2(x))))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


_FACTS: dict[str, Any] = {
    "family": "shufflenet_v2",
    "paper": "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design (arXiv 1807.11164)",
    "input_size": (224, 224),
}
_URL = "https://download.pytorch.org/models/"


@register(
    "shufflenet_v2_x0_5",
    **_FACTS,
    transform=Transform(256, (224, 224)),
    checkpoints=(Checkpoint("V1", f"{_URL}shufflenetv2_x0.5-f707e7126e.pth", "f707e7126e", 60.55),),
    parameters=1_366_792,
    gmacs=0.040,
)
def shufflenet_v2_x0_5(*, num_classes: int = 1000) -> ShuffleNetV2:
    """ShuffleNet V2 0.5x (table 5)."""
    return ShuffleNetV2(X0_5, num_classes)


@register(
    "shufflenet_v2_x1_0",
    **_FACTS,
    transform=Transform(256, (224, 224)),
    checkpoints=(Checkpoint("V1", f"{_URL}shufflenetv2_x1-5666bf0f80.pth", "5666bf0f80", 69.36),),
    parameters=2_278_604,
    gmacs=0.145,
)
def shufflenet_v2_x1_0(*, num_classes: int = 1000) -> ShuffleNetV2:
    """ShuffleNet V2 1.0x (table 5)."""
    return ShuffleNetV2(X1_0, num_classes)


@register(
    "shufflenet_v2_x1_5",
    **_FACTS,
    transform=Transform(232, (224, 224)),
    checkpoints=(Checkpoint("V1", f"{_URL}shufflenetv2_x1_5-3c479a10.pth", "3c479a10", 73.00),),
    parameters=3_503_624,
    gmacs=0.296,
)
def shufflenet_v2_x1_5(*, num_classes: int = 1000) -> ShuffleNetV2:
    """ShuffleNet V2 1.5x (table 5)."""
    return ShuffleNetV2(X1_5, num_classes)


@register(
    "shufflenet_v2_x2_0",
    **_FACTS,
    transform=Transform(232, (224, 224)),
    checkpoints=(Checkpoint("V1", f"{_URL}shufflenetv2_x2_0-8be3c8ee.pth", "8be3c8ee", 76.23),),
    parameters=7_393_996,
    gmacs=0.583,
)
def shufflenet_v2_x2_0(*, num_classes: int = 1000) -> ShuffleNetV2:
    """ShuffleNet V2 2.0x (table 5)."""
    return ShuffleNetV2(X2_0, num_classes)
