"""EfficientNet, arXiv 1905.11946, and the network that its second version shares. Keys are torchvision's."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models.errors import ModelError
from models.layers import ConvNormAct, SqueezeExcite, StochasticDepth, init_convolutions, make_divisible
from models.padding import AUTO, PaddedNetwork
from models.registry import Builder, Checkpoint, Transform, register
from models.timm_layout import timm_layout

TIMM = timm_layout({"conv_head": "features.{}.0", "bn2": "features.{}.1", "classifier": "classifier.1"}, staged=True)


class Stage(NamedTuple):
    """Blocks of one kind: expansion, depthwise kernel, stride of the first, channels out, number of blocks.

    A ``fused`` block has one full convolution where others expand and filter each channel, and no squeeze-and-excite.
    """

    expand: int
    kernel: int
    stride: int
    out: int
    repeats: int
    fused: bool = False


class Plan(NamedTuple):
    """A network: width of the stem, stages, width of the head, dropout, epsilon and momentum of the batch norms."""

    stem: int
    stages: Sequence[Stage]
    head: int
    dropout: float
    eps: float = 1e-5
    momentum: float = 0.1
    padding: str | None = None


class Block(nn.Module):
    """Expand, filter each channel, squeeze-and-excite, project; add the input where shapes allow."""

    def __init__(self, inputs: int, stage: Stage, stride: int, drop: float, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.residual = stride == 1 and inputs == stage.out
        self.block = nn.Sequential(*(_fused if stage.fused else _separable)(inputs, stage, stride, norm))
        self.stochastic_depth = StochasticDepth(drop)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return self.stochastic_depth(y) + x if self.residual else y


def _separable(inputs: int, stage: Stage, stride: int, norm: Callable[[int], nn.Module]) -> list[nn.Module]:
    """MBConv (arXiv 1905.11946, figure 2 of 1807.11626)."""
    inside = make_divisible(inputs * stage.expand)
    layer = partial(ConvNormAct, norm=norm)
    expansion = [layer(inputs, inside, 1, activation=nn.SiLU)] if inside != inputs else []
    return [
        *expansion,
        layer(inside, inside, stage.kernel, stride=stride, groups=inside, activation=nn.SiLU),
        SqueezeExcite(inside, max(1, inputs // 4), activation=nn.SiLU, gate=nn.Sigmoid),
        layer(inside, stage.out, 1),
    ]


def _fused(inputs: int, stage: Stage, stride: int, norm: Callable[[int], nn.Module]) -> list[nn.Module]:
    """Fused-MBConv (arXiv 2104.00298, figure 2). Without expansion, the one convolution is also the projection."""
    inside = make_divisible(inputs * stage.expand)
    layer = partial(ConvNormAct, norm=norm)
    if inside == inputs:
        return [layer(inputs, stage.out, stage.kernel, stride=stride, activation=nn.SiLU)]
    return [layer(inputs, inside, stage.kernel, stride=stride, activation=nn.SiLU), layer(inside, stage.out, 1)]


class EfficientNet(PaddedNetwork):
    """Images ``[N, 3, H, W]`` to logits ``[N, num_classes]``."""

    def __init__(self, plan: Plan, num_classes: int, dropout: float, stochastic_depth: float) -> None:
        super().__init__()
        norm = partial(nn.BatchNorm2d, eps=plan.eps, momentum=plan.momentum)
        widths = [plan.stem, *(stage.out for stage in plan.stages)]
        # The deeper a block, the more often it is dropped.
        blocks = sum(stage.repeats for stage in plan.stages)
        drops = (stochastic_depth * index / blocks for index in itertools.count())
        self.features = nn.Sequential(
            ConvNormAct(3, plan.stem, 3, stride=2, norm=norm, activation=nn.SiLU),
            *(_stage(inputs, stage, drops, norm) for inputs, stage in zip(widths, plan.stages, strict=False)),
            ConvNormAct(widths[-1], plan.head, 1, norm=norm, activation=nn.SiLU),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(plan.head, num_classes))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as torchvision does: the same seed gives the same weights."""
        init_convolutions(self)
        classifier = self.classifier[1]
        assert isinstance(classifier, nn.Linear)
        bound = classifier.out_features**-0.5
        nn.init.uniform_(classifier.weight, -bound, bound)
        nn.init.zeros_(classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
        return logits


def _stage(inputs: int, stage: Stage, drops: Iterator[float], norm: Callable[[int], nn.Module]) -> nn.Sequential:
    widths = [inputs] + [stage.out] * (stage.repeats - 1)
    strides = [stage.stride] + [1] * (stage.repeats - 1)
    return nn.Sequential(
        *(Block(width, stage, stride, next(drops), norm) for width, stride in zip(widths, strides, strict=True))
    )


def builder(plan: Plan) -> Builder:
    """What :func:`models.registry.register` takes for a plan."""

    def build(
        *, num_classes: int = 1000, dropout: float = plan.dropout, stochastic_depth: float = 0.2, padding: str = AUTO
    ) -> EfficientNet:
        if not (0 <= dropout < 1 and 0 <= stochastic_depth < 1):
            got = f"dropout={dropout}, stochastic_depth={stochastic_depth}"
            raise ModelError("EfficientNet cannot be built so", got=got, expected="probabilities of 0 to below 1")
        network = EfficientNet(plan, num_classes, dropout, stochastic_depth)
        network.ask_padding(padding, plan.padding)
        return network

    return build


# Table 1; at the end of a row the size of its output for a 224x224 image.
B0 = (
    Stage(1, 3, 1, 16, 1),  # 112
    Stage(6, 3, 2, 24, 2),  # 56
    Stage(6, 5, 2, 40, 2),  # 28
    Stage(6, 3, 2, 80, 3),  # 14
    Stage(6, 5, 1, 112, 3),  # 14
    Stage(6, 5, 2, 192, 4),  # 7
    Stage(6, 3, 1, 320, 1),  # 7
)
STEM = 32  # channels, 112x112


def scaled(width: float, depth: float, dropout: float, eps: float = 1e-5, momentum: float = 0.1) -> Plan:
    """B0 with its channels and its number of blocks multiplied (section 3.3)."""
    stages = [
        stage._replace(out=make_divisible(stage.out * width), repeats=math.ceil(stage.repeats * depth)) for stage in B0
    ]
    return Plan(make_divisible(STEM * width), stages, 4 * stages[-1].out, dropout, eps, momentum)


class Facts(NamedTuple):
    """A published network: its plan, parameters, GMACs, preprocessing, and checkpoints from best to worst."""

    plan: Plan
    parameters: int
    gmacs: float
    transform: Transform
    checkpoints: tuple[Checkpoint, ...] = ()


def published(tag: str, file: str, top1: float, transform: Transform | None = None) -> Checkpoint:
    """The checkpoint that PyTorch's server has under the name ``file``; top-1 accuracy in %."""
    sha256_prefix = file.removesuffix(".pth").rsplit("-", 1)[-1]
    return Checkpoint(tag, f"https://download.pytorch.org/models/{file}", sha256_prefix, top1, transform)


def _bicubic(crop: int, resize: int) -> Transform:
    return Transform(resize, (crop, crop), "bicubic")


# Width, depth and dropout are the reference code's; the paper gives the rule they come from.
_NETWORKS = {
    "b0": Facts(
        scaled(1.0, 1.0, 0.2),
        5_288_548,
        0.386,
        _bicubic(224, 256),
        (published("V1", "efficientnet_b0_rwightman-7f5810bc.pth", 77.69),),
    ),
    "b1": Facts(
        scaled(1.0, 1.1, 0.2),
        7_794_184,
        0.687,
        Transform(255, (240, 240)),
        (
            published("V2", "efficientnet_b1-c27df63c.pth", 79.84),
            published("V1", "efficientnet_b1_rwightman-bac287d4.pth", 78.64, _bicubic(240, 256)),
        ),
    ),
    "b2": Facts(
        scaled(1.1, 1.2, 0.3),
        9_109_994,
        1.088,
        _bicubic(288, 288),
        (published("V1", "efficientnet_b2_rwightman-c35c1473.pth", 80.61),),
    ),
    "b3": Facts(
        scaled(1.2, 1.4, 0.3),
        12_233_232,
        1.827,
        _bicubic(300, 320),
        (published("V1", "efficientnet_b3_rwightman-b3899882.pth", 82.01),),
    ),
    "b4": Facts(
        scaled(1.4, 1.8, 0.4),
        19_341_616,
        4.394,
        _bicubic(380, 384),
        (published("V1", "efficientnet_b4_rwightman-23ab8bcd.pth", 83.38),),
    ),
    "b5": Facts(
        scaled(1.6, 2.2, 0.4, eps=1e-3, momentum=0.01),
        30_389_784,
        10.266,
        _bicubic(456, 456),
        (published("V1", "efficientnet_b5_lukemelas-1a07897c.pth", 83.44),),
    ),
    "b6": Facts(
        scaled(1.8, 2.6, 0.5, eps=1e-3, momentum=0.01),
        43_040_704,
        19.068,
        _bicubic(528, 528),
        (published("V1", "efficientnet_b6_lukemelas-24a108a5.pth", 84.01),),
    ),
    "b7": Facts(
        scaled(2.0, 3.1, 0.5, eps=1e-3, momentum=0.01),
        66_347_960,
        37.746,
        _bicubic(600, 600),
        (published("V1", "efficientnet_b7_lukemelas-c5b4e57e.pth", 84.12),),
    ),
}


def register_network(name: str, family: str, facts: Facts, **more: Any) -> None:
    """Register a network; ``more`` are further fields of :class:`models.registry.ModelSpec`."""
    register(
        name,
        family=family,
        input_size=facts.transform.crop,
        transform=facts.transform,
        parameters=facts.parameters,
        gmacs=facts.gmacs,
        checkpoints=facts.checkpoints,
        layouts=(TIMM,),
        **more,
    )(builder(facts.plan))


for _short, _facts in _NETWORKS.items():
    register_network(f"efficientnet_{_short}", "efficientnet", _facts, paper="EfficientNet (arXiv 1905.11946)")
