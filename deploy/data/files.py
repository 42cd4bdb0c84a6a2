"""Which image files there are, which of them are taken, and their common hash."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from deploy.artifacts import sha256_file
from deploy.errors import InputError
from deploy.images.decode import IMAGE_SUFFIXES


def find_images(paths: Sequence[Path]) -> list[Path]:
    """The files among ``paths`` as they are, and the images in the folders among them, sorted folder by folder.

    Folders are searched recursively by file suffix, symbolic links are followed, hidden files and folders are skipped.
    A path met twice counts once.

    Raises:
        InputError: a path does not exist, or a folder cannot be read or holds no image.
    """
    found: dict[Path, None] = {}
    for path in paths:
        found.update(dict.fromkeys(_images_at(path)))
    return list(found)


def images_below(folder: Path) -> list[Path]:
    """The sorted images in ``folder`` and below it, perhaps none."""
    files = (Path(place, name) for place, names in _walk(folder) for name in names)
    return sorted(path for path in files if path.suffix.lower() in IMAGE_SUFFIXES)


def spread(count: int, limit: int | None, seed: int) -> Sequence[int]:
    """``limit`` of the indices ``0 … count - 1``, ascending: a random one from each of ``limit`` equal stretches.

    So every folder of a sorted list is drawn from in proportion to its size. The same seed gives the same choice.

    Raises:
        InputError: ``limit`` is below 1.
    """
    if limit is not None and limit < 1:
        raise InputError("the limit is a number of images", got=limit, expected="1 or more")
    if limit is None or limit >= count:
        return range(count)
    chance = random.Random(seed)  # noqa: S311 -- a choice to repeat, not a secret
    return [chance.randrange(i * count // limit, (i + 1) * count // limit) for i in range(limit)]


def digest_of(files: Sequence[Path], roots: Sequence[Path]) -> str:
    """SHA-256 in hex over the contents of ``files`` and their names relative to those of ``roots`` they came from.

    It does not depend on where the folders lie.
    """
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{_content(path)} {_relative(path, roots)}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _content(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError:  # a link that leads nowhere: it is skipped, with a warning, where it is decoded
        return "unreadable"


def _images_at(path: Path) -> list[Path]:
    if not path.exists():
        raise InputError(f"{path} does not exist", expected="an image or a folder of images")
    if not path.is_dir():
        return [path]
    images = images_below(path)
    if not images:
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        raise InputError(f"no images in {path}", got="no file of such a name", expected=f"files ending in {suffixes}")
    return images


def _walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Each folder from ``folder`` down and its visible files. A link back to a folder seen before is not followed."""
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True, onerror=_refuse):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield place, [name for name in names if not name.startswith(".")]


def _refuse(error: OSError) -> None:
    raise InputError(f"cannot read the folder {error.filename}", got=(error.strerror or str(error)).lower()) from error


def _relative(path: Path, roots: Sequence[Path]) -> str:
    folders = (root for root in roots if root != path and path.is_relative_to(root))
    return path.relative_to(next(folders, path.parent)).as_posix()
