"""The models in a folder, in two layouts, and when their files change.

``NAME.onnx`` or ``NAME.plan`` is version 1 of NAME; Triton's layout is ``NAME/VERSION/model.onnx`` or ``model.plan``.
In both, ``NAME.toml`` beside it has the model's settings.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.errors import InputError

SUFFIXES = (".onnx", ".plan")
_EXPECTED = "NAME.onnx, NAME.plan, or NAME/VERSION/model.onnx or model.plan"
# Of each file: name, size in bytes, time of its last change in ns, inode (a file moved into place may keep the rest).
Stamp = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True)
class Files:
    """One model's: a graph or an engine for each version, and what else lies there.

    Attributes:
        settings: where its TOML is, or would be.
        foreign: Triton's ``config.pbtxt``, which is not read.
    """

    name: str
    versions: Mapping[int, Path]
    settings: Path
    foreign: Path | None = None


def find(given: Sequence[Path]) -> dict[str, Files]:
    """Model name → its files, of all files and folders given.

    Raises:
        InputError: one of them is missing or cannot be read, or two models have one name.
    """
    found: dict[str, Files] = {}
    for path in given:
        try:
            for files in _inside(path):
                if files.name in found:
                    got = ", ".join(str(next(iter(each.versions.values()))) for each in (found[files.name], files))
                    raise InputError(f"two models are named '{files.name}'", got=got)
                found[files.name] = files
        except FileNotFoundError as error:
            raise InputError(f"no such file: {error.filename}", expected=_EXPECTED) from error
        except OSError as error:
            raise InputError(f"cannot read {path}", got=(error.strerror or str(error)).lower()) from error
    return found


def check_given(given: Sequence[Path], found: Mapping[str, Files]) -> list[str]:
    """Warnings of what lies there and is not read.

    Raises:
        InputError: a folder holds no model, or a file is none.
    """
    said = [
        f"{files.foreign} is not read; settings are in {files.settings}" for files in found.values() if files.foreign
    ]
    known = {files.settings for files in found.values()}
    for path in given:
        if not any(path in (file, *file.parents) for files in found.values() for file in files.versions.values()):
            raise InputError(f"{path} holds no model", expected=_EXPECTED)
        lonely = sorted(set(path.glob("*.toml")) - known)
        said += [f"{file} is of no model" for file in lonely]
    return said


def _inside(path: Path) -> Iterator[Files]:
    if not path.is_dir():
        path.stat()  # raises where it is missing
        if path.suffix in SUFFIXES:
            yield _flat(path)
        return
    for entry in sorted(path.iterdir()):
        if entry.is_dir():
            if not os.access(entry, os.R_OK | os.X_OK):  # a volume's lost+found
                continue
            versions = dict(_versions(entry))
            if versions:
                foreign = entry / "config.pbtxt"
                settings = entry.with_name(f"{entry.name}.toml")
                yield Files(entry.name, versions, settings, foreign if foreign.exists() else None)
        elif entry.suffix in SUFFIXES:
            yield _flat(entry)


def _flat(file: Path) -> Files:
    return Files(file.stem, {1: file}, file.with_name(f"{file.stem}.toml"))


def _versions(folder: Path) -> Iterator[tuple[int, Path]]:
    """Folders named by a number from 1, as Triton has them; other names are not versions."""
    for entry in folder.iterdir():
        if entry.name.isascii() and entry.name.isdigit() and not entry.name.startswith("0"):
            files = [entry / f"model{suffix}" for suffix in SUFFIXES if (entry / f"model{suffix}").is_file()]
            if len(files) > 1:
                raise InputError(f"{entry} holds two models", got=", ".join(file.name for file in files))
            if files:
                yield int(entry.name), files[0]


def stamp(file: Path) -> Stamp:
    """What changes when a graph or engine does, or what lies beside it: a plan's manifest, a graph's weights.

    Raises:
        InputError: its folder cannot be read.
    """
    own = file.stem == "model" and file.parent.name.isdigit()
    try:
        with os.scandir(file.parent) as entries:
            files = [entry for entry in entries if (own or entry.name.startswith(file.name)) and entry.is_file()]
            return tuple(sorted(_facts(entry.name, entry.stat()) for entry in files))
    except OSError as error:  # a file may go while it is looked at
        raise InputError(f"cannot read {file.parent}", got=(error.strerror or str(error)).lower()) from error


def _facts(name: str, status: os.stat_result) -> tuple[str, int, int, int]:
    return name, status.st_size, status.st_mtime_ns, status.st_ino


def stamp_of_settings(file: Path) -> Stamp:
    """The same of a TOML; empty where there is none."""
    try:
        return (_facts(file.name, file.stat()),)
    except FileNotFoundError:
        return ()
