"""Decoding is compared with Pillow: ``ImageOps.exif_transpose(Image.open(source)).convert("RGB")``."""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from deploy.errors import InputError
from deploy.images import decode as decode_module
from deploy.images.decode import decode


def picture(width: int = 61, height: int = 37, mode: str = "RGB") -> Image.Image:
    """Smooth colours with noise on top, so that chroma upsampling and the DCT matter."""
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(7).integers(0, 60, (height, width))
    planes = (x * 3 + noise, y * 5 + noise, (x + y) * 2 + noise[::-1])
    return Image.fromarray(np.stack(planes, axis=-1).astype(np.uint8)).convert(mode)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def with_orientation(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def reference(data: bytes) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


def sixteen_bit() -> Image.Image:
    return Image.fromarray(np.arange(0, 3000, 50, dtype=np.uint16).reshape(6, 10))


def transparent_palette() -> bytes:
    image = picture(mode="RGB").quantize(16)
    return encoded(image, "PNG", transparency=bytes(range(0, 256, 16)))


def animation(kind: str, **options: object) -> bytes:
    frames = [picture(), ImageOps.invert(picture())]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)


FILES = {
    "jpeg": encoded(picture(), "JPEG"),
    "jpeg 4:4:4": encoded(picture(), "JPEG", subsampling=0, quality=95),
    "jpeg 4:2:2": encoded(picture(), "JPEG", subsampling=1, quality=30),
    "jpeg progressive": encoded(picture(), "JPEG", progressive=True),
    "jpeg stored as RGB": encoded(picture(), "JPEG", keep_rgb=True),
    "jpeg grey": encoded(picture(mode="L"), "JPEG"),
    "jpeg CMYK": encoded(picture(mode="CMYK"), "JPEG"),
    "jpeg of one pixel": encoded(picture(1, 1), "JPEG"),
    "jpeg with a tail": encoded(picture(), "JPEG") + b"tail" * 9,
    "mpo": encoded(picture(), "MPO", save_all=True, append_images=[picture()]),
    "png": encoded(picture(), "PNG"),
    "png grey": encoded(picture(mode="L"), "PNG"),
    "png grey with alpha": encoded(picture(mode="LA"), "PNG"),
    "png alpha": encoded(Image.merge("RGBA", (*picture().split(), picture(mode="L"))), "PNG"),
    "png palette": encoded(picture(mode="P"), "PNG"),
    "png transparent palette": transparent_palette(),
    "png transparent colour": encoded(picture(mode="P"), "PNG", transparency=3),
    "png 16-bit": encoded(sixteen_bit(), "PNG"),
    "png bilevel": encoded(picture(mode="1"), "PNG"),
    "gif animated": animation("GIF"),
    "webp lossless": encoded(picture(), "WEBP", lossless=True),
    "webp": encoded(picture(), "WEBP"),
    "webp animated": animation("WEBP"),
    "bmp": encoded(picture(), "BMP"),
    "tiff": encoded(picture(), "TIFF"),
    "tiff deflated": encoded(picture(), "TIFF", compression="tiff_deflate"),
    "tiff CMYK": encoded(picture(mode="CMYK"), "TIFF"),
    "ppm": encoded(picture(), "PPM"),
}


@pytest.mark.parametrize("name", FILES)
def test_equals_pillow(name: str) -> None:
    image = decode(FILES[name])
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.flags.writeable
    np.testing.assert_array_equal(image, reference(FILES[name]))


def test_equals_pillow_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "no suffix"
    path.write_bytes(FILES["jpeg"])
    np.testing.assert_array_equal(decode(path), reference(FILES["jpeg"]))


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_turns_upright_as_exif_says(kind: str, orientation: int) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(picture(), kind, exif=with_orientation(orientation), **options)
    image = decode(data)
    np.testing.assert_array_equal(image, reference(data))
    assert image.shape == ((61, 37, 3) if orientation in (5, 6, 7, 8) else (37, 61, 3))


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0MM", b"Exif\0\0junk that is no TIFF header", b"Exif\0\0II*\0\xff\xff\xff\xff"]
)
def test_broken_exif_counts_as_none(exif: bytes) -> None:
    data = encoded(picture(), "JPEG", exif=exif)
    np.testing.assert_array_equal(decode(data), decode(FILES["jpeg"]))


def test_plain_jpegs_do_not_go_through_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_module, "_decode_with_pillow", lambda image: pytest.fail("decoded by Pillow"))
    for name in ("jpeg", "jpeg grey", "jpeg progressive"):
        decode(FILES[name])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_truncated(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "half.img"
    data = encoded(picture(200, 200), kind)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"half\.img"):
        decode(path)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*gone\.jpg \(got no such file or directory\)"):
        decode(tmp_path / "gone.jpg")


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .* \(got is a directory\)"):
        decode(tmp_path)


@pytest.mark.parametrize(
    ("data", "got"),
    [
        (b"", "an empty file"),
        (b"hello" * 99, "no image format known here"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image"),
    ],
)
def test_not_an_image(tmp_path: Path, data: bytes, got: str) -> None:
    path = tmp_path / "notes.jpg"
    path.write_bytes(data)
    with pytest.raises(InputError, match=rf"notes\.jpg is not an image \(got {got}.*expected JPEG, PNG") as caught:
        decode(path)
    assert "\n" not in str(caught.value)


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("switch_off_pillows_check", [False, True])
def test_decompression_bomb(monkeypatch: pytest.MonkeyPatch, switch_off_pillows_check: bool) -> None:
    if switch_off_pillows_check:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(InputError, match=r"the image.*178,?956,?970 pixels"):
        decode(png_header(20_000, 20_000))


@pytest.mark.parametrize("name", ["jpeg", "jpeg progressive", "png", "gif animated", "webp", "tiff deflated", "bmp"])
def test_damaged_bytes_give_an_image_or_an_input_error(name: str) -> None:
    random = np.random.default_rng(0)
    for _ in range(60):
        data = bytearray(FILES[name])
        for position in random.integers(0, len(data), 4):
            data[position] = random.integers(256)
        with contextlib.suppress(InputError):
            assert decode(bytes(data)).shape[2] == 3


def test_pillows_warnings_stay_inside() -> None:
    large = png_header(10_000, 10_000)  # Pillow warns of a possible bomb, and finds no pixels
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with pytest.raises(InputError):
            decode(large)
        decode(FILES["png transparent palette"])
    assert seen == []
