"""The flags of ``serve`` that say how models are served and what clients may ask for."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import TYPE_CHECKING

from deploy.errors import InputError
from deploy.serving.settings import DEVICES, RANGES, ModelSettings, Range

if TYPE_CHECKING:
    from deploy.serving.service import Limits

_LIMITS = {
    "max_body_mb": Range(0.001, 65536, whole=False),
    "max_pixels": Range(1, 10_000_000_000),
    "max_images": Range(1, 65536),
    "body_seconds": Range(0.001, 86400, whole=False),
    "decode_threads": Range(1, 1024),
    "reload_seconds": Range(0, 86400, whole=False),
}


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """What a model's TOML may say too: that goes before these."""
    group = parser.add_argument_group("models", "for all models; NAME.toml beside a model goes before them")
    group.add_argument("--max-batch", type=int, default=8, metavar="N", help="rows in one run (default 8)")
    group.add_argument(
        "--max-delay-ms", type=float, default=0.0, metavar="MS", help="wait for a fuller batch (default 0)"
    )
    group.add_argument("--queue", type=int, default=256, metavar="N", help="requests that may wait (default 256)")
    group.add_argument("--priorities", type=int, default=1, metavar="N", help="levels, 1 goes first (default 1)")
    group.add_argument(
        "--default-priority",
        type=int,
        default=0,
        metavar="N",
        help="of a request without one (default: the middle)",
    )
    group.add_argument("--timeout-ms", type=float, metavar="MS", help="wait for the start at most (default: no limit)")
    group.add_argument(
        "--preserve-ordering", action="store_true", help="answers leave in the order in which requests started"
    )
    group.add_argument("--instances", type=int, default=1, metavar="N", help="of each model (default 1)")
    group.add_argument(
        "--threads", type=int, metavar="N", help="CPU threads of an instance (default: the cores, shared out)"
    )
    group.add_argument("--device", choices=DEVICES, default="auto", help="where to run (default auto)")
    group.add_argument("--versions", type=int, default=1, metavar="N", help="how many are served, newest (default 1)")


def add_limits(parser: argparse.ArgumentParser) -> None:
    """What a client may ask for, and the threads that read images."""
    group = parser.add_argument_group("limits")
    group.add_argument(
        "--max-body-mb",
        type=float,
        default=64.0,
        metavar="MB",
        help="MiB of a request, decompressed too (default 64)",
    )
    group.add_argument(
        "--max-pixels", type=int, default=50_000_000, metavar="N", help="of an image (default 50 million)"
    )
    group.add_argument("--max-images", type=int, default=64, metavar="N", help="in a request (default 64)")
    group.add_argument(
        "--body-seconds", type=float, default=30.0, metavar="S", help="until a request is there (default 30)"
    )
    group.add_argument("--decode-threads", type=int, default=2, metavar="N", help="that read images (default 2)")


def model_settings(args: argparse.Namespace) -> ModelSettings:
    """Raises :class:`InputError` for a value out of range."""
    for key, range_ in RANGES.items():
        _check(args, key, range_)
    settings = ModelSettings(**{field.name: getattr(args, field.name) for field in fields(ModelSettings)})
    if settings.default_priority > settings.priorities:
        expected = f"0 to --priorities {settings.priorities}"
        raise InputError("--default-priority is none of them", got=settings.default_priority, expected=expected)
    return settings


def limits(args: argparse.Namespace) -> Limits:
    """Raises :class:`InputError` for a value out of range."""
    from deploy.serving.service import Limits  # not at the top: help needs none of what it imports

    for key, range_ in _LIMITS.items():
        _check(args, key, range_)
    return Limits(round(args.max_body_mb * (1 << 20)), args.body_seconds, args.max_pixels, args.max_images)


def _check(args: argparse.Namespace, key: str, range_: Range) -> None:
    value = getattr(args, key)
    if value is not None and not range_.holds(value):
        raise InputError(f"--{key.replace('_', '-')} is out of range", got=value, expected=range_)
