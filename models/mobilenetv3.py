"""MobileNetV3, "Searching for MobileNetV3", arXiv 1905.02244. Keys are torchvision's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models.errors import ModelError
from models.layers import Activation, ConvNormAct, SqueezeExcite, init_convolutions, make_divisible
from models.padding import AUTO, PaddedNetwork
from models.registry import Checkpoint, Transform, register
from models.timm_layout import timm_layout

RE: Activation = nn.ReLU
HS: Activation = nn.Hardswish

_norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)


class Row(NamedTuple):
    """A bottleneck: depthwise kernel, channels inside, channels out, squeeze-and-excite, activation, stride."""

    kernel: int
    expanded: int
    out: int
    se: bool
    activation: Activation
    stride: int


STEM = 16  # channels, 112x112

# Table 1; at the end of a row the size of its output for a 224x224 image.
LARGE = (
    Row(3, 16, 16, False, RE, 1),  # 112
    Row(3, 64, 24, False, RE, 2),  # 56
    Row(3, 72, 24, False, RE, 1),  # 56
    Row(5, 72, 40, True, RE, 2),  # 28
    Row(5, 120, 40, True, RE, 1),  # 28
    Row(5, 120, 40, True, RE, 1),  # 28
    Row(3, 240, 80, False, HS, 2),  # 14
    Row(3, 200, 80, False, HS, 1),  # 14
    Row(3, 184, 80, False, HS, 1),  # 14
    Row(3, 184, 80, False, HS, 1),  # 14
    Row(3, 480, 112, True, HS, 1),  # 14
    Row(3, 672, 112, True, HS, 1),  # 14
    Row(5, 672, 160, True, HS, 2),  # 7
    Row(5, 960, 160, True, HS, 1),  # 7
    Row(5, 960, 160, True, HS, 1),  # 7
)

# Table 2.
SMALL = (
    Row(3, 16, 16, True, RE, 2),  # 56
    Row(3, 72, 24, False, RE, 2),  # 28
    Row(3, 88, 24, False, RE, 1),  # 28
    Row(5, 96, 40, True, HS, 2),  # 14
    Row(5, 240, 40, True, HS, 1),  # 14
    Row(5, 240, 40, True, HS, 1),  # 14
    Row(5, 120, 48, True, HS, 1),  # 14
    Row(5, 144, 48, True, HS, 1),  # 14
    Row(5, 288, 96, True, HS, 2),  # 7
    Row(5, 576, 96, True, HS, 1),  # 7
    Row(5, 576, 96, True, HS, 1),  # 7
)


def scaled(rows: Sequence[Row], width_mult: float, reduced_tail: bool) -> list[Row]:
    """The rows with their channels scaled; ``reduced_tail`` halves what follows the last stride (section 6.4)."""
    if reduced_tail:
        *head, last, one, two = rows
        tail = [row._replace(expanded=row.expanded // 2) for row in (one, two)]
        rows = [*head, *(row._replace(out=row.out // 2) for row in (last, *tail))]
    return [
        row._replace(expanded=make_divisible(row.expanded * width_mult), out=make_divisible(row.out * width_mult))
        for row in rows
    ]


class Bottleneck(nn.Module):
    """Expand, filter each channel, squeeze-and-excite, project; add the input where shapes allow (figure 4)."""

    def __init__(self, inputs: int, row: Row) -> None:
        super().__init__()
        inside = row.expanded
        layer = partial(ConvNormAct, norm=_norm)
        layers: list[nn.Module] = []
        if inside != inputs:
            layers.append(layer(inputs, inside, 1, activation=row.activation))
        layers.append(layer(inside, inside, row.kernel, stride=row.stride, groups=inside, activation=row.activation))
        if row.se:
            squeezed = make_divisible(inside // 4)
            layers.append(SqueezeExcite(inside, squeezed, activation=nn.ReLU, gate=nn.Hardsigmoid))
        layers.append(layer(inside, row.out, 1))
        self.block = nn.Sequential(*layers)
        self.residual = row.stride == 1 and inputs == row.out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return x + y if self.residual else y


class MobileNetV3(PaddedNetwork):
    """Images ``[N, 3, H, W]`` to logits ``[N, num_classes]``. ``head`` is the width of the last hidden layer."""

    def __init__(self, stem: int, rows: Sequence[Row], head: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        widths = [stem, *(row.out for row in rows)]
        pooled = 6 * widths[-1]
        self.features = nn.Sequential(
            ConvNormAct(3, stem, 3, stride=2, norm=_norm, activation=HS),
            *(Bottleneck(inputs, row) for inputs, row in zip(widths, rows, strict=False)),
            ConvNormAct(widths[-1], pooled, 1, norm=_norm, activation=HS),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(pooled, head), nn.Hardswish(), nn.Dropout(dropout), nn.Linear(head, num_classes)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as torchvision does: the same seed gives the same weights."""
        init_convolutions(self)
        for layer in self.classifier:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, 0, 0.01)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
        return logits


def _build(
    rows: Sequence[Row],
    head: int,
    num_classes: int,
    width_mult: float,
    reduced_tail: bool,
    dropout: float,
    padding: str,
) -> MobileNetV3:
    if width_mult <= 0 or not 0 <= dropout < 1:
        got = f"width_mult={width_mult}, dropout={dropout}"
        raise ModelError("MobileNetV3 cannot be built so", got=got, expected="width_mult > 0, 0 <= dropout < 1")
    head = make_divisible(head // (2 if reduced_tail else 1) * width_mult)
    stem = make_divisible(STEM * width_mult)
    network = MobileNetV3(stem, scaled(rows, width_mult, reduced_tail), head, num_classes, dropout)
    network.ask_padding(padding)
    return network


_FACTS: dict[str, Any] = {
    "family": "mobilenet_v3",
    "paper": "Searching for MobileNetV3 (arXiv 1905.02244)",
    "input_size": (224, 224),
    "variants": {"width_mult": (1.0, 0.35, 0.5, 0.75, 1.25), "reduced_tail": (False, True)},
    "layouts": (timm_layout({"conv_head": "classifier.0", "classifier": "classifier.3"}, staged=False),),
}
_URL = "https://download.pytorch.org/models/"


@register(
    "mobilenet_v3_large",
    **_FACTS,
    transform=Transform(232, (224, 224)),
    checkpoints=(
        Checkpoint("V2", f"{_URL}mobilenet_v3_large-5c1a4163.pth", "5c1a4163", 75.27),
        Checkpoint("V1", f"{_URL}mobilenet_v3_large-8738ca79.pth", "8738ca79", 74.04, Transform(256, (224, 224))),
    ),
    parameters=5_483_032,
    gmacs=0.217,
)
def mobilenet_v3_large(
    *,
    num_classes: int = 1000,
    width_mult: float = 1.0,
    reduced_tail: bool = False,
    dropout: float = 0.2,
    padding: str = AUTO,
) -> MobileNetV3:
    """MobileNetV3-Large (table 1)."""
    return _build(LARGE, 1280, num_classes, width_mult, reduced_tail, dropout, padding)


@register(
    "mobilenet_v3_small",
    **_FACTS,
    transform=Transform(256, (224, 224)),
    checkpoints=(Checkpoint("V1", f"{_URL}mobilenet_v3_small-047dcff4.pth", "047dcff4", 67.67),),
    parameters=2_542_856,
    gmacs=0.057,
)
def mobilenet_v3_small(
    *,
    num_classes: int = 1000,
    width_mult: float = 1.0,
    reduced_tail: bool = False,
    dropout: float = 0.2,
    padding: str = AUTO,
) -> MobileNetV3:
    """MobileNetV3-Small (table 2)."""
    return _build(SMALL, 1024, num_classes, width_mult, reduced_tail, dropout, padding)
