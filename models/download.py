"""One file from the web into a folder: bounded, verified, and complete or not there at all."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError, wait
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

from models.errors import WeightsUnavailable

# Called with the bytes done and, where the server tells, the bytes in all.
Progress = Callable[[int, "int | None"], None]

MAX_BYTES = 2 << 30
_BLOCK = 1 << 18


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def download(
    url: str,
    target: Path,
    sha256_prefix: str,
    *,
    progress: Progress | None = None,
    timeout: float = 5.0,
    stall: float = 30.0,
    max_bytes: int = MAX_BYTES,
) -> None:
    """Fetch ``url`` to ``target`` if its SHA-256 begins with ``sha256_prefix``.

    Args:
        timeout: seconds the server has to answer, name resolution included.
        stall: seconds without a byte after which a running transfer is given up.

    Raises:
        WeightsUnavailable: the server cannot be reached or refuses, the file is longer than ``max_bytes``, cut short
            or of another hash, or ``target`` cannot be written. Nothing is left behind.
    """
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        with _open(url, timeout, stall) as response:
            target.parent.mkdir(parents=True, exist_ok=True)
            found = _save(_blocks(response, url, max_bytes, progress), partial)
        if not found.startswith(sha256_prefix):
            raise WeightsUnavailable(f"{url} is not the file it should be", got=found, expected=f"{sha256_prefix}…")
        partial.replace(target)
    except OSError as error:
        raise WeightsUnavailable(f"cannot write {target}", got=error.strerror or error) from error
    finally:
        with suppress(OSError):
            partial.unlink()


def _save(blocks: Iterator[bytes], path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("xb") as stream:
        for block in blocks:
            stream.write(block)
            digest.update(block)
    return digest.hexdigest()


def _open(url: str, timeout: float, stall: float) -> Any:
    """The server's answer. Name resolution knows no timeout, so the request runs in a thread that may be left alone."""
    if not url.startswith(("https://", "http://")):
        raise WeightsUnavailable("weights are downloaded from the web only", got=url, expected="https:// or http://")
    answer: Future[Any] = Future()
    Thread(target=_request, args=(url, stall, answer), daemon=True).start()
    if not wait([answer], timeout).done and answer.cancel():
        raise WeightsUnavailable(f"{url} did not answer within {timeout:g} s")
    try:
        return answer.result()
    except urllib.error.HTTPError as error:
        error.close()
        raise WeightsUnavailable(f"{url} cannot be downloaded", got=f"HTTP {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise WeightsUnavailable(f"{url} cannot be reached", got=getattr(error, "reason", error)) from error


def _request(url: str, stall: float, answer: Future[Any]) -> None:
    try:
        response = urllib.request.urlopen(url, timeout=stall)  # noqa: S310 - the caller checked the scheme
    except Exception as error:  # noqa: BLE001 - whatever it is, the waiting thread raises it
        with suppress(InvalidStateError):
            answer.set_exception(error)
        return
    try:
        answer.set_result(response)
    except InvalidStateError:  # nobody waits any more
        response.close()


def _blocks(response: Any, url: str, max_bytes: int, progress: Progress | None) -> Iterator[bytes]:
    header = response.headers.get("Content-Length")
    total = int(header) if header and header.isdigit() else None
    _check_length(total or 0, max_bytes, url)
    done = 0
    while block := _read(response, url, done):
        done += len(block)
        _check_length(done, max_bytes, url)
        if progress:
            progress(done, total)
        yield block
    if total is not None and done != total:
        raise WeightsUnavailable(f"the download of {url} broke off", got=f"{done} bytes", expected=f"{total} bytes")


def _read(response: Any, url: str, done: int) -> bytes:
    try:
        block: bytes = response.read(_BLOCK)
    except (OSError, http.client.HTTPException) as error:
        raise WeightsUnavailable(f"the download of {url} broke off after {done} bytes", got=error) from error
    return block


def _check_length(length: int, max_bytes: int, url: str) -> None:
    if length > max_bytes:
        raise WeightsUnavailable(f"{url} is too long", got=f"{length} bytes or more", expected=f"at most {max_bytes}")
