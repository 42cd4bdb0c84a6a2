"""What YOLOv5 is built from: its convolutions and bottlenecks, and those of EfficientNetV2 as they are used there.

Keys of the ``state_dict`` are those of ultralytics/yolov5 v6 and v7.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

_norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.03)


class Conv(nn.Module):
    """Convolution, batch norm, SiLU. Stride 2 halves even sizes, for the stem's kernel of 6 as well."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        padding = (kernel - 1) // 2
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.bn = _norm(outputs)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.bn(self.conv(x)))
        return y


class Bottleneck(nn.Module):
    """1x1 then 3x3, of as many channels as come in; ``shortcut`` adds the input."""

    def __init__(self, channels: int, shortcut: bool) -> None:
        super().__init__()
        self.cv1 = Conv(channels, channels)
        self.cv2 = Conv(channels, channels, 3)
        self.residual = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.cv2(self.cv1(x))
        return x + y if self.residual else y


class C3(nn.Module):
    """Cross-stage partial block (arXiv 1911.11929) of three convolutions: one half of the channels is worked on."""

    def __init__(self, inputs: int, outputs: int, repeats: int, shortcut: bool) -> None:
        super().__init__()
        half = outputs // 2
        self.cv1 = Conv(inputs, half)
        self.cv2 = Conv(inputs, half)
        self.cv3 = Conv(2 * half, outputs)
        self.m = nn.Sequential(*(Bottleneck(half, shortcut) for _ in range(repeats)))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))
        return y


class SPPF(nn.Module):
    """Spatial pyramid pooling (arXiv 1406.4729): maxima over 5, 9 and 13 pixels, as 5 repeated."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        half = inputs // 2
        self.cv1 = Conv(inputs, half)
        self.cv2 = Conv(4 * half, outputs)
        self.m = nn.MaxPool2d(kernel, 1, kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        maxima: list[Tensor] = [self.cv1(x)]
        for _ in range(3):
            maxima.append(self.m(maxima[-1]))
        y: Tensor = self.cv2(torch.cat(maxima, 1))
        return y


class Concat(nn.Module):
    """Several maps of one size to one, channel after channel."""

    def forward(self, *maps: Tensor) -> Tensor:
        return torch.cat(maps, 1)


class Gate(nn.Module):
    """Squeeze-and-excitation (arXiv 1709.01507): channels are scaled by a gate computed from their means."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.conv_reduce = nn.Conv2d(channels, squeezed, 1)
        self.act = nn.ReLU()
        self.conv_expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.conv_expand(self.act(self.conv_reduce(self.pool(x))))
        return x * gate.sigmoid()


class FusedMBConv(nn.Module):
    """3x3 expansion then 1x1 projection, one 3x3 without expansion. The projection has its SiLU too."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        inside = inputs * expand
        if expand == 1:
            self.expansion_conv, self.project_conv = None, Conv(inputs, outputs, 3, stride)
        else:
            self.expansion_conv, self.project_conv = Conv(inputs, inside, 3, stride), Conv(inside, outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project_conv(self.expansion_conv(x) if self.expansion_conv else x)
        return x + y if self.residual else y


class MBConv(nn.Module):
    """1x1 expansion, 3x3 on each channel, squeeze-and-excitation, 1x1 projection with its SiLU."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        inside = inputs * expand
        self.expansion_conv = Conv(inputs, inside)
        self.dw_conv = Conv(inside, inside, 3, stride, groups=inside)
        self.se = Gate(inside, inside // 4)
        self.project_conv = Conv(inside, outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project_conv(self.se(self.dw_conv(self.expansion_conv(x))))
        return x + y if self.residual else y
