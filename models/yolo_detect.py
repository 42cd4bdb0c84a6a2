"""YOLOv5's last layer: maps to boxes and scores, with grid and anchors as constants of the image size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

# Channels of a prediction before those of its classes: centre, size, objectness.
BOX = 5


class Detect(nn.Module):
    """Maps of several strides to what is predicted at each of their cells.

    In train mode the maps as they are, ``[N, anchors, H, W, 5 + classes]``. In eval mode boxes ``[N, P, 4]`` as x1,
    y1, x2, y2 in pixels of the image, and scores ``[N, P, classes]``, objectness times class probability. Predictions
    go through the maps cell by cell, for the first anchor of every map, then for the second.

    Args:
        inputs, strides: channels of each map, and its cells' side in pixels.
        anchors: widths and heights in pixels for each map, as many for one as for another.
    """

    anchors: Tensor  # [maps, anchors, 2] in units of the map's stride, as checkpoints hold them

    def __init__(
        self,
        inputs: Sequence[int],
        strides: Sequence[int],
        anchors: Sequence[Sequence[tuple[int, int]]],
        num_classes: int,
    ) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.channels = BOX + num_classes
        pixels = torch.tensor(anchors, dtype=torch.float32)
        self.register_buffer("anchors", pixels / torch.tensor(strides).view(-1, 1, 1))
        self.m = nn.ModuleList(nn.Conv2d(width, self.per_cell * self.channels, 1) for width in inputs)

    @property
    def per_cell(self) -> int:
        """Predictions at each cell: one per anchor."""
        return self.anchors.shape[1]

    def forward(self, *maps: Tensor) -> list[Tensor] | tuple[Tensor, Tensor]:
        shape = (self.per_cell, self.channels)
        raw = [conv(features).unflatten(1, shape) for conv, features in zip(self.m, maps, strict=True)]
        if self.training:
            return [level.permute(0, 1, 3, 4, 2) for level in raw]
        return self._decode(torch.cat([level.flatten(3) for level in raw], 3), [level.shape[3:] for level in raw])

    def _decode(self, raw: Tensor, sizes: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """``raw`` is [N, anchors, 5 + classes, cells]. A centre lies up to half a cell beyond its own cell."""
        strides, corners, anchors = self._constants(sizes)
        predictions = raw.transpose(2, 3).flatten(1, 2).sigmoid()
        centre, size, objectness, classes = torch.split(predictions, [2, 2, 1, self.channels - BOX], 2)
        middle = centre * (2 * strides) + corners  # (2 sigma - 0.5 + cell) stride
        half = size * size * (2 * anchors)  # of (2 sigma)^2 anchor
        return torch.cat((middle - half, middle + half), 2), objectness * classes

    def _constants(self, sizes: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor]:
        """For each prediction in pixels: stride [P, 1], the cell's corner less half a cell [P, 2], anchor [P, 2]."""
        device = self.anchors.device
        strides, corners, anchors = [], [], []
        for (height, width), stride, level in zip(sizes, self.strides, self.anchors, strict=True):
            ranges = torch.arange(height, device=device), torch.arange(width, device=device)
            y, x = torch.meshgrid(*ranges, indexing="ij")
            corners.append((torch.stack((x, y), 2).flatten(0, 1) - 0.5) * stride)
            strides.append(torch.full((height * width, 1), float(stride), device=device))
            anchors.append((level * stride).unsqueeze(1).expand(-1, height * width, -1))
        times = self.per_cell, 1
        return torch.cat(strides).repeat(times), torch.cat(corners).repeat(times), torch.cat(anchors, 1).flatten(0, 1)
