"""EfficientNetV2 of the paper's first version, arXiv 2104.00298v1, as its most copied PyTorch port has it.

Not the networks of :mod:`models.efficientnet_v2`: other stems, heads, squeezes and last stages. Keys are the port's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models.layers import init_convolutions, make_divisible
from models.registry import Builder, Transform, register

STEM, HEAD = 24, 1792


class Row(NamedTuple):
    """Blocks of one kind: expansion, channels out, number of blocks, stride of the first.

    ``separable`` ones filter each channel and have a squeeze-and-excite; the others are fused, one full convolution.
    """

    expand: int
    out: int
    repeats: int
    stride: int
    separable: bool


# Behind a row the size of its output for the image the network was tested with: 384x384, m and l 480x480, xl 512x512.
S = (
    Row(1, 24, 2, 1, False),  # 192
    Row(4, 48, 4, 2, False),  # 96
    Row(4, 64, 4, 2, False),  # 48
    Row(4, 128, 6, 2, True),  # 24
    Row(6, 160, 9, 1, True),  # 24
    Row(6, 272, 15, 2, True),  # 12
)
S_256 = (*S[:-1], Row(6, 256, 15, 2, True))  # the port's later form
M = (
    Row(1, 24, 3, 1, False),  # 240
    Row(4, 48, 5, 2, False),  # 120
    Row(4, 80, 5, 2, False),  # 60
    Row(4, 160, 7, 2, True),  # 30
    Row(6, 176, 14, 1, True),  # 30
    Row(6, 304, 18, 2, True),  # 15
    Row(6, 512, 5, 1, True),  # 15
)
L = (
    Row(1, 32, 4, 1, False),  # 240
    Row(4, 64, 7, 2, False),  # 120
    Row(4, 96, 7, 2, False),  # 60
    Row(4, 192, 10, 2, True),  # 30
    Row(6, 224, 19, 1, True),  # 30
    Row(6, 384, 25, 2, True),  # 15
    Row(6, 640, 7, 1, True),  # 15
)
XL = (
    Row(1, 32, 4, 1, False),  # 256
    Row(4, 64, 8, 2, False),  # 128
    Row(4, 96, 8, 2, False),  # 64
    Row(4, 192, 16, 2, True),  # 32
    Row(6, 256, 24, 1, True),  # 32
    Row(6, 512, 32, 2, True),  # 16
    Row(6, 640, 8, 1, True),  # 16
)


class LinearSqueezeExcite(nn.Module):
    """Squeeze-and-excitation (arXiv 1709.01507) by linear layers."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(nn.Linear(channels, squeezed), nn.SiLU(), nn.Linear(squeezed, channels), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        scale: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return x * scale[:, :, None, None]


class Block(nn.Module):
    """MBConv or Fused-MBConv (figure 2); the input is added where shapes allow."""

    def __init__(self, inputs: int, row: Row, stride: int, fused_se: bool) -> None:
        super().__init__()
        inside = inputs * row.expand
        gate = LinearSqueezeExcite(inside, make_divisible(inputs // 4))
        if row.separable:
            filtering = [
                *_conv(inputs, inside, 1),
                nn.SiLU(),
                *_conv(inside, inside, 3, stride, inside),
                nn.SiLU(),
                gate,
            ]
        else:
            filtering = [*_conv(inputs, inside, 3, stride), nn.SiLU(), *([gate] if fused_se else [])]
        self.conv = nn.Sequential(*filtering, *_conv(inside, row.out, 1))
        self.residual = stride == 1 and inputs == row.out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class EffNetV2(nn.Module):
    """Images ``[N, 3, H, W]`` to logits ``[N, num_classes]``. ``fused_se``: also fused blocks have a gate."""

    def __init__(self, rows: Sequence[Row], num_classes: int, fused_se: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Sequential(*_conv(3, STEM, 3, 2), nn.SiLU())]
        inputs = STEM
        for row in rows:
            for stride in [row.stride] + [1] * (row.repeats - 1):
                layers.append(Block(inputs, row, stride, fused_se))
                inputs = row.out
        self.features = nn.Sequential(*layers)
        self.conv = nn.Sequential(*_conv(inputs, HEAD, 1), nn.SiLU())
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(HEAD, num_classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise; the linear layers of gates stay as PyTorch makes them."""
        init_convolutions(self)
        nn.init.normal_(self.classifier.weight, 0, 0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(torch.flatten(self.avgpool(self.conv(self.features(x))), 1))
        return logits


def _builder(rows: Sequence[Row], fused_se: bool) -> Builder:
    def build(*, num_classes: int = 1000) -> EffNetV2:
        return EffNetV2(rows, num_classes, fused_se)

    return build


class _Facts(NamedTuple):
    """Rows, side of the image in pixels; parameters and GMACs, in the second pair with gates in fused blocks."""

    rows: Sequence[Row]
    side: int
    plain: tuple[int, float]
    fused_se: tuple[int, float]


_NETWORKS = {
    "s": _Facts(S, 384, (24_124_136, 8.641), (24_177_408, 8.641)),
    "s_256": _Facts(S_256, 384, (22_103_832, 8.428), (22_157_104, 8.428)),
    "m": _Facts(M, 480, (55_300_016, 24.742), (55_397_480, 24.742)),
    "l": _Facts(L, 480, (119_355_792, 56.130), (119_532_336, 56.131)),
    "xl": _Facts(XL, 512, (208_960_328, 93.411), (209_164_176, 93.411)),
}


def _register(name: str, facts: _Facts, fused_se: bool, **more: Any) -> None:
    size = (facts.side, facts.side)
    parameters, gmacs = facts.fused_se if fused_se else facts.plain
    register(
        name,
        family="effnetv2",
        paper="EfficientNetV2 (arXiv 2104.00298), first version",
        input_size=size,
        transform=Transform(facts.side, size),
        parameters=parameters,
        gmacs=gmacs,
        **more,
    )(_builder(facts.rows, fused_se))


for _name, _facts in _NETWORKS.items():
    _other = "efficientnet_v2_" + _name.removesuffix("_256")
    _note = f"the paper's first version, as a community port has it; {_other} is another network"
    _register(f"effnetv2_{_name}", _facts, fused_se=False, note=_note)
    _register(f"effnetv2_{_name}_fused_se", _facts, fused_se=True, note=f"{_note}; gates in fused blocks too")
