"""Serve graphs and engines over the Open Inference Protocol (KServe v2), as Triton's clients expect it: HTTP and gRPC.

python -m deploy serve models/
python -m deploy serve models/ --check
python -m deploy serve mobilenet_v3_small.onnx --max-batch 16 --max-delay-ms 2
curl -F image=@cat.jpg http://127.0.0.1:8000/v2/models/mobilenet_v3_small/classify
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from deploy.cli import serve_parts
from deploy.cli.console import Console
from deploy.cli.serve_options import add_limits, add_model_options, limits, model_settings
from deploy.errors import CheckFailed, InputError
from deploy.hardware import usable_cores

if TYPE_CHECKING:
    from deploy.runtime.base import Runner
    from deploy.serving.catalogue import Catalogue, Offers
    from deploy.serving.repository import Repository
    from deploy.serving.server import Ports
    from deploy.serving.service import Limits
    from deploy.serving.settings import ModelSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="+", metavar="FILE|DIR", type=Path, help=".onnx and .plan files, or folders")
    parser.add_argument("--http-port", type=int, default=8000, metavar="P", help="port (default 8000; 0: a free one)")
    grpc = parser.add_mutually_exclusive_group()
    grpc.add_argument(
        "--grpc-port", type=int, default=8001, metavar="P", help="port of gRPC (default 8001; 0: a free one)"
    )
    grpc.add_argument("--no-grpc", action="store_const", const=None, dest="grpc_port", help="HTTP alone")
    metrics = parser.add_mutually_exclusive_group()
    metrics.add_argument(
        "--metrics-port", type=int, default=8002, metavar="P", help="port of /metrics (default 8002; 0: a free one)"
    )
    metrics.add_argument(
        "--no-metrics", action="store_const", const=None, dest="metrics_port", help="no metrics, no port for them"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine)")
    parser.add_argument("--api-key", metavar="KEY", help="clients must send it; default: $DEPLOY_API_KEY, if set")
    parser.add_argument(
        "--shared-memory",
        action=argparse.BooleanOptionalAction,
        help="clients may use POSIX shared memory of this machine (default: where only this machine can connect)",
    )
    parser.add_argument(
        "--max-connections", type=int, default=1000, metavar="N", help="clients beyond them get 503 (default 1000)"
    )
    parser.add_argument(
        "--drain-seconds", type=float, default=30.0, metavar="S", help="limit for the last answers (default 30)"
    )
    parser.add_argument(
        "--access-log", nargs="?", const="-", metavar="FILE", help="a line of JSON for each request (no FILE: stderr)"
    )
    parser.add_argument(
        "--otlp-endpoint", metavar="URL", help="send traces to this OTLP/HTTP collector; default: as OTEL_* say"
    )
    parser.add_argument(
        "--reload-seconds", type=float, default=0.0, metavar="S", help="look for changed models (default 0: at SIGHUP)"
    )
    parser.add_argument(
        "--model-control", choices=("all", "explicit"), default="all", help="what is loaded at the start (default all)"
    )
    parser.add_argument(
        "--load-model", action="append", default=[], metavar="NAME", help="with --model-control explicit; repeatable"
    )
    parser.add_argument(
        "--no-exit-on-error", action="store_true", help="serve the others where a model cannot be loaded at the start"
    )
    parser.add_argument("--check", action="store_true", help="print what would be served, and exit")
    add_model_options(parser)
    add_limits(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    from deploy.serving.catalogue import Catalogue
    from deploy.serving.folder import check_given, find

    _check(args)
    settings, bounds = model_settings(args), limits(args)
    for warning in check_given(args.models, find(args.models)):
        console.warn(warning)
    catalogue = Catalogue(args.models, settings, _open, usable_cores())
    if args.check:
        return _report(catalogue(), args, console)
    return _serve(catalogue, bounds, args, console)


def _report(offers: Mapping[str, Offers], args: argparse.Namespace, console: Console) -> int:
    from deploy.cli import served

    rows = [row for name, each in offers.items() for row in served.found(name, each)]
    if console.as_json:
        console.document(served.document(rows, usable_cores(), args.decode_threads))
    served.show(console, rows, usable_cores(), args.decode_threads)
    return 0


def _serve(catalogue: Catalogue, bounds: Limits, args: argparse.Namespace, console: Console) -> int:
    from deploy.serving.access import is_loopback
    from deploy.serving.http import application
    from deploy.serving.repository import Repository
    from deploy.serving.server import serve
    from deploy.serving.service import Service
    from deploy.serving.watch import Reload

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("deploy.serving").setLevel(logging.INFO)
    only = args.load_model if args.model_control == "explicit" else None
    repository = Repository(drain_limit=args.drain_seconds, look=catalogue, only=only)
    telemetry = serve_parts.telemetry(args)
    service = Service(repository, bounds, args.decode_threads, serve_parts.regions(args), telemetry)
    key = args.api_key or os.environ.get("DEPLOY_API_KEY") or None
    overdue = partial(_give_up, console, args.drain_seconds)
    try:
        answered = serve(
            application(service, key=key, local=is_loopback(args.host)),
            repository,
            host=args.host,
            port=args.http_port,
            metrics_port=args.metrics_port,
            grpc=serve_parts.grpc_server(service, args, key),
            limit=args.drain_seconds,
            ready=partial(_ready, console, args, repository),
            telemetry=telemetry,
            reload=Reload(args.reload_seconds or None, not args.no_exit_on_error),
            most_connections=args.max_connections,
            most_body=bounds.body,
            overdue=overdue,
        )
    finally:
        telemetry.close()
    if not answered:
        overdue()
    console.text("drained")
    return 0


def _give_up(console: Console, limit: float) -> NoReturn:
    """Ends the process at once: Python would wait for a thread that hangs in a run."""
    error = CheckFailed("some requests were not answered", expected=f"all within {limit:g} s of the signal")
    console.error(error)
    os._exit(error.exit_code)


def _ready(console: Console, args: argparse.Namespace, repository: Repository, ports: Ports) -> None:
    from deploy.cli import served

    models = list(dict.fromkeys(model.name for model in repository.loaded()))
    host = f"[{args.host}]" if ":" in args.host else args.host
    address = f"http://{host}:{ports.http}"
    grpc = None if ports.grpc is None else f"{host}:{ports.grpc}"
    metrics = None if ports.metrics is None else f"http://{host}:{ports.metrics}/metrics"
    rows = served.loaded(repository)
    if console.as_json:
        table = served.document(rows, usable_cores(), args.decode_threads)
        console.document({"models": models, "address": address, "grpc": grpc, "metrics": metrics, **table})
    console.text(f"serving {', '.join(models) or 'no model'} on {address}")
    if grpc:
        console.text(f"gRPC on {grpc}")
    if metrics:
        console.text(f"metrics on {metrics}")
    served.show(console, rows, usable_cores(), args.decode_threads)


def _check(args: argparse.Namespace) -> None:
    if args.otlp_endpoint and not args.otlp_endpoint.startswith(("http://", "https://")):
        raise InputError("--otlp-endpoint is no URL", got=args.otlp_endpoint, expected="http://127.0.0.1:4318")
    if args.max_connections < 1:
        raise InputError("--max-connections is a count", got=args.max_connections, expected="1 or more")
    if not 0 <= args.drain_seconds < float("inf"):
        raise InputError("--drain-seconds is not negative", got=args.drain_seconds)
    ports = {"--http-port": args.http_port, "--grpc-port": args.grpc_port, "--metrics-port": args.metrics_port}
    for flag, port in ports.items():
        if port is not None and not 0 <= port < 1 << 16:
            raise InputError(f"{flag} is no port", got=port, expected="0 to 65535")
    if args.load_model and args.model_control != "explicit":
        raise InputError("--load-model wants --model-control explicit", got="all", expected="explicit")


def _open(file: Path, settings: ModelSettings) -> list[Runner]:
    from deploy.runtime.open import open_runner

    opened: list[Runner] = []
    try:
        for _ in range(settings.instances):
            opened.append(open_runner(file, device=settings.device, threads=settings.threads))
    except BaseException:
        for runner in opened:
            runner.close()
        raise
    return opened
