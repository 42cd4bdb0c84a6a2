"""Serve graphs and engines over the Open Inference Protocol (KServe v2), as Triton's clients expect it: HTTP and gRPC.

python -m deploy serve models/
python -m deploy serve mobilenet_v3_small.onnx --max-batch 16 --max-delay-ms 2
curl -F image=@cat.jpg http://127.0.0.1:8000/v2/models/mobilenet_v3_small/classify
"""

from __future__ import annotations

import argparse
import ipaddress
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from deploy.cli.console import Console
from deploy.errors import CheckFailed, InputError, MachineError

if TYPE_CHECKING:
    from deploy.runtime.base import Runner
    from deploy.serving.grpc_server import GrpcServer
    from deploy.serving.server import Ports
    from deploy.serving.service import Service
    from deploy.serving.shared_memory import Regions
    from deploy.serving.telemetry import Sink, Telemetry

_SUFFIXES = (".onnx", ".plan")


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
    parser.add_argument("--max-batch", type=int, default=8, metavar="N", help="rows in one run (default 8)")
    parser.add_argument(
        "--max-delay-ms", type=float, default=0.0, metavar="MS", help="wait for a fuller batch (default 0)"
    )
    parser.add_argument("--queue", type=int, default=256, metavar="N", help="requests that may wait (default 256)")
    parser.add_argument("--instances", type=int, default=1, metavar="N", help="of each model (default 1)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads of an instance (default: all cores)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to run (default auto)")
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


def run(args: argparse.Namespace, console: Console) -> int:
    from deploy.serving.http import application
    from deploy.serving.repository import Repository
    from deploy.serving.server import serve
    from deploy.serving.service import Service
    from deploy.serving.settings import BatchSettings

    _check(args)
    files = _find(args.models)
    settings = BatchSettings(args.max_batch, args.max_delay_ms / 1000, args.queue)
    openers = {name: partial(_open, file, args) for name, file in files.items()}
    repository = Repository(openers, settings, args.drain_seconds)
    telemetry = _telemetry(args)
    service = Service(repository, regions=_regions(args), telemetry=telemetry)
    key = args.api_key or os.environ.get("DEPLOY_API_KEY") or None
    grpc = _grpc(service, args, key)

    ports = {"port": args.http_port, "metrics_port": args.metrics_port, "grpc": grpc}
    bounds = {"limit": args.drain_seconds, "most_connections": args.max_connections, "telemetry": telemetry}
    ready, overdue = partial(_ready, console, args.host, list(files)), partial(_give_up, console, args.drain_seconds)
    app = application(service, key=key)
    try:
        answered = serve(app, repository, host=args.host, **ports, **bounds, ready=ready, overdue=overdue)
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


def _regions(args: argparse.Namespace) -> Regions | None:
    from deploy.serving.shared_memory import Regions

    wanted = args.shared_memory
    return Regions() if (_is_loopback(args.host) if wanted is None else wanted) else None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _grpc(service: Service, args: argparse.Namespace, key: str | None) -> GrpcServer | None:
    if args.grpc_port is None:
        return None
    try:
        from deploy.serving.grpc_server import GrpcServer
    except ModuleNotFoundError as error:
        what = f"gRPC needs {error.name}, which is not installed"
        raise MachineError(what, fix="pip install '.[serve]', or give --no-grpc.") from error
    return GrpcServer(service, host=args.host, port=args.grpc_port, key=key)


def _ready(console: Console, host: str, models: list[str], ports: Ports) -> None:
    host = f"[{host}]" if ":" in host else host
    address = f"http://{host}:{ports.http}"
    grpc = None if ports.grpc is None else f"{host}:{ports.grpc}"
    metrics = None if ports.metrics is None else f"http://{host}:{ports.metrics}/metrics"
    if console.as_json:
        console.document({"models": models, "address": address, "grpc": grpc, "metrics": metrics})
    console.text(f"serving {', '.join(models)} on {address}")
    if grpc:
        console.text(f"gRPC on {grpc}")
    if metrics:
        console.text(f"metrics on {metrics}")


def _telemetry(args: argparse.Namespace) -> Telemetry:
    from deploy.serving.access_log import access_log
    from deploy.serving.telemetry import Telemetry, traces_wanted

    sinks: list[Sink] = []
    if args.otlp_endpoint or traces_wanted(os.environ):
        from deploy.serving.tracing import tracing  # it needs the extra otel

        sinks.append(tracing(args.otlp_endpoint))
    if args.access_log:
        sinks.append(access_log(args.access_log))
    return Telemetry(sinks)


def _check(args: argparse.Namespace) -> None:
    if args.otlp_endpoint and not args.otlp_endpoint.startswith(("http://", "https://")):
        raise InputError("--otlp-endpoint is no URL", got=args.otlp_endpoint, expected="http://127.0.0.1:4318")
    for name in ("instances", "threads", "max_connections"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} is a count", got=value, expected="1 or more")
    if not 0 <= args.drain_seconds < float("inf"):
        raise InputError("--drain-seconds is not negative", got=args.drain_seconds)
    ports = {"--http-port": args.http_port, "--grpc-port": args.grpc_port, "--metrics-port": args.metrics_port}
    for flag, port in ports.items():
        if port is not None and not 0 <= port < 1 << 16:
            raise InputError(f"{flag} is no port", got=port, expected="0 to 65535")


def _find(given: list[Path]) -> dict[str, Path]:
    """Model name (the file's stem) → file."""
    files: dict[str, Path] = {}
    for path in given:
        if not path.exists():
            raise InputError(f"no such file: {path}", expected=" or ".join(_SUFFIXES))
        inside = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES) if path.is_dir() else [path]
        if not inside:
            raise InputError(f"{path} holds no model", expected=" or ".join(_SUFFIXES))
        for file in inside:
            if file.stem in files:
                raise InputError(f"two models are named '{file.stem}'", got=f"{files[file.stem]}, {file}")
            files[file.stem] = file
    return files


def _open(file: Path, args: argparse.Namespace) -> list[Runner]:
    from deploy.runtime.open import open_runner

    return [open_runner(file, device=args.device, threads=args.threads) for _ in range(args.instances)]
