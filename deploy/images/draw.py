"""Answers drawn into images: boxes with labels, or a caption."""

from __future__ import annotations

import colorsys
import functools
from collections.abc import Sequence

import PIL.Image
from PIL import ImageDraw, ImageFont

from deploy.images.decode import RgbImage
from deploy.images.detect import Detection

_Colour = tuple[int, int, int]
_Box = tuple[float, float, float, float]
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Shares of the mean side. At 640 pixels: letters of 16, lines of 2.
_FONT, _LINE = 0.025, 0.003
_SMALLEST_FONT = 9  # below it letters cannot be told apart
_MOST_OF_SHORT_SIDE = 0.2
_CAPTION_WIDTH = 240  # a caption of less would be all ellipsis
# The golden section puts each new hue into the widest gap that the ones before have left.
_GOLDEN = 0.618034


def draw_detections(image: RgbImage, detections: Sequence[Detection]) -> PIL.Image.Image:
    """A copy of ``image`` with a box and a label for each detection, the best on top."""
    canvas = PIL.Image.fromarray(image)
    draw, font = ImageDraw.Draw(canvas), _font(_font_size(canvas.size))
    line = max(1, round(sum(canvas.size) / 2 * _LINE))
    for detection in reversed(detections):
        draw.rectangle(_inside(detection.box, canvas.size), outline=colour(detection.index), width=line)
    for detection in reversed(detections):
        _label(draw, detection, font, canvas.size)
    return canvas


def draw_caption(image: RgbImage, lines: Sequence[str]) -> PIL.Image.Image:
    """``image`` with ``lines`` in white on black below it."""
    height, width = image.shape[:2]
    wide = max(width, _CAPTION_WIDTH)
    font = _font(max(_font_size((width, height)), _SMALLEST_FONT + 3))
    texts = [_shortened(text, font, wide - 2 * _margin(font)) for text in lines]
    step = _line_height(font)
    canvas = PIL.Image.new("RGB", (wide, height + step * len(texts) + 2 * _margin(font)))
    canvas.paste(PIL.Image.fromarray(image), ((wide - width) // 2, 0))
    draw = ImageDraw.Draw(canvas)
    for index, text in enumerate(texts):
        draw.text((_margin(font), height + _margin(font) + index * step), text, (255, 255, 255), font)
    return canvas


def colour(index: int) -> _Colour:
    """Of a class: neighbours differ in hue, and every third is darker or paler."""
    saturation, value = ((0.85, 0.95), (0.9, 0.65), (0.45, 1.0))[index % 3]
    red, green, blue = colorsys.hsv_to_rgb(index * _GOLDEN % 1, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def text_colour(background: _Colour) -> _Colour:
    """Black or white, whichever stands out (the relative luminance of WCAG 2)."""
    linear = [(c / 255 / 12.92) if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in background]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if luminance > 0.179 else (255, 255, 255)


def _label(draw: ImageDraw.ImageDraw, detection: Detection, font: _Font, size: tuple[int, int]) -> None:
    box, background, margin = detection.box, colour(detection.index), max(1, _margin(font) // 2)
    score = f" {detection.score:.2f}"
    name = _shortened(str(detection.label or detection.index), font, size[0] - 2 * margin - font.getlength(score))
    text = name + score
    width, height = font.getlength(text) + 2 * margin, _line_height(font)
    # Above the box; inside it where there is no room above.
    top = box[1] - height if box[1] >= height else box[1]
    left = max(0.0, min(box[0], size[0] - width))
    top = max(0.0, min(top, size[1] - height))
    draw.rectangle(_inside((left, top, left + width, top + height), size), fill=background)
    draw.text((left + margin, top), text, text_colour(background), font)


def _inside(box: _Box, size: tuple[int, int]) -> _Box:
    """Pixels that the image has."""
    right, bottom = size[0] - 1, size[1] - 1
    left, top = min(max(box[0], 0), right), min(max(box[1], 0), bottom)
    return left, top, max(left, min(box[2], right)), max(top, min(box[3], bottom))


def _font_size(size: tuple[int, int]) -> int:
    return max(_SMALLEST_FONT, round(min(sum(size) / 2 * _FONT, min(size) * _MOST_OF_SHORT_SIDE)))


@functools.lru_cache(maxsize=8)
def _font(size: int) -> _Font:
    return ImageFont.load_default(size)


def _margin(font: _Font) -> int:
    return _line_height(font) // 3


def _line_height(font: _Font) -> int:
    return sum(font.getmetrics()) if isinstance(font, ImageFont.FreeTypeFont) else _SMALLEST_FONT + 3


def _shortened(text: str, font: _Font, width: float) -> str:
    """``text`` on one line of at most ``width`` pixels."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…" if text else ""
