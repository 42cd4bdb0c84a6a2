"""TensorRT's log, collected.

TensorRT keeps the first logger it is given for the life of the process, so there is one per module here and what a
caller sees is a recording of it. Two builds or runners that work at the same time find each other's lines in theirs.
"""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, MutableSequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.artifacts import write_bytes
from deploy.engine.api import ILogger, TensorRt

_FAILURES = ("ERROR", "INTERNAL_ERROR")
_making = threading.Lock()
_loggers: dict[str, ILogger] = {}
_sinks: defaultdict[str, list[MutableSequence[LogLine]]] = defaultdict(list)  # the recordings under way, by module


@dataclass(frozen=True)
class LogLine:
    """One message. ``severity`` is TensorRT's: INTERNAL_ERROR, ERROR, WARNING, INFO or VERBOSE."""

    severity: str
    text: str

    def __str__(self) -> str:
        return f"[{self.severity}] {self.text}"


def process_logger(trt: TensorRt) -> ILogger:
    """The one logger of ``trt`` in this process."""
    with _making:
        if trt.__name__ not in _loggers:
            _loggers[trt.__name__] = _make(trt)
        return _loggers[trt.__name__]


@contextlib.contextmanager
def recording(trt: TensorRt, lines: MutableSequence[LogLine]) -> Iterator[None]:
    """Append what ``trt`` logs to ``lines``, of any thread, until the block ends."""
    sinks = _sinks[trt.__name__]
    sinks.append(lines)
    try:
        yield
    finally:
        with _making:  # another recording that ends now would move this one
            # By identity: two recordings that are both still empty are equal.
            del sinks[next(index for index, sink in enumerate(sinks) if sink is lines)]


def failures(lines: Iterable[LogLine]) -> list[str]:
    """The error messages, each once, in order."""
    return list(dict.fromkeys(line.text for line in lines if line.severity in _FAILURES))


def warnings(lines: Iterable[LogLine]) -> list[str]:
    """The warnings, each once, in order."""
    return list(dict.fromkeys(line.text for line in lines if line.severity == "WARNING"))


def write_log(path: Path, lines: Iterable[LogLine]) -> None:
    """Write every line to a text file."""
    write_bytes(path, "".join(f"{line}\n" for line in lines).encode())


def _make(trt: TensorRt) -> ILogger:
    base: Any = trt.ILogger

    class Collector(base):  # type: ignore[misc]  # the base exists only once the module is imported
        def __init__(self) -> None:
            base.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            line = LogLine(severity.name, msg.strip())
            for sink in tuple(_sinks[trt.__name__]):
                sink.append(line)

    return Collector()
