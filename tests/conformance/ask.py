"""A case of any kind sent to a server."""

from __future__ import annotations

from typing import Any

from conformance.cases_grpc import Call, GrpcCase
from conformance.clients import observe_call, observe_grpc
from conformance.observe import Server, answers, observe
from conformance.requests import Case

AnyCase = Case | GrpcCase | Call


def ask(server: Server, case: AnyCase) -> list[dict[str, Any]]:
    """What was observed, and whether the server answers afterwards; it is started again where it does not."""
    seen = _observed(server, case)
    if not answers(server):
        server.restart()
        seen.append({"afterwards": "neither the server nor the model answers until it is started again"})
    return seen


def _observed(server: Server, case: AnyCase) -> list[dict[str, Any]]:
    if isinstance(case, GrpcCase):
        return observe_grpc(server, case)
    return observe_call(server, case) if isinstance(case, Call) else observe(server, case)
