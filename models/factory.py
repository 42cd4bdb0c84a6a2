"""Networks that a function of the user's returns: ``package.module:factory`` or ``file.py:factory``."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from models.errors import ModelError
from models.registry import ModelSpec, Transform
from models.resolve import Resolved
from models.transforms import transform_of_config, transform_of_preset

Size = tuple[int, int]

# torchvision's evaluation transforms resize to 256 for a crop of 224.
_RESIZE_OVER_CROP = 256 / 224
_NO_IMAGES = Transform(1, (1, 1))


def from_factory(source: str, name: str, arguments: Mapping[str, Any], image_size: Size | None) -> Resolved:
    """The network that ``name`` of ``source``, a Python file or a module's dotted name, returns for ``arguments``.

    Its attribute ``transform`` (:class:`~models.registry.Transform` or a preset of torchvision's) or ``pretrained_cfg``
    (timm's) says how images are prepared; ``example_inputs`` is there for a network that takes something else.

    Raises:
        ModelError: there is no such function, it fails, returns no network, or does not say what it takes.
    """
    full, factory = f"{source}:{name}", _load_factory(source, name)
    module = factory if isinstance(factory, nn.Module) else made(full, factory, arguments)
    if not isinstance(module, nn.Module):
        raise ModelError(f"{full} returned no network", got=type(module).__name__, expected="a torch.nn.Module")
    examples = _examples(module)
    transform, notes = (_NO_IMAGES, ()) if examples else _transform_of_module(module, full, image_size)

    def build(num_classes: int | None = None, **options: Any) -> nn.Module:
        network: nn.Module = made(full, factory, {**arguments, **options})
        return network

    spec = ModelSpec(
        name=full,
        builder=build,
        family="external",
        task="other" if examples else "classification",
        input_size=transform.crop,
        transform=transform,
        paper="",
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        gmacs=math.nan,
    )
    return Resolved(module, spec, external=True, has_weights=True, examples=examples, notes=notes)


def _load_factory(source: str, name: str) -> Callable[..., Any]:
    """The attribute ``name`` of a module: ``source`` is a Python file, or the module's dotted name."""
    if not source or not name or ":" in source:
        got, expected = f"{source}:{name}", "torchvision:NAME, timm:NAME, package.module:factory or file.py:factory"
        raise ModelError("cannot read the model's name", got=got, expected=expected)
    module = _module_of_file(Path(source)) if source.endswith(".py") else import_package(source)
    found = getattr(module, name, None)
    if not callable(found):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        got = "nothing of that name" if found is None else type(found).__name__
        raise ModelError(f"{source} has no function '{name}'", got=got, expected=", ".join(functions[-8:]) or None)
    return found  # type: ignore[no-any-return]


def _module_of_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ModelError(f"there is no file {path}", fix="Give FILE.py:FACTORY, a function that returns the network.")
    _let_import_from(path.resolve().parent)  # its neighbours, as when it is run
    name = path.stem if path.stem not in sys.modules else f"{path.stem}_{len(sys.modules)}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for it
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise _failed(str(path), error) from error
    return module


def _let_import_from(folder: Path) -> None:
    """Also later, when the factory is called: it may import then."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def import_package(name: str) -> ModuleType:
    """The module ``name``, perhaps from the current folder.

    Raises:
        ModelError: it, or something it imports, is not installed, or it fails.
    """
    _let_import_from(Path.cwd())  # the user's own packages lie there
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        fix = f"pip install {missing}" if missing == name.split(".")[0] else None
        raise ModelError(f"cannot import {name}", got=f"no module named {missing}", fix=fix) from error
    except Exception as error:
        raise _failed(name, error) from error


def _examples(module: nn.Module) -> dict[str, Tensor]:
    """The attribute ``example_inputs``, a tensor or a tuple or mapping of them, by the parameters of ``forward``."""
    given = getattr(module, "example_inputs", None)
    if given is None:
        return {}
    positional = (given,) if isinstance(given, Tensor) else given if isinstance(given, tuple | list) else ()
    named = given if isinstance(given, Mapping) else {}
    try:
        bound = inspect.signature(module.forward).bind(*positional, **named).arguments
    except TypeError as error:
        what = f"example_inputs of {type(module).__name__} are not what its forward takes"
        raise ModelError(what, got=error) from error
    tensors: dict[str, Tensor] = {
        key: value for key, value in bound.items() if isinstance(value, Tensor) and value.ndim
    }
    if tensors.keys() != bound.keys() or not tensors:
        expected = "tensors with a batch axis"
        raise ModelError(
            f"example_inputs of {type(module).__name__} cannot be used", got=list(bound), expected=expected
        )
    return dict(tensors)


def _transform_of_module(module: nn.Module, name: str, image_size: Size | None) -> tuple[Transform, tuple[str, ...]]:
    """The module's own; else torchvision's usual one at ``image_size``, and a note that it was assumed."""
    own = getattr(module, "transform", None)
    if isinstance(own, Transform):
        return own, ()
    if hasattr(own, "crop_size") and hasattr(own, "resize_size"):
        return transform_of_preset(own), ()
    config = getattr(module, "pretrained_cfg", None) or getattr(module, "default_cfg", None)
    if isinstance(config, Mapping):
        return transform_of_config(config), ()
    if own is not None:
        expected = "models.Transform, or torchvision's ImageClassification preset"
        got = type(own).__name__
        raise ModelError(f"{name} has an attribute transform of a kind unknown here", got=got, expected=expected)
    if image_size is None:
        fix = "Give --image-size, or the network an attribute transform, pretrained_cfg or example_inputs."
        raise ModelError(f"{name} does not say which images it takes", fix=fix)
    assumed = Transform(round(min(image_size) * _RESIZE_OVER_CROP), image_size)
    note = (
        f"{name} does not say how images are prepared for it: assuming resize {assumed.resize}, crop "
        f"{image_size[0]}x{image_size[1]} and ImageNet's mean and std; --resize, --mean and --std say otherwise"
    )
    return assumed, (note,)


def made(name: str, factory: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """What ``factory`` returns; its errors as :class:`ModelError` of ``name``."""
    try:
        return factory(**arguments)
    except (Exception, SystemExit) as error:
        raise _failed(name, error) from error


def _failed(name: str, error: BaseException) -> ModelError:
    lines = str(error).strip().splitlines() or [""]
    got = f"{type(error).__name__}: {lines[0]}"
    return ModelError(f"{name} failed", got=got, fix="--debug shows where.")
