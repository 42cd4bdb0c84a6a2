"""Artefact files: how they are named, hashed and written so that a killed run leaves no half file."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deploy.errors import DeployError, InputError, MachineError
from deploy.specs import Precision

try:
    import fcntl
except ImportError:  # Windows: of two processes that write one file at the same moment, the later one wins
    fcntl = None  # type: ignore[assignment]


@dataclass(frozen=True)
class ArtifactNames:
    """Where the artefacts of one model lie: ``<folder>/<stem>.<precision>.<kind>``."""

    folder: Path
    stem: str

    @staticmethod
    def of(path: Path) -> ArtifactNames:
        """The family a file belongs to: ``out/net.int8.rtx.plan`` belongs to ``out/net``."""
        stem = path.name
        for suffix in (".json", ".plan", ".rtx", ".onnx", *(f".{p}" for p in Precision)):
            stem = stem[: -len(suffix)] if stem.endswith(suffix) and stem != suffix else stem
        return ArtifactNames(path.parent, stem)

    def onnx(self, precision: Precision) -> Path:
        """The graph TensorRT builds: FP32 has no infix, it is what export wrote."""
        infix = "" if precision is Precision.FP32 else f".{precision}"
        return self.folder / f"{self.stem}{infix}.onnx"

    def calibration(self) -> Path:
        return self.folder / f"{self.stem}.int8.calib.json"

    def plan(self, precision: Precision, *, rtx: bool) -> Path:
        return self.folder / f"{self.stem}.{precision}{'.rtx' if rtx else ''}.plan"


def plan_manifest_path(plan: Path) -> Path:
    """``net.int8.plan`` → ``net.int8.plan.json``."""
    return plan.with_name(plan.name + ".json")


def sha256_bytes(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file in hex, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_error(path: Path, error: OSError) -> DeployError:
    """The clear form of an operating-system error met while writing ``path``."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return MachineError(f"no space left to write {path}", fix="Free disk space or choose another folder.")
    reason = error.strerror or str(error)
    return InputError(f"cannot write {path}", got=reason.lower(), fix="Choose a writable path.")


def check_writable(path: Path) -> None:
    """Fail before long work, not after it, if ``path`` cannot be written. Leaves nothing behind."""
    try:
        _check_replaceable(path)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise write_error(path, error) from error


def _check_replaceable(path: Path) -> None:
    """Moving a file over ``/dev/null`` would break the machine, over a folder fail in the end."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; move it into place on success, remove it on any failure."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        _check_replaceable(path)
        temporary.touch(exist_ok=False)
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def replacing_all(*paths: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``paths``; what lies there under their names is moved into place on success.

    They are moved in the order given, the last one being what refers to the others. Its old form goes first: killed
    between two moves, there is no file that refers to the wrong ones.
    """
    folder = paths[-1].with_name(f".{paths[-1].name}.{secrets.token_hex(4)}.tmp")
    try:
        for path in paths:
            _check_replaceable(path)
        folder.mkdir()
        yield folder
        for path in paths:
            with (folder / path.name).open("rb") as stream:
                os.fsync(stream.fileno())
        paths[-1].unlink(missing_ok=True)
        for path in paths:
            (folder / path.name).replace(path)
    except OSError as error:
        raise write_error(paths[-1], error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for and hold the lock on ``path`` among processes: that on ``<path>.lock``.

    trtexec takes it too, for its timing caches (``shared/utils/fileLock.cpp``). The lock file stays: were it removed,
    one process could hold it while another locks a new one.

    Raises:
        InputError, MachineError: the lock file cannot be written.
    """
    lock = path.with_name(f"{path.name}.lock")
    with contextlib.ExitStack() as held:
        try:
            stream = held.enter_context(lock.open("ab"))
            if fcntl is not None:
                fcntl.lockf(stream, fcntl.LOCK_EX)
        except OSError as error:
            raise write_error(lock, error) from error
        yield  # closing the file releases it
