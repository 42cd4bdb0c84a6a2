"""The preprocessing of others' networks, in our words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from models.registry import Transform


def transform_of_preset(preset: Any) -> Transform:
    """torchvision's ``ImageClassification`` preset in our words."""
    crop, resize = preset.crop_size[0], preset.resize_size[0]
    return Transform(resize, (crop, crop), preset.interpolation.value, _triple(preset.mean), _triple(preset.std))


def transform_of_config(config: Mapping[str, Any]) -> Transform:
    """timm's ``pretrained_cfg`` in our words, at the size its accuracy is published for."""
    _, height, width = config.get("test_input_size") or config.get("input_size") or (3, 224, 224)
    part = config.get("test_crop_pct") or config.get("crop_pct") or 224 / 256
    interpolation = config.get("interpolation", "bicubic")
    return Transform(
        # timm rounds down; its resize of a non-square input is that of the shorter side.
        math.floor(min(height, width) / part),
        (height, width),
        interpolation if interpolation in ("bilinear", "bicubic") else "bicubic",
        _triple(config.get("mean", Transform.mean)),
        _triple(config.get("std", Transform.std)),
        "squash" if config.get("crop_mode") == "squash" else "crop",
    )


def _triple(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return red, green, blue
