"""Why a request was not answered. The words are Triton's, which its clients match."""

from __future__ import annotations

import logging
from asyncio import CancelledError
from collections.abc import Sequence
from typing import TypeVar

from deploy.errors import DeployError, InputError, MachineError

_LOG = logging.getLogger("deploy.serving")
_S = TypeVar("_S")
# The values of the label "reason" of Triton's nv_inference_request_failure.
FAILURE_REASONS = ("REJECTED", "CANCELED", "BACKEND", "OTHER")
# Characters of an error that a client is told: gRPC's clients drop a reply whose status has more than 8 to 16 KiB.
_LONGEST = 500


class QueueFull(MachineError):
    """As many requests wait as may."""

    def __init__(self) -> None:
        super().__init__("Exceeds maximum queue size")


class TimedOut(MachineError):
    """The request was still waiting at its deadline."""

    def __init__(self) -> None:
        super().__init__("Request timeout expired")


class Unavailable(MachineError):
    """The model is not ready, or stops."""


class UnknownModel(InputError):
    """No such model, or no such version of it."""


class UnknownRegion(InputError):
    """No shared memory is registered under this name."""


class AlreadyRegistered(InputError):
    """Some shared memory is registered under this name."""


class TooLarge(InputError):
    """A body beyond the server's limit."""


class Unsupported(InputError):
    """An extension of the protocol that this server does not have."""


def failure_reason(error: BaseException) -> str:
    """Which of ``FAILURE_REASONS``: by the queue, the client, the network, or what was asked."""
    if isinstance(error, (QueueFull, TimedOut)):
        return "REJECTED"
    if isinstance(error, CancelledError):
        return "CANCELED"
    return "OTHER" if isinstance(error, (InputError, Unavailable)) else "BACKEND"


def told(error: Exception) -> str:
    """What a client reads of an error: one line, cut off where it repeats too much of the request."""
    text = str(getattr(error, "headline", error)) or ("too little memory" if isinstance(error, MemoryError) else "")
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"


def refusal(error: Exception, statuses: Sequence[tuple[type[Exception], _S]], bug: _S, asked: str) -> tuple[_S, str]:
    """The status of an error, the first of ``statuses`` that fits, and what the client is told; details are logged.

    Anything else is a ``bug``, of which the client learns nothing more; the log says what was ``asked``.
    """
    for kind, status in statuses:
        if isinstance(error, kind):
            if isinstance(error, DeployError) and error.details:
                _LOG.error("%s: %s", error.headline, "; ".join(error.details))
            return status, told(error)
    _LOG.error("%s failed", asked, exc_info=error)
    return bug, "internal error"
