"""Options that several verbs share."""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path

from deploy.errors import InputError
from deploy.specs import NetworkOptions


def add_architecture_options(parser: argparse.ArgumentParser) -> None:
    """The options that say which network a model's name means, whatever its weights."""
    _add_sizes(parser)
    _add_option(parser)


def architecture_options(args: argparse.Namespace) -> NetworkOptions:
    """What those options say."""
    options = tuple(_option(text) for text in args.option)
    return NetworkOptions(num_classes=args.num_classes, image_size=args.image_size, options=options)


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """The options that say which network a model's name means, with its weights and their preprocessing."""
    parser.add_argument(
        "--weights",
        default="auto",
        metavar="auto|pretrained[:TAG]|random|FILE",
        help="auto: the official checkpoint if it is cached or reachable, else random with a warning (default); "
        "pretrained: the official one or an error; FILE: .pth, .pt or .safetensors",
    )
    _add_sizes(parser)
    parser.add_argument(
        "--resize",
        type=int,
        metavar="R",
        help="pixels of the shorter side before the crop, where training did otherwise",
    )
    parser.add_argument("--interpolation", choices=("bilinear", "bicubic"), help="of that resize, likewise")
    parser.add_argument("--mean", type=_triple, metavar="R,G,B", help="subtracted from pixels of 0 to 1, likewise")
    parser.add_argument("--std", type=_triple, metavar="R,G,B", help="what they are divided by then, likewise")
    _add_option(parser)


def network_options(args: argparse.Namespace) -> NetworkOptions:
    """What those options say."""
    if args.resize is not None and args.resize < 1:
        raise InputError("an image has pixels", got=args.resize, expected="--resize of 1 or more")
    return replace(
        architecture_options(args),
        weights=args.weights,
        resize=args.resize,
        interpolation=args.interpolation,
        mean=args.mean,
        std=args.std,
    )


def _add_sizes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--num-classes", type=int, metavar="N", help="classes, where they differ from the model's own")
    add_image_size(parser, "height and width of the input in pixels, or the side of a square one")


def _add_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="an option of the model: width_mult=0.75"
    )


def add_image_size(parser: argparse.ArgumentParser, text: str) -> None:
    """``--image-size``, also under timm's name for it."""
    parser.add_argument("--image-size", "--input-size", type=_size, metavar="S|HxW", help=text)


def output_path(text: str) -> Path:
    """A file, or a folder that is there: a slash at the end, which :class:`Path` drops, means a folder."""
    path = Path(text)
    if text.endswith("/") and not path.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {text}")
    return path


def _size(text: str) -> tuple[int, int]:
    """``640`` or ``384x640``, height first; timm's ``3,224,224`` too."""
    parts = text.lower().removeprefix("3,").replace(",", "x").split("x")
    if not all(part.isdecimal() and int(part) > 0 for part in parts) or len(parts) > 2:
        raise argparse.ArgumentTypeError(f"got {text}, expected pixels: 640, or height and width: 384x640")
    return int(parts[0]), int(parts[-1])


def _triple(text: str) -> tuple[float, float, float]:
    """One number for all channels, or three."""
    try:
        numbers = [float(part) for part in text.split(",")]
        red, green, blue = numbers * 3 if len(numbers) == 1 else numbers
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text}, expected one number or three: 0.485,0.456,0.406") from None
    return red, green, blue


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
