"""Networks of torchvision and timm, with the preprocessing and the checkpoints that those packages publish."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from models.errors import ModelError, UnknownModel
from models.factory import from_factory, import_package, made
from models.layouts import Layout, State
from models.registry import Checkpoint, ModelSpec, Transform
from models.resolve import Resolved
from models.transforms import transform_of_config, transform_of_preset

_SUGGESTED = 3
# These draw their first weights by SciPy, for minutes, and warn of it; other weights replace them anyway.
_QUICK = {name: {"init_weights": False} for name in ("googlenet", "inception_v3")}


def _without_dots(state: State) -> State:
    """``denselayer1.norm.1``, as the files have had it since 2017, is ``denselayer1.norm1`` in the network."""
    return {re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)", r"\1\2", name): state[name] for name in state}


_OLD_DENSENET = Layout(
    "torchvision's of 2017", "features.denseblock1.denselayer1.norm.1.weight", _without_dots, lambda network, path: None
)


def resolve_external(
    name: str, num_classes: int | None, image_size: tuple[int, int] | None, options: Mapping[str, Any]
) -> Resolved:
    """See :func:`models.resolve.resolve`; ``name`` has a colon."""
    source, _, rest = name.rpartition(":")
    arguments = dict(options) if num_classes is None else {**options, "num_classes": num_classes}
    if source == "torchvision":
        return _from_torchvision(rest, arguments)
    if source == "timm":
        return _from_timm(rest, arguments, image_size)
    return from_factory(source, rest, arguments, image_size)


def _from_torchvision(name: str, arguments: dict[str, Any]) -> Resolved:
    models = import_package("torchvision.models")
    known = models.list_models(module=models)
    if name not in known:
        if name in models.list_models():
            fix = "Wrap it in a function of your own that returns tensors: --model file.py:factory."
            raise ModelError(f"torchvision's {name} is no classifier of images", fix=fix)
        raise UnknownModel(f"torchvision:{name}", _close(name, known, "torchvision"))
    builder = models.get_model_builder(name)
    published = list(models.get_model_weights(name))
    transforms = {entry: transform_of_preset(entry.transforms()) for entry in published}
    default = models.get_model_weights(name).DEFAULT
    checkpoints = [_torchvision_checkpoint(entry, transforms[entry]) for entry in published]
    # torchvision's choice first: others may be better, at another image size.
    checkpoints.sort(key=lambda checkpoint: (checkpoint.tag != default.name, -(checkpoint.top1 or 0.0)))

    def build(num_classes: int = 1000, **options: Any) -> nn.Module:
        network: nn.Module = made(
            f"torchvision:{name}",
            builder,
            {"weights": None, "num_classes": num_classes, **_QUICK.get(name, {}), **options},
        )
        return network

    spec = ModelSpec(
        name=f"torchvision:{name}",
        builder=build,
        family="torchvision",
        input_size=transforms[default].crop,
        transform=transforms[default],
        paper="",
        parameters=int(default.meta["num_params"]),
        gmacs=float(default.meta["_ops"]),
        checkpoints=tuple(checkpoints),
        layouts=(_OLD_DENSENET,) if name.startswith("densenet") else (),
    )
    return Resolved(build(**arguments), spec, external=True)


def _torchvision_checkpoint(entry: Any, transform: Transform) -> Checkpoint:
    prefix = entry.url.rsplit("-", 1)[-1].removesuffix(".pth")
    return Checkpoint(entry.name, entry.url, prefix, entry.meta["_metrics"]["ImageNet-1K"]["acc@1"], transform)


def _from_timm(name: str, arguments: dict[str, Any], image_size: tuple[int, int] | None) -> Resolved:
    timm = import_package("timm")
    if not timm.is_model(name):
        raise UnknownModel(f"timm:{name}", _close(name, timm.list_models(), "timm"))
    config = timm.get_pretrained_cfg(name)
    transform = transform_of_config(config.to_dict() if config else {})
    if image_size and config and config.fixed_input_size:
        arguments = {**arguments, "img_size": image_size}  # a transformer's position embeddings have a size

    def build(num_classes: int | None = None, **options: Any) -> nn.Module:
        classes = {} if num_classes is None else {"num_classes": num_classes}
        network: nn.Module = made(f"timm:{name}", timm.create_model, {"model_name": name, **classes, **options})
        return network

    module = build(**arguments)
    spec = ModelSpec(
        name=f"timm:{name}",
        builder=build,
        family="timm",
        input_size=transform.crop,
        transform=transform,
        paper="",
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        gmacs=math.nan,
        num_classes=config.num_classes if config else 1000,
        checkpoints=_timm_checkpoints(config),
    )
    return Resolved(module, spec, external=True)


def _timm_checkpoints(config: Any) -> tuple[Checkpoint, ...]:
    """The file on the Hugging Face hub that timm would load."""
    if config is None or not config.hf_hub_id or config.custom_load:
        return ()
    url = f"https://huggingface.co/{config.hf_hub_id}"
    return (Checkpoint(config.tag or "pretrained", url, "", None, hub_id=config.hf_hub_id),)


def _close(name: str, known: Sequence[str], package: str) -> list[str]:
    return [f"{package}:{close}" for close in difflib.get_close_matches(name, known, _SUGGESTED)]
