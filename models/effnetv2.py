"""EfficientNetV2 of the paper's first version, arXiv 2104.00298v1, as its most copied PyTorch port has it.

Not the networks of :mod:`models.efficientnet_v2`, whose stages they share but for the last of s: stems, heads, squeezes
and fused blocks of expansion 1 differ. Keys are the port's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models.efficientnet import Stage
from models.efficientnet_v2 import XL, L, M
from models.efficientnet_v2 import S as S_256
from models.layers import init_convolutions, make_divisible
from models.registry import Builder, Transform, register

STEM, HEAD = 24, 1792

# The stages are the final version's but for the last of s, whose later form in the port is the final one too.
S = (*S_256[:-1], S_256[-1]._replace(out=272))


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

    def __init__(self, inputs: int, stage: Stage, stride: int, fused_se: bool) -> None:
        super().__init__()
        inside = inputs * stage.expand
        gate = LinearSqueezeExcite(inside, make_divisible(inputs // 4))
        if not stage.fused:
            filtering = [
                *_conv(inputs, inside, 1),
                nn.SiLU(),
                *_conv(inside, inside, 3, stride, inside),
                nn.SiLU(),
                gate,
            ]
        else:
            filtering = [*_conv(inputs, inside, 3, stride), nn.SiLU(), *([gate] if fused_se else [])]
        self.conv = nn.Sequential(*filtering, *_conv(inside, stage.out, 1))
        self.residual = stride == 1 and inputs == stage.out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class EffNetV2(nn.Module):
    """Images ``[N, 3, H, W]`` to logits ``[N, num_classes]``. ``fused_se``: also fused blocks have a gate."""

    def __init__(self, stages: Sequence[Stage], num_classes: int, fused_se: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Sequential(*_conv(3, STEM, 3, 2), nn.SiLU())]
        inputs = STEM
        for stage in stages:
            for stride in [stage.stride] + [1] * (stage.repeats - 1):
                layers.append(Block(inputs, stage, stride, fused_se))
                inputs = stage.out
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


def _builder(stages: Sequence[Stage], fused_se: bool) -> Builder:
    def build(*, num_classes: int = 1000) -> EffNetV2:
        return EffNetV2(stages, num_classes, fused_se)

    return build


class _Facts(NamedTuple):
    """Stages, side of the image in pixels; parameters and GMACs, in the second pair with gates in fused blocks."""

    stages: Sequence[Stage]
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
    )(_builder(facts.stages, fused_se))


for _name, _facts in _NETWORKS.items():
    _other = "efficientnet_v2_" + _name.removesuffix("_256")
    _note = f"first version, not {_other}"
    _register(f"effnetv2_{_name}", _facts, fused_se=False, note=_note)
    _register(f"effnetv2_{_name}_fused_se", _facts, fused_se=True, note=f"{_note}; SE in all blocks")
