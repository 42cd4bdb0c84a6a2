"""The access log: one JSON object for each request, without keys, bodies and query strings."""

from __future__ import annotations

import json
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import TextIO

from deploy.errors import MachineError
from deploy.serving.record import Record
from deploy.serving.telemetry import Background

_MOST = 1024  # characters of a path, or of a gRPC method that is not there
_COMPUTE = ("compute_input", "compute_infer", "compute_output")


def access_log(file: str) -> Background:
    """A sink that appends to ``file``; ``-`` is standard error.

    Raises:
        MachineError: the file cannot be opened.
    """
    try:
        stream = sys.stderr if file == "-" else Path(file).open("a", encoding="ascii")  # noqa: SIM115 - until the end
    except OSError as error:
        raise MachineError(
            f"cannot write the access log {file}", got=error.strerror, fix="Give another file."
        ) from error

    def write(records: list[Record], dropped: int) -> None:
        _write(stream, records, dropped)

    def end() -> None:
        if file != "-":
            stream.close()

    return Background(write, end, "access log")


def _write(stream: TextIO, records: list[Record], dropped: int) -> None:
    lines = [json.dumps(line(record)) for record in records]
    if dropped:
        lines.append(json.dumps({"time": _rfc3339(records[-1].at) if records else None, "dropped": dropped}))
    stream.write("".join(f"{text}\n" for text in lines))
    stream.flush()


def line(record: Record) -> dict[str, object]:
    """The fields of one line. ``ms`` is the whole request; where it did not run, its queue and compute are 0."""
    return {
        "time": _rfc3339(record.at),
        "protocol": record.protocol,
        "method": record.method[:_MOST],
        "path": record.path[:_MOST],
        "model": record.model,
        "version": record.version,
        "id": record.id,
        "status": record.status,
        "bytes_in": record.bytes_in,
        "bytes_out": record.bytes_out,
        "rows": record.rows,
        "client": record.client,
        "ms": _ms(record.seconds),
        "queue_ms": _ms(record.seconds_of("queue")),
        "compute_ms": _ms(record.seconds_of(*_COMPUTE)),
    }


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)


def _rfc3339(nanoseconds: int) -> str:
    return datetime.fromtimestamp(nanoseconds / 1e9, timezone.utc).isoformat(timespec="microseconds")
