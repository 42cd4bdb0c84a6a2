"""ShuffleNet, "An Extremely Efficient Convolutional Neural Network for Mobile Devices", arXiv 1707.01083.

No checkpoints are published by torchvision; keys are named after its ShuffleNet V2.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import channel_shuffle, relu

from models.layers import ConvNormAct
from models.registry import Transform, register

_layer = partial(ConvNormAct, norm=nn.BatchNorm2d)

REPEATS = (4, 8, 4)  # units of the stages 2, 3 and 4; the first of each has stride 2


class Row(NamedTuple):
    """A network: groups of its 1x1 convolutions, channels of the stem and of the stages."""

    groups: int
    stem: int  # 112x112 and, after the max-pool, 56x56
    stage2: int  # 28x28
    stage3: int  # 14x14
    stage4: int  # 7x7


# Table 1 has the stages at 1.0 for each number of groups. The other widths scale them; their stems are those of the
# authors' code.
X0_5_G3 = Row(3, 12, 120, 240, 480)
X1_0_G3 = Row(3, 24, 240, 480, 960)
X1_5_G3 = Row(3, 24, 360, 720, 1440)
X2_0_G3 = Row(3, 48, 480, 960, 1920)
X0_5_G8 = Row(8, 16, 192, 384, 768)
X1_0_G8 = Row(8, 24, 384, 768, 1536)
X1_5_G8 = Row(8, 24, 576, 1152, 2304)
X2_0_G8 = Row(8, 48, 768, 1536, 3072)


class Unit(nn.Module):
    """Reduce by grouped 1x1, mix the groups, depthwise 3x3, expand by grouped 1x1; add the input (figure 2b).

    With stride 2 the average-pooled input is concatenated instead, so that fewer channels need computing (figure 2c).
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int, groups: int, first_groups: int) -> None:
        super().__init__()
        inside = outputs // 4
        computed = outputs if stride == 1 else outputs - inputs
        self.groups = groups
        self.reduce = _layer(inputs, inside, 1, groups=first_groups, activation=nn.ReLU)
        self.depthwise = _layer(inside, inside, 3, stride=stride, groups=inside)
        self.expand = _layer(inside, computed, 1, groups=groups)
        self.pool = None if stride == 1 else nn.AvgPool2d(3, stride, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.expand(self.depthwise(channel_shuffle(self.reduce(x), self.groups)))
        if self.pool is None:
            return relu(x + y)
        # The pooled input has been through a ReLU already, so the paper's ReLU behind the concatenation comes to this
        # one, which fuses with the convolution.
        return torch.cat((self.pool(x), relu(y)), 1)


def _stage(inputs: int, outputs: int, repeats: int, groups: int, first_groups: int) -> nn.Sequential:
    return nn.Sequential(
        Unit(inputs, outputs, stride=2, groups=groups, first_groups=first_groups),
        *(Unit(outputs, outputs, stride=1, groups=groups, first_groups=groups) for _ in range(repeats - 1)),
    )


class ShuffleNetV1(nn.Module):
    """Images ``[N, 3, H, W]`` to logits ``[N, num_classes]``."""

    def __init__(self, row: Row, num_classes: int) -> None:
        super().__init__()
        self.conv1 = _layer(3, row.stem, 3, stride=2, activation=nn.ReLU)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        # The stem has too few channels to be worth groups (section 3.2).
        self.stage2 = _stage(row.stem, row.stage2, REPEATS[0], row.groups, first_groups=1)
        self.stage3 = _stage(row.stage2, row.stage3, REPEATS[1], row.groups, first_groups=row.groups)
        self.stage4 = _stage(row.stage3, row.stage4, REPEATS[2], row.groups, first_groups=row.groups)
        self.fc = nn.Linear(row.stage4, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage4(self.stage3(self.stage2(self.maxpool(self.conv1(x)))))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


_FACTS: dict[str, Any] = {
    "family": "shufflenet_v1",
    "paper": "ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices (arXiv 1707.01083)",
    "input_size": (224, 224),
    "transform": Transform(256, (224, 224)),
}


@register("shufflenet_v1_x0_5_g3", **_FACTS, parameters=718_324, gmacs=0.038)
def shufflenet_v1_x0_5_g3(*, num_classes: int = 1000) -> ShuffleNetV1:
    """ShuffleNet 0.5x with 3 groups (table 1)."""
    return ShuffleNetV1(X0_5_G3, num_classes)


@register("shufflenet_v1_x1_0_g3", **_FACTS, parameters=1_865_728, gmacs=0.137)
def shufflenet_v1_x1_0_g3(*, num_classes: int = 1000) -> ShuffleNetV1:
    """ShuffleNet 1.0x with 3 groups (table 1)."""
    return ShuffleNetV1(X1_0_G3, num_classes)


@register("shufflenet_v1_x1_5_g3", **_FACTS, parameters=3_442_168, gmacs=0.292)
def shufflenet_v1_x1_5_g3(*, num_classes: int = 1000) -> ShuffleNetV1:
    """ShuffleNet 1.5x with 3 groups (table 1)."""
    return ShuffleNetV1(X1_5_G3, num_classes)


@register("shufflenet_v1_x2_0_g3", **_FACTS, parameters=5_450_776, gmacs=0.524)
def shufflenet_v1_x2_0_g3(*, num_classes: int = 1000) -> ShuffleNetV1:
    """ShuffleNet 2.0x with 3 groups (table 1)."""
    return ShuffleNetV1(X2_0_G3, num_classes)


@register("shufflenet_v1_x0_5_g8", **_FACTS, parameters=1_011_448, gmacs=0.040)
def shufflenet_v1_x0_5_g8(*, num_classes: int = 1000) -> ShuffleNetV1:
    """ShuffleNet 0.5x with 8 groups (table 1)."""
    return ShuffleNetV1(X0_5_G8, num_classes)


@register("shufflenet_v1_x1_0_g8", **_FACTS, parameters=2_434_768, gmacs=0.138)
def shufflenet_v1_x1_0_g8(*, num_classes: int = 1000) -> ShuffleNetV1:
    """ShuffleNet 1.0x with 8 groups (table 1)."""
    return ShuffleNetV1(X1_0_G8, num_classes)


@register("shufflenet_v1_x1_5_g8", **_FACTS, parameters=4_269_952, gmacs=0.290)
def shufflenet_v1_x1_5_g8(*, num_classes: int = 1000) -> ShuffleNetV1:
    """ShuffleNet 1.5x with 8 groups (table 1)."""
    return ShuffleNetV1(X1_5_G8, num_classes)


@register("shufflenet_v1_x2_0_g8", **_FACTS, parameters=6_522_232, gmacs=0.522)
def shufflenet_v1_x2_0_g8(*, num_classes: int = 1000) -> ShuffleNetV1:
    """ShuffleNet 2.0x with 8 groups (table 1)."""
    return ShuffleNetV1(X2_0_G8, num_classes)
