"""EfficientNetV2 of the final paper, arXiv 2104.00298, table 4 and its code. Keys are torchvision's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from models.efficientnet import Facts, Plan, Stage, published, register_network
from models.padding import SAME
from models.registry import Transform

HEAD = 1280

_F = partial(Stage, kernel=3, fused=True)
_M = partial(Stage, kernel=3)

# Behind a row the size of its output for the image the network was tested with: 384x384, m and l 480x480, xl 512x512.
S = (
    _F(expand=1, stride=1, out=24, repeats=2),  # 192
    _F(expand=4, stride=2, out=48, repeats=4),  # 96
    _F(expand=4, stride=2, out=64, repeats=4),  # 48
    _M(expand=4, stride=2, out=128, repeats=6),  # 24
    _M(expand=6, stride=1, out=160, repeats=9),  # 24
    _M(expand=6, stride=2, out=256, repeats=15),  # 12
)
M = (
    _F(expand=1, stride=1, out=24, repeats=3),  # 240
    _F(expand=4, stride=2, out=48, repeats=5),  # 120
    _F(expand=4, stride=2, out=80, repeats=5),  # 60
    _M(expand=4, stride=2, out=160, repeats=7),  # 30
    _M(expand=6, stride=1, out=176, repeats=14),  # 30
    _M(expand=6, stride=2, out=304, repeats=18),  # 15
    _M(expand=6, stride=1, out=512, repeats=5),  # 15
)
L = (
    _F(expand=1, stride=1, out=32, repeats=4),  # 240
    _F(expand=4, stride=2, out=64, repeats=7),  # 120
    _F(expand=4, stride=2, out=96, repeats=7),  # 60
    _M(expand=4, stride=2, out=192, repeats=10),  # 30
    _M(expand=6, stride=1, out=224, repeats=19),  # 30
    _M(expand=6, stride=2, out=384, repeats=25),  # 15
    _M(expand=6, stride=1, out=640, repeats=7),  # 15
)
XL = (
    _F(expand=1, stride=1, out=32, repeats=4),  # 256
    _F(expand=4, stride=2, out=64, repeats=8),  # 128
    _F(expand=4, stride=2, out=96, repeats=8),  # 64
    _M(expand=4, stride=2, out=192, repeats=16),  # 32
    _M(expand=6, stride=1, out=256, repeats=24),  # 32
    _M(expand=6, stride=2, out=512, repeats=32),  # 16
    _M(expand=6, stride=1, out=640, repeats=8),  # 16
)


def _plan(stages: Sequence[Stage], dropout: float) -> Plan:
    # The stem is as wide as the first stage.
    return Plan(stages[0].out, stages, HEAD, dropout, eps=1e-3)


_HALF = (0.5, 0.5, 0.5)

_NETWORKS = {
    "s": Facts(
        _plan(S, 0.2),
        21_458_488,
        8.366,
        Transform(384, (384, 384)),
        (published("V1", "efficientnet_v2_s-dd5fe13b.pth", 84.23),),
    ),
    "m": Facts(
        _plan(M, 0.3),
        54_139_356,
        24.582,
        Transform(480, (480, 480)),
        (published("V1", "efficientnet_v2_m-dc08266a.pth", 85.11),),
    ),
    "l": Facts(
        _plan(L, 0.4),
        118_515_272,
        56.080,
        Transform(480, (480, 480), "bicubic", _HALF, _HALF),
        (published("V1", "efficientnet_v2_l-59c71312.pth", 85.81),),
    ),
    # Its only published weights are TensorFlow's, as timm has them: hence the padding and the preprocessing.
    "xl": Facts(
        _plan(XL, 0.5)._replace(padding=SAME),
        208_119_808,
        93.354,
        Transform(512, (512, 512), "bicubic", _HALF, _HALF, mode="squash"),
    ),
}

for _size, _facts in _NETWORKS.items():
    register_network(
        f"efficientnet_v2_{_size}",
        "efficientnet_v2",
        _facts,
        paper="EfficientNetV2 (arXiv 2104.00298), final version",
        aliases=(f"effv2_{_size}",),
        note=f"final version, not effnetv2_{_size}",
    )
