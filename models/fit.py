"""Does a state dict fit a network, and if not, which one does it fit?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.errors import ModelError, WeightsError
from models.layouts import in_our_names
from models.registry import ModelSpec, get_spec, list_models

Shapes = dict[str, tuple[int, ...]]

_SHOWN = 3
# Batch norm counts its updates; files from before PyTorch 0.4.1 lack the counter and inference has no use for it.
_COUNTER = "num_batches_tracked"
_STATISTICS = ("running_mean", "running_var")


def shapes_of(state: Mapping[str, Tensor]) -> Shapes:
    """Shapes by name, without the counters of batch norms."""
    return {name: tuple(tensor.shape) for name, tensor in state.items() if not name.endswith(_COUNTER)}


def check_fit(model: nn.Module, spec: ModelSpec, state: Mapping[str, Tensor], where: str) -> None:
    """Raise :class:`WeightsError` unless ``state``, read from ``where``, has the model's names and shapes.

    The error lists what differs and, where it can be found, the model, options and classes that would fit.
    """
    wanted, given = shapes_of(model.state_dict()), shapes_of(in_our_names(state, spec.layouts))
    if wanted == given:
        return
    raise WeightsError(
        f"the weights in {where} do not fit {spec.name}",
        fix=_advice(model, spec, state),
        details=_report(wanted, given),
    )


def default_network(spec: ModelSpec, **options: Any) -> nn.Module:
    """The network on the meta device: shapes without memory. Some networks of others need memory all the same."""
    try:
        with torch.device("meta"):
            return spec.builder(num_classes=spec.num_classes, **options)
    except ModelError:
        return spec.builder(num_classes=spec.num_classes, **options)


def _report(wanted: Shapes, given: Shapes) -> list[str]:
    shared = [name for name in wanted if name in given and wanted[name] != given[name]]
    other = [f"{name} {_size(given[name])}, the model has {_size(wanted[name])}" for name in shared]
    return [
        *_listed("missing", [name for name in wanted if name not in given]),
        *_listed("unexpected", [name for name in given if name not in wanted]),
        *_listed("of another shape", other),
    ]


def _listed(title: str, items: Sequence[str]) -> list[str]:
    more = "; …" if len(items) > _SHOWN else ""
    return [f"{title} ({len(items)}): {'; '.join(items[:_SHOWN])}{more}"] if items else []


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _advice(model: nn.Module, spec: ModelSpec, state: Mapping[str, Tensor]) -> str | None:
    given = shapes_of(in_our_names(state, spec.layouts))
    if _with_classes_of(model, given) == given:
        classes = _classes(model, given)
        return f"They were trained for {classes} classes: --num-classes {classes}"
    for other, options in _candidates(spec):
        given = shapes_of(in_our_names(state, other.layouts))
        if not _may_fit(other, options, given):
            continue
        network = default_network(other, **options)
        if _with_classes_of(network, given) == given:
            return f"They are {other.name}'s: {_command(other, options, network, given)}"
    return None


def _may_fit(spec: ModelSpec, options: Mapping[str, Any], given: Shapes) -> bool:
    """Whether the number of parameters agrees, where the spec tells it: making a network to see takes much longer."""
    if not _is_default(spec, options) or spec.task == "detection":  # a detector's classes are not a matrix's rows
        return True
    learnt = (math.prod(shape) for name, shape in given.items() if not name.endswith(_STATISTICS))
    surplus = sum(learnt) - spec.parameters
    # A classifier, with or without bias, for other classes than the spec's accounts for a difference.
    classifiers = (shape for shape in given.values() if len(shape) == 2)
    return surplus == 0 or any(
        surplus == (classes - spec.num_classes) * (features + bias)
        for classes, features in classifiers
        for bias in (0, 1)
    )


def _command(spec: ModelSpec, options: Mapping[str, Any], network: nn.Module, given: Shapes) -> str:
    flags = [f"--model {spec.name}"]
    flags += [f"--option {name}={value}" for name, value in options.items() if value != spec.options[name]]
    classes = _classes(network, given)
    if classes not in (None, spec.num_classes):
        flags.append(f"--num-classes {classes}")
    return " ".join(flags)


def _candidates(spec: ModelSpec) -> list[tuple[ModelSpec, dict[str, Any]]]:
    """Every model in its published variants: default options first, and among them the given model and its family."""
    specs = sorted(map(get_spec, list_models()), key=lambda s: (s.name != spec.name, s.family != spec.family))
    variants = [
        (other, dict(zip(other.variants, values, strict=True)))
        for other in specs
        for values in itertools.product(*other.variants.values())
    ]
    return sorted(variants, key=lambda variant: not _is_default(*variant))


def _is_default(spec: ModelSpec, options: Mapping[str, Any]) -> bool:
    return all(value == spec.options[name] for name, value in options.items())


def _heads(network: nn.Module) -> list[str]:
    """The layers whose rows are the classes: those a detector names, or else the last linear layer."""
    named = set(getattr(network, "heads", ()))
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    return [name for name, module in network.named_modules() if module in named] or linear[-1:]


def _rows(network: nn.Module, given: Shapes) -> int | None:
    """How many rows ``given`` has in the network's heads; None where it has no such layer."""
    shape = next((given.get(f"{head}.weight") for head in _heads(network)), None)
    return shape[0] if shape else None


def _classes(network: nn.Module, given: Shapes) -> int | None:
    """How many classes those rows are: as many, unless the network says otherwise."""
    rows = _rows(network, given)
    classes_of: Callable[[int], int] = getattr(network, "classes_of", int)
    return None if rows is None else classes_of(rows)


def _with_classes_of(network: nn.Module, given: Shapes) -> Shapes:
    """The network's shapes if it were made for as many classes as ``given`` is."""
    shapes, rows = shapes_of(network.state_dict()), _rows(network, given)
    for name in (f"{head}.{part}" for head in _heads(network) for part in ("weight", "bias")):
        if rows is not None and name in shapes:
            shapes[name] = (rows, *shapes[name][1:])
    return shapes
