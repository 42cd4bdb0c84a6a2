"""The preprocessing of others' networks, in our words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from models.errors import ModelError
from models.registry import Transform

_MODES = {"center": "crop", "squash": "squash"}


def transform_of_preset(preset: Any) -> Transform:
    """torchvision's ``ImageClassification`` preset in our words."""
    crop, resize = preset.crop_size[0], preset.resize_size[0]
    return Transform(resize, (crop, crop), preset.interpolation.value, _triple(preset.mean), _triple(preset.std))


def transform_of_config(config: Mapping[str, Any]) -> Transform:
    """timm's ``pretrained_cfg`` in our words, at the size its accuracy is published for.

    Raises:
        ModelError: images are prepared in a way that is none of ours, or the configuration is damaged.
    """
    mode, interpolation = config.get("crop_mode") or "center", config.get("interpolation", "bicubic")
    if mode not in _MODES or interpolation not in ("bilinear", "bicubic"):
        raise ModelError(
            "timm prepares images for this network in a way unknown here",
            got=f"crop_mode {mode}, interpolation {interpolation}",
            fix="Return the network from a function of your own with a transform: --model file.py:factory.",
        )
    try:
        _, height, width = config.get("test_input_size") or config.get("input_size") or (3, 224, 224)
        part = config.get("test_crop_pct") or config.get("crop_pct") or 224 / 256
        resize = math.floor(min(height, width) / part)  # timm rounds down
        mean, std = (_triple(config.get(name, getattr(Transform, name))) for name in ("mean", "std"))
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelError("timm's configuration of this network cannot be read", got=error) from error
    return Transform(resize, (height, width), interpolation, mean, std, _MODES[mode])


def _triple(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return red, green, blue
