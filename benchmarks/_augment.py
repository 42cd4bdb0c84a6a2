"""Random crops, mirror images and colours of images held in memory."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import interpolate

AREA = (0.35, 1.0)  # of the image, that a crop shows
RATIO = (3 / 4, 4 / 3)  # of a crop's width to its height
COLOUR = 0.4  # brightness, contrast and saturation are multiplied by 1 ± up to this
VIEWS = (AREA, RATIO, COLOUR)  # all that says what a view is

_MEAN = torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
_STD = torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)


def augmented(images: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """One random view of each of uint8 ``[N, 3, H, W]``: float32 ``[N, 3, size, size]``, pixels of 0 to 1."""
    crops = torch.cat([_crop(image, size, generator) for image in images]).float() / 255
    mirrored = _uniform(len(crops), generator, 0, 1) < 0.5
    return _recoloured(torch.where(mirrored, crops.flip(3), crops), generator)


def plain(images: Tensor, size: int) -> Tensor:
    """The whole of each square image, resized as deployment does it: float32 ``[N, 3, size, size]`` of 0 to 1."""
    return interpolate(images, (size, size), mode="bilinear", antialias=True).float() / 255


def normalised(pixels: Tensor) -> Tensor:
    """Pixels of 0 to 1 less ImageNet's mean, over its deviation."""
    return (pixels - _MEAN) / _STD


def _crop(image: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Area and shape as in arXiv 1409.4842, section 6; sides longer than the image are cut to it."""
    height, width = image.shape[1:]
    area, shape, down, right = torch.rand(4, generator=generator).tolist()
    pixels = height * width * (AREA[0] + (AREA[1] - AREA[0]) * area)
    ratio = math.exp(math.log(RATIO[0]) + math.log(RATIO[1] / RATIO[0]) * shape)
    tall, wide = min(round(math.sqrt(pixels / ratio)), height), min(round(math.sqrt(pixels * ratio)), width)
    top, left = round(down * (height - tall)), round(right * (width - wide))
    part = image[None, :, top : top + tall, left : left + wide]
    return interpolate(part, (size, size), mode="bilinear", antialias=True)


def _recoloured(pixels: Tensor, generator: torch.Generator) -> Tensor:
    brightness, contrast, saturation = (
        _uniform(len(pixels), generator, 1 - COLOUR, 1 + COLOUR) for _ in ("brightness", "contrast", "saturation")
    )
    pixels = pixels * brightness
    grey = pixels.mean((1, 2, 3), keepdim=True)
    pixels = grey + (pixels - grey) * contrast
    grey = pixels.mean(1, keepdim=True)
    return (grey + (pixels - grey) * saturation).clamp_(0, 1)


def _uniform(count: int, generator: torch.Generator, low: float, high: float) -> Tensor:
    return torch.empty(count, 1, 1, 1).uniform_(low, high, generator=generator)
