"""Options that several verbs share."""

from __future__ import annotations

import argparse
import math

from deploy.errors import InputError
from deploy.specs import NetworkOptions


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """The options that say which network a model's name means."""
    parser.add_argument(
        "--weights",
        default="auto",
        metavar="auto|pretrained[:TAG]|random|FILE",
        help="auto: the official checkpoint if it is cached or reachable, else random with a warning (default); "
        "pretrained: the official one or an error; FILE: .pth, .pt or .safetensors",
    )
    parser.add_argument("--num-classes", type=int, metavar="N", help="classes, where they differ from the model's own")
    parser.add_argument("--image-size", type=int, metavar="S", help="side of the square input in pixels")
    parser.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="an option of the model: width_mult=0.75"
    )


def network_options(args: argparse.Namespace) -> NetworkOptions:
    """What those options say."""
    if args.image_size is not None and args.image_size < 1:
        raise InputError("an image has pixels", got=args.image_size, expected="--image-size of 1 or more")
    return NetworkOptions(args.weights, args.num_classes, args.image_size, tuple(_option(text) for text in args.option))


def _option(text: str) -> tuple[str, bool | int | float | str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InputError("cannot read a model option", got=text, expected="KEY=VALUE, for example width_mult=0.75")
    return key.replace("-", "_"), _value(value)


def _value(text: str) -> bool | int | float | str:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        return number if math.isfinite(number) else text
    return text
