"""Models by name: a decorator and a dictionary. What is known of each model stands in its :class:`ModelSpec`."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from models.errors import ModelError, UnknownModel
from models.layouts import Layout

Builder = Callable[..., nn.Module]


@dataclass(frozen=True)
class Transform:
    """From an RGB image to the network's input, in pixels. Values become ``(pixel / 255 - mean) / std``.

    ``mode`` says how an image comes to the size of ``crop`` (height, width):

    - ``crop``: the shorter side is resized to ``resize`` with antialiasing, and the centre is cut (torchvision).
    - ``squash``: it is resized to ``crop`` with antialiasing, whatever its proportions; where ``resize`` is more than
      the crop's shorter side, to as much more, and the centre is cut (timm).
    - ``letterbox``: it is resized to fit inside, by OpenCV's rule of ``linear`` interpolation and without
      antialiasing, and centred on grey 114 (YOLO); ``resize`` is not used.
    """

    resize: int
    crop: tuple[int, int]
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    mode: str = "crop"


@dataclass(frozen=True)
class Checkpoint:
    """Published weights. ``transform`` is given where these weights want another than the model's own.

    ``sha256_prefix`` are the first hex digits of the file's SHA-256; ``top1`` is the published ImageNet accuracy in %.
    ``hub_id`` names a repository of the Hugging Face hub, which states the hash of its file itself.
    """

    tag: str
    url: str
    sha256_prefix: str
    top1: float | None
    transform: Transform | None = None
    hub_id: str | None = None

    @property
    def filename(self) -> str:
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class ModelSpec:
    """What is known of a model. ``parameters`` and ``gmacs`` are those of its default options at ``input_size``.

    ``checkpoints`` go from best to worst. ``variants`` are the option values that published checkpoints use: where a
    checkpoint does not fit, they are tried to say which model it belongs to. ``task`` is ``classification`` (the
    network returns logits) or ``detection`` (boxes and scores). Image sides must be multiples of ``size_multiple``.
    ``layouts`` are foreign ones of checkpoints that fit. ``note`` keeps the model apart from another of a like name.
    """

    name: str
    builder: Builder = field(repr=False)
    family: str
    input_size: tuple[int, int]
    transform: Transform
    paper: str
    parameters: int
    gmacs: float
    task: str = "classification"
    num_classes: int = 1000
    size_multiple: int = 1
    checkpoints: tuple[Checkpoint, ...] = ()
    variants: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    layouts: tuple[Layout, ...] = ()
    note: str = ""

    @property
    def options(self) -> dict[str, Any]:
        """The options :func:`create_model` takes for this model, with their defaults."""
        parameters = inspect.signature(self.builder).parameters.values()
        return {p.name: p.default for p in parameters if p.name != "num_classes" and p.kind is not p.VAR_KEYWORD}


_SPECS: dict[str, ModelSpec] = {}
_ALIASES: dict[str, str] = {}


def register(name: str, *, aliases: tuple[str, ...] = (), **facts: Any) -> Callable[[Builder], Builder]:
    """Register the decorated builder under ``name``; ``facts`` are the other fields of :class:`ModelSpec`.

    A builder takes keywords only: ``num_classes`` and the model's options, each with a default.

    Raises:
        ValueError: the name or an alias is taken.
    """

    def add(builder: Builder) -> Builder:
        spec = ModelSpec(name=name, builder=builder, aliases=aliases, **facts)
        for taken in (n for n in (name, *aliases) if n in _SPECS or n in _ALIASES):
            raise ValueError(f"a model named '{taken}' is registered already")
        _SPECS[name] = spec
        _ALIASES.update(dict.fromkeys(aliases, name))
        return builder

    return add


def list_models() -> list[str]:
    """All names in alphabetical order, without aliases."""
    return sorted(_SPECS)


def get_spec(name: str) -> ModelSpec:
    """What is known of a model, by its name or an alias.

    Raises:
        UnknownModel: there is none, with the closest names.
    """
    name = _ALIASES.get(name, name)
    if name not in _SPECS:
        close = difflib.get_close_matches(name.lower().replace("-", "_"), [*_SPECS, *_ALIASES], n=3, cutoff=0.6)
        if name.endswith(".py"):
            raise ModelError(
                f"which function of {name}?", expected=f"{name}:FACTORY, a function that returns the network"
            )
        raise UnknownModel(name, close)
    return _SPECS[name]


def create_model(name: str, *, num_classes: int | None = None, **options: Any) -> nn.Module:
    """A freshly initialised network in train mode. ``num_classes`` defaults to the spec's.

    Raises:
        UnknownModel: no model has this name.
        ModelError: the model lacks such an option, or a value is of another type than the option's.
    """
    spec = get_spec(name)
    classes = spec.num_classes if num_classes is None else num_classes
    if classes < 1:
        raise ModelError("a classifier needs classes", got=classes, expected="num_classes of 1 or more")
    for option, value in options.items():
        _check_option(spec, option, value)
    return spec.builder(num_classes=classes, **options)


def check_image_size(spec: ModelSpec, height: int, width: int) -> None:
    """Raise :class:`ModelError` unless both sides, in pixels, are multiples of the model's ``size_multiple``."""
    step = spec.size_multiple
    for side in (height, width):
        below, beyond = divmod(side, step)
        if side < 1 or beyond:
            nearest = " or ".join(str(step * n) for n in (below, below + 1) if n > 0)
            what = f"{spec.name} cannot take images of {height}x{width} pixels"
            raise ModelError(what, got=side, expected=f"a multiple of {step}: {nearest}")


def imagenet_labels() -> tuple[str, ...]:
    """The classes of the official checkpoints (ImageNet-1k, ILSVRC 2012) in the order of the logits."""
    return _labels("imagenet_labels.txt")


def coco_labels() -> tuple[str, ...]:
    """The 80 classes of COCO's detection task in the order of YOLO's scores."""
    return _labels("coco_labels.txt")


def _labels(filename: str) -> tuple[str, ...]:
    return tuple(Path(__file__).with_name(filename).read_text(encoding="utf-8").splitlines())


def _check_option(spec: ModelSpec, option: str, value: Any) -> None:
    known = spec.options
    if option not in known:
        names = ", ".join(f"{key} (default {default})" for key, default in known.items()) or "none"
        raise ModelError(f"{spec.name} has no option '{option}'", expected=names)
    wanted = type(known[option])
    # A whole number is a fine float, but True is no number here although Python says so.
    if type(value) is not wanted and not (wanted is float and type(value) is int):
        raise ModelError(
            f"{spec.name}'s option '{option}' is of another type", got=repr(value), expected=wanted.__name__
        )
