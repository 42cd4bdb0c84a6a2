"""Serve graphs and engines over the Open Inference Protocol (KServe v2), as Triton's clients expect it.

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
from typing import TYPE_CHECKING

from deploy.cli.console import Console
from deploy.cli.serve_options import add_limits, add_model_options, limits, model_settings
from deploy.errors import CheckFailed, InputError
from deploy.hardware import usable_cores

if TYPE_CHECKING:
    from deploy.runtime.base import Runner
    from deploy.serving.catalogue import Catalogue, Offers
    from deploy.serving.repository import Repository
    from deploy.serving.service import Limits
    from deploy.serving.settings import ModelSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="+", metavar="FILE|DIR", type=Path, help=".onnx and .plan files, or folders")
    parser.add_argument("--http-port", type=int, default=8000, metavar="P", help="port (default 8000; 0: a free one)")
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
        "--drain-seconds", type=float, default=30.0, metavar="S", help="limit for the last answers (default 30)"
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
    from deploy.serving.http import application
    from deploy.serving.repository import Repository
    from deploy.serving.server import Reload, serve
    from deploy.serving.service import Service

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("deploy.serving").setLevel(logging.INFO)
    only = args.load_model if args.model_control == "explicit" else None
    repository = Repository(drain_limit=args.drain_seconds, look=catalogue, only=only)
    service = Service(repository, bounds, args.decode_threads)
    app = application(service, key=args.api_key or os.environ.get("DEPLOY_API_KEY") or None)

    ports = {"port": args.http_port, "metrics_port": args.metrics_port}
    ready = partial(_ready, console, args, repository)
    reload = Reload(args.reload_seconds or None, not args.no_exit_on_error)
    if not serve(app, repository, host=args.host, **ports, limit=args.drain_seconds, ready=ready, reload=reload):
        raise CheckFailed("some requests were not answered", expected=f"all within {args.drain_seconds:g} s")
    console.text("drained")
    return 0


def _ready(console: Console, args: argparse.Namespace, repository: Repository, ports: list[int]) -> None:
    from deploy.cli import served

    models = list(dict.fromkeys(model.name for model in repository.loaded()))
    address, *metrics = (f"http://{args.host}:{port}" for port in ports)
    where = f"{metrics[0]}/metrics" if metrics else None
    rows = served.loaded(repository)
    if console.as_json:
        table = served.document(rows, usable_cores(), args.decode_threads)
        console.document({"models": models, "address": address, "metrics": where, **table})
    console.text(f"serving {', '.join(models) or 'no model'} on {address}")
    if where:
        console.text(f"metrics on {where}")
    served.show(console, rows, usable_cores(), args.decode_threads)


def _check(args: argparse.Namespace) -> None:
    for flag, port in (("--http-port", args.http_port), ("--metrics-port", args.metrics_port)):
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
