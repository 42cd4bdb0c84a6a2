"""The parts of the server that flags of ``serve`` turn on: shared memory, gRPC, access log and traces."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from deploy.errors import MachineError

if TYPE_CHECKING:
    from deploy.serving.grpc_server import GrpcServer
    from deploy.serving.service import Service
    from deploy.serving.shared_memory import Regions
    from deploy.serving.telemetry import Sink, Telemetry


def regions(args: argparse.Namespace) -> Regions | None:
    """System shared memory: where only this machine can connect, unless the flag says otherwise."""
    from deploy.serving.access import is_loopback
    from deploy.serving.shared_memory import Regions

    wanted = args.shared_memory
    return Regions() if (is_loopback(args.host) if wanted is None else wanted) else None


def grpc_server(service: Service, args: argparse.Namespace, key: str | None) -> GrpcServer | None:
    """Raises :class:`MachineError` where grpcio is not installed."""
    if args.grpc_port is None:
        return None
    try:
        from deploy.serving.grpc_server import GrpcServer
    except ModuleNotFoundError as error:
        what = f"gRPC needs {error.name}, which is not installed"
        raise MachineError(what, fix="pip install '.[serve]', or give --no-grpc.") from error
    return GrpcServer(service, host=args.host, port=args.grpc_port, key=key)


def telemetry(args: argparse.Namespace) -> Telemetry:
    """Counts, and the access log and traces that are asked for; closed by the caller."""
    from deploy.serving.access_log import access_log
    from deploy.serving.telemetry import Telemetry, traces_wanted

    sinks: list[Sink] = []
    if args.otlp_endpoint or traces_wanted(os.environ):
        from deploy.serving.tracing import tracing  # it needs the extra otel

        sinks.append(tracing(args.otlp_endpoint))
    if args.access_log:
        sinks.append(access_log(args.access_log))
    return Telemetry(sinks)
