"""YOLOv5 (Ultralytics, v6 and v7), and YOLOv5s with the EfficientNetV2 backbone (arXiv 2104.00298).

Written from the rows of the networks; keys of the ``state_dict`` are ultralytics/yolov5's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

from torch import Tensor, nn

from models.registry import Transform, register
from models.yolo_detect import BOX, Detect
from models.yolo_layers import C3, SPPF, Concat, Conv, FusedMBConv, MBConv


class Row(NamedTuple):
    """One layer: block, channels out (0: as many as come in), its numbers, and the rows it reads (-1: that above).

    ``stride`` is a half where the map doubles. C3 repeats its bottlenecks, other blocks are repeated as a whole.
    """

    block: str
    out: int = 0
    kernel: int = 1
    stride: float = 1
    expand: int = 1
    repeats: int = 1
    shortcut: bool = True
    sources: tuple[int, ...] = (-1,)


def _head(first: int, deep: int, shallow: int) -> tuple[Row, ...]:
    """Down and up again through three sizes (PANet, arXiv 1803.01534), from row ``first`` on.

    ``deep`` and ``shallow`` are the rows of the backbone that join on the way.
    """
    return (
        Row("conv", 512),  # 20
        Row("up", stride=0.5),  # 40
        Row("concat", sources=(-1, deep)),  # 40
        Row("C3", 512, repeats=3, shortcut=False),  # 40
        Row("conv", 256),  # 40
        Row("up", stride=0.5),  # 80
        Row("concat", sources=(-1, shallow)),  # 80
        Row("C3", 256, repeats=3, shortcut=False),  # 80, detects
        Row("conv", 256, kernel=3, stride=2),  # 40
        Row("concat", sources=(-1, first + 4)),  # 40
        Row("C3", 512, repeats=3, shortcut=False),  # 40, detects
        Row("conv", 512, kernel=3, stride=2),  # 20
        Row("concat", sources=(-1, first)),  # 20
        Row("C3", 1024, repeats=3, shortcut=False),  # 20, detects
        Row("detect", sources=(first + 7, first + 10, first + 13)),
    )


# At the end of a row the size of its output for a 640x640 image.
V6 = (
    Row("conv", 64, kernel=6, stride=2),  # 320
    Row("conv", 128, kernel=3, stride=2),  # 160
    Row("C3", 128, repeats=3),  # 160
    Row("conv", 256, kernel=3, stride=2),  # 80
    Row("C3", 256, repeats=6),  # 80
    Row("conv", 512, kernel=3, stride=2),  # 40
    Row("C3", 512, repeats=9),  # 40
    Row("conv", 1024, kernel=3, stride=2),  # 20
    Row("C3", 1024, repeats=3),  # 20
    Row("SPPF", 1024, kernel=5),  # 20
    *_head(10, deep=6, shallow=4),
)

# EfficientNetV2-S (table 4) as it was put in front of YOLOv5s, with one stride too many: in row 8.
EFFICIENTNETV2 = (
    Row("conv", 24, kernel=3, stride=2),  # 320
    Row("fused", 24, repeats=2),  # 320
    Row("fused", 48, stride=2, expand=4),  # 160
    Row("fused", 48, expand=4, repeats=3),  # 160
    Row("fused", 64, stride=2, expand=4),  # 80
    Row("fused", 64, expand=4, repeats=3),  # 80
    Row("mb", 128, stride=2, expand=4),  # 40
    Row("mb", 128, expand=4, repeats=5),  # 40
    Row("mb", 160, stride=2, expand=6),  # 20
    Row("mb", 160, expand=6, repeats=8),  # 20
    Row("mb", 272, stride=2, expand=4),  # 10
    Row("mb", 272, expand=4, repeats=14),  # 10
    Row("SPPF", 1024, kernel=5),  # 10
    *_head(13, deep=9, shallow=7),  # half the sizes noted there
)

# The strides of EfficientNetV2 itself. Row 7 is then as small as row 9; row 5 is the last one at stride 8.
EFFICIENTNETV2_P3 = (
    *EFFICIENTNETV2[:8],
    Row("mb", 160, stride=1, expand=6),  # 40
    *EFFICIENTNETV2[9:13],  # 40, 20, 20, 20
    *_head(13, deep=9, shallow=5),
)

# Width and height in pixels for each of the three sizes detected at.
ANCHORS = (
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)


class Place(NamedTuple):
    """What a row reads: the rows (-1: the image), and of each its channels and its cells' side in pixels."""

    sources: tuple[int, ...]
    channels: tuple[int, ...]
    strides: tuple[int, ...]


def places(rows: Sequence[Row]) -> Iterator[Place]:
    """Where each row stands, by adding up channels and multiplying strides."""
    channels, strides = {-1: 3}, {-1: 1}
    for index, row in enumerate(rows):
        sources = tuple(index - 1 if source == -1 else source for source in row.sources)
        place = Place(sources, tuple(channels[s] for s in sources), tuple(strides[s] for s in sources))
        yield place
        channels[index] = row.out or sum(place.channels)
        strides[index] = int(place.strides[0] * row.stride)


def scaled(rows: Sequence[Row], depth: float, width: float) -> list[Row]:
    """The rows with channels times ``width``, up to a multiple of 8, and repeats times ``depth``, rounded."""
    return [
        row._replace(out=math.ceil(row.out * width / 8) * 8, repeats=max(round(row.repeats * depth), 1)) for row in rows
    ]


_BLOCKS: dict[str, Callable[[int, Row], nn.Module]] = {
    "conv": lambda inputs, row: Conv(inputs, row.out, row.kernel, int(row.stride)),
    "C3": lambda inputs, row: C3(inputs, row.out, row.repeats, row.shortcut),
    "SPPF": lambda inputs, row: SPPF(inputs, row.out, row.kernel),
    "up": lambda inputs, row: nn.Upsample(scale_factor=2),
    "concat": lambda inputs, row: Concat(),
    "fused": lambda inputs, row: _repeated(FusedMBConv, inputs, row),
    "mb": lambda inputs, row: _repeated(MBConv, inputs, row),
}


def _repeated(block: type[FusedMBConv | MBConv], inputs: int, row: Row) -> nn.Module:
    """Blocks in a row are numbered in the keys, a single one is not."""
    blocks = [block(inputs, row.out, int(row.stride), row.expand) for _ in range(row.repeats)]
    return nn.Sequential(*blocks) if len(blocks) > 1 else blocks[0]


class YOLOv5(nn.Module):
    """Images ``[N, 3, H, W]`` to what :class:`Detect` returns. Sides must be multiples of the largest stride."""

    def __init__(self, rows: Sequence[Row], num_classes: int) -> None:
        super().__init__()
        *body, last = placed = list(places(rows))
        layers = [_BLOCKS[row.block](sum(place.channels), row) for row, place in zip(rows, body, strict=False)]
        self.model = nn.Sequential(*layers, Detect(last.channels, last.strides, ANCHORS, num_classes))
        self.sources = [place.sources for place in placed]
        self.kept = {source for index, place in enumerate(placed) for source in place.sources if source != index - 1}

    @property
    def detect(self) -> Detect:
        return cast(Detect, self.model[-1])

    @property
    def heads(self) -> list[nn.Module]:
        """The layers that compute the outputs."""
        return list(self.detect.m)

    def classes_of(self, rows: int) -> int:
        """How many classes a head with ``rows`` outputs tells apart."""
        return rows // self.detect.per_cell - BOX

    def forward(self, x: Tensor) -> Any:
        maps = {-1: x}
        for index, (layer, sources) in enumerate(zip(self.model, self.sources, strict=True)):
            maps[index] = layer(*(maps[source] for source in sources))
            if index - 1 not in self.kept:
                del maps[index - 1]
        return maps[index]


def _build(rows: Sequence[Row], depth: float, width: float, *, num_classes: int = 80) -> YOLOv5:
    return YOLOv5(scaled(rows, depth, width), num_classes)


def _register(name: str, rows: Sequence[Row], depth: float, width: float, **facts: Any) -> None:
    *_, detect = places(rows)
    register(
        name,
        family="yolov5",
        task="detection",
        num_classes=80,
        input_size=(640, 640),
        transform=Transform(640, (640, 640), "linear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), mode="letterbox"),
        size_multiple=max(detect.strides),
        **facts,
    )(partial(_build, rows, depth, width))


_PAPER = "Ultralytics YOLOv5 (v6, doi 10.5281/zenodo.3908559)"
_register("yolov5n", V6, 0.33, 0.25, paper=_PAPER, parameters=1_872_157, gmacs=2.234)
_register("yolov5s", V6, 0.33, 0.50, paper=_PAPER, parameters=7_235_389, gmacs=8.217)
_register("yolov5m", V6, 0.67, 0.75, paper=_PAPER, parameters=21_190_557, gmacs=24.436)
_register("yolov5l", V6, 1.0, 1.0, paper=_PAPER, parameters=46_563_709, gmacs=54.497)
_register("yolov5x", V6, 1.33, 1.25, paper=_PAPER, parameters=86_749_405, gmacs=102.724)

_PAPER = f"{_PAPER} with EfficientNetV2 (arXiv 2104.00298)"
_register("yolov5s_efficientnetv2", EFFICIENTNETV2, 0.33, 0.50, paper=_PAPER, parameters=5_800_373, gmacs=2.700)
_register("yolov5s_efficientnetv2_p3", EFFICIENTNETV2_P3, 0.33, 0.50, paper=_PAPER, parameters=5_796_277, gmacs=5.511)
