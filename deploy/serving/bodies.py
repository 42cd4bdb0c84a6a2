"""Bodies of requests, bounded in size and time, and compressed bodies both ways."""

from __future__ import annotations

import asyncio
import gzip
import sys
import zlib
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from starlette.requests import ClientDisconnect, Request

from deploy.errors import InputError
from deploy.serving.direct import BODY
from deploy.serving.errors import TooLarge, Unsupported

# zlib's window bits: gzip's header, zlib's header (HTTP's "deflate").
_WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
_COMPRESS = {"gzip": partial(gzip.compress, compresslevel=1), "deflate": partial(zlib.compress, level=1)}
# Bytes whose (de)compression does not hold the loop for long; what is larger goes to a thread.
_AT_ONCE = 16 << 10
# Few: each may hold a body of the largest size.
_THREADS = ThreadPoolExecutor(2, thread_name_prefix="compress")
Body = bytes | memoryview


class SlowBody(InputError):
    """The body did not come in time."""


async def read_body(request: Request, limit: int, seconds: float) -> Body:
    """The body, decompressed.

    Raises:
        TooLarge: it has more than ``limit`` bytes, compressed or not.
        SlowBody: it did not come within ``seconds``.
        Unsupported: a Content-Encoding other than gzip and deflate.
        InputError: it cannot be decompressed, or the client went away.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in (*_WINDOWS, "identity", ""):
        raise Unsupported("the Content-Encoding is not supported", got=encoding, expected="gzip or deflate")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    try:
        raw = await _within(seconds, _collect(request, limit))
    except asyncio.TimeoutError as error:
        raise SlowBody("the body did not come in time", expected=f"within {seconds:g} s") from error
    except ClientDisconnect as error:
        raise InputError("the client went away") from error
    if encoding not in _WINDOWS:
        return raw
    if len(raw) <= _AT_ONCE:
        return _decompress(raw, _WINDOWS[encoding], limit)
    return await _aside(_decompress, raw, _WINDOWS[encoding], limit)


async def _within(seconds: float, work: Coroutine[Any, Any, Body]) -> Body:
    if sys.version_info < (3, 11):
        return await asyncio.wait_for(work, seconds)
    async with asyncio.timeout(seconds):  # without a task of its own: this is on every request's way
        return await work


async def _collect(request: Request, limit: int) -> Body:
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        chunks.append(chunk)
    whole: memoryview | None = request.scope.get("extensions", {}).get(BODY, {}).get("whole")
    return b"".join(chunks) if whole is None else whole


def _decompress(raw: Body, window: int, limit: int) -> bytes:
    stream = zlib.decompressobj(window)
    try:
        plain = stream.decompress(raw, limit + 1)
    except zlib.error as error:
        raise InputError("the body cannot be decompressed", got=str(error)) from error
    if len(plain) > limit:
        raise _too_large(limit)
    if not stream.eof or stream.unused_data:
        raise InputError("the compressed body is cut off, or has something behind it")
    return plain


def _too_large(limit: int) -> TooLarge:
    return TooLarge("the body is too large", expected=f"at most {limit} bytes")


async def compressed(body: bytes, accepted: str) -> tuple[bytes, dict[str, str]]:
    """``body`` and the headers that say how it is compressed; a large one is compressed in a thread.

    Only where the client names one of gzip and deflate and nothing else: HTTP libraries name several unasked, and some
    of the protocol's clients that do so cannot read the reply.
    """
    compress = _COMPRESS.get(accepted)
    if compress is None:
        return body, {}
    small = len(body) <= _AT_ONCE
    return compress(body) if small else await _aside(compress, body), {"Content-Encoding": accepted}


async def _aside(work: Callable[..., bytes], *given: object) -> bytes:
    return await asyncio.get_running_loop().run_in_executor(_THREADS, partial(work, *given))
