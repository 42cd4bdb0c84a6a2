"""A record of each gRPC call."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from deploy.serving.record import CURRENT, Record
from deploy.serving.telemetry import TRACE_CONTEXT, Telemetry

_INFERS = ("/ModelInfer", "/ModelStreamInfer")


@contextlib.contextmanager
def observed(telemetry: Telemetry, method: str, context: Any) -> Iterator[Record]:
    """The record of a call, or of one message of a stream, told to ``telemetry`` where this block ends.

    Its status is the name that the block sets; else OK, or CANCELLED.
    """
    metadata = context.invocation_metadata() if telemetry.traces else ()
    parent = {name: value for name, value in metadata or () if name in TRACE_CONTEXT}
    record = Record("grpc", method, "", _address(context.peer()), parent, status="OK")
    token = CURRENT.set(record)
    try:
        yield record
    except asyncio.CancelledError:
        record.status = "CANCELLED"
        raise
    finally:
        CURRENT.reset(token)
        record.end("write")
        telemetry.finished(record, infers=method.endswith(_INFERS))


def _address(peer: str) -> str:
    """``ipv4:127.0.0.1:5000`` → ``127.0.0.1``; ``ipv6:%5B::1%5D:5000`` → ``::1``; anything else as it is."""
    family, _, address = unquote(peer).partition(":")
    return address.rpartition(":")[0].strip("[]") if family in ("ipv4", "ipv6") else peer
