"""Image files → RGB arrays, equal to Pillow bit for bit."""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from deploy.errors import InputError
from deploy.images.quiet import pillow_quiet

if TYPE_CHECKING:
    import PIL.Image

RgbImage = npt.NDArray[np.uint8]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})

# Pillow's own limit for a decompression bomb, kept even where a program has switched Pillow's off.
MAX_PIXELS = 178_956_970

# Named, so that a file from a stranger never reaches Pillow's exotic readers (EPS starts a PostScript interpreter).
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")

_STRIP_ROWS = 128

_ORIENTATION_TAG = 0x0112

# EXIF 2.32, section 4.6.4: how a stored array is turned upright.
_UPRIGHT: dict[int, Callable[[npt.NDArray[Any]], npt.NDArray[Any]]] = {
    2: np.fliplr,
    3: lambda image: np.rot90(image, 2),
    4: np.flipud,
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: np.rot90(image, 2).swapaxes(0, 1),
    8: np.rot90,
}


def decode(source: Path | bytes, max_pixels: int = MAX_PIXELS) -> RgbImage:
    """The image as uint8 ``[height, width, 3]`` RGB, turned upright as its EXIF orientation says. The caller owns it.

    Equal to ``ImageOps.exif_transpose(Image.open(source)).convert("RGB")``, what training with torchvision sees. So
    transparency is dropped, not blended; 16-bit grey saturates at 255; an animation gives its first frame. EXIF data
    that cannot be parsed counts as none.

    Raises:
        InputError: the file is missing, a folder, empty, damaged, of an unknown format (JPEG, PNG, WebP, BMP, GIF, TIFF
            and PPM are read), or of more than ``max_pixels`` pixels.
    """
    name = str(source) if isinstance(source, Path) else "the image"
    try:
        with pillow_quiet(), _open(source) as stream:
            return _decode_stream(stream, max_pixels)
    except InputError as error:
        raise InputError(f"{name} {error.what}", got=error.got, expected=error.expected) from error.__cause__
    # Broken files make Pillow raise almost anything: SyntaxError, struct.error, KeyError, EOFError, ...
    except Exception as error:
        raise InputError(f"cannot read {name}", got=_reason(error)) from error


def check_pixels(width: int, height: int, most: int = MAX_PIXELS) -> None:
    """Raise :class:`InputError` for an image of more than ``most`` pixels."""
    if width * height > most:
        raise InputError("is too large", got=f"{width}x{height} pixels", expected=f"at most {most:,} pixels")


def _open(source: Path | bytes) -> IO[bytes]:
    return source.open("rb") if isinstance(source, Path) else io.BytesIO(source)


def _decode_stream(stream: IO[bytes], max_pixels: int) -> RgbImage:
    import PIL.Image

    try:
        image = PIL.Image.open(stream, formats=_FORMATS)
    except PIL.UnidentifiedImageError as error:
        empty = stream.seek(0, io.SEEK_END) == 0
        got = "an empty file" if empty else "no image format known here"
        raise InputError("is not an image", got=got, expected="JPEG, PNG, WebP, BMP, GIF, TIFF or PPM") from error
    check_pixels(*image.size, max_pixels)
    if image.format == "JPEG" and image.mode in ("RGB", "L"):
        # simplejpeg refuses whatever libjpeg has a remark on; Pillow judges such files.
        with contextlib.suppress(ValueError):
            return _decode_jpeg(stream, _orientation(image))
    return _decode_with_pillow(image)


def _decode_jpeg(stream: IO[bytes], orientation: int) -> RgbImage:
    import simplejpeg

    stream.seek(0)
    # Pillow's settings: the accurate DCT and smooth upsampling. The fast ones differ by some grey levels.
    image = simplejpeg.decode_jpeg(stream.read(), colorspace="RGB", fastdct=False, fastupsample=False, strict=True)
    upright = _UPRIGHT.get(orientation)
    return np.ascontiguousarray(upright(image)) if upright else image


def _decode_with_pillow(image: PIL.Image.Image) -> RgbImage:
    from PIL import ImageOps

    image.load()
    if _orientation(image) in _UPRIGHT:
        image = ImageOps.exif_transpose(image)
    return _pixels(image if image.mode == "RGB" else image.convert("RGB"))


def _pixels(image: PIL.Image.Image) -> RgbImage:
    """``np.array(image)`` strip by strip: some times as fast, and other threads wait for one strip at most."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, _STRIP_ROWS):
        bottom = min(top + _STRIP_ROWS, image.height)
        pixels[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)))
    return pixels


def _orientation(image: PIL.Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except (SyntaxError, ValueError, TypeError, KeyError, struct.error):
        return 1


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__
