"""``--save``: images with their answers, in a folder of their own."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.artifacts import check_writable, write_bytes, write_error
from deploy.errors import DeployError, InputError
from deploy.images.decode import IMAGE_SUFFIXES

if TYPE_CHECKING:
    import PIL.Image

_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".pgm": "PPM"}
_OPTIONS = {"JPEG": {"quality": 95}, "WEBP": {"quality": 95}}


def targets(folder: Path, images: Sequence[Path]) -> dict[Path, Path]:
    """Where each of ``images`` is written, in ``folder``, which is made if need be.

    That is under its own name, numbered where folders hold the same name twice.

    Raises:
        InputError: ``folder`` is a file or cannot be written, or an image would overwrite one that was given.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--save takes a folder: {folder}", got="a file", fix="Give another name.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_writable(folder / "image")
    except OSError as error:
        raise _of_save(write_error(folder, error)) from error
    except DeployError as error:
        raise _of_save(error) from error
    taken: set[str] = set()
    places = {}
    for image in images:
        name = _free(_with_suffix(image.name), taken)
        # Some file systems do not tell A.jpg from a.jpg.
        taken.add(name.lower())
        places[image] = folder / name
    given = {image.resolve() for image in images}
    for place in places.values():
        if place.resolve() in given:
            raise InputError(
                f"--save {folder} would overwrite {place}",
                got="the folder of an image that was given",
                fix="Give another folder.",
            )
    return places


def save(image: PIL.Image.Image, path: Path) -> None:
    """Write ``image`` atomically, in the format of its suffix.

    Raises:
        InputError: the folder cannot be written, or the format does not hold an image of this size.
        MachineError: no space is left.
    """
    stream = io.BytesIO()
    suffix = path.suffix.lower()
    kind = _FORMATS.get(suffix, suffix[1:].upper())
    try:
        image.save(stream, kind, **_OPTIONS.get(kind, {}))
    except (ValueError, OSError) as error:
        got = f"{image.width}x{image.height} pixels: {error}"
        raise InputError(f"{path} cannot be written as {kind}", got=got) from error
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, stream.getvalue())
    except OSError as error:
        raise _of_save(write_error(path, error)) from error
    except DeployError as error:
        raise _of_save(error) from error


def _of_save(error: DeployError) -> DeployError:
    return type(error)(error.what, got=error.got, fix="Give a folder with room that can be written: --save DIR.")


def _with_suffix(name: str) -> str:
    """An image may be called anything; what is written must say what it is."""
    return name if Path(name).suffix.lower() in IMAGE_SUFFIXES else f"{name}.png"


def _free(name: str, taken: set[str]) -> str:
    path, number = Path(name), 2
    while name.lower() in taken:
        name = f"{path.stem}-{number}{path.suffix}"
        number += 1
    return name
