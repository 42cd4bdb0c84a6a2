"""Checkpoint files → state dicts, without running code that a file may hold."""

from __future__ import annotations

import argparse
import errno
import json
import pickle
import shlex
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from models.errors import WeightsError

StateDict = dict[str, Tensor]

# Where training scripts keep the state dict: averaged weights first, since those are what they evaluate.
ENTRIES = ("state_dict_ema", "model_ema", "ema", "state_dict", "model_state_dict", "model")
# Put before every key by DataParallel and AveragedModel, and by torch.compile.
_WRAPPERS = ("module.", "_orig_mod.")
# torch.optim.swa_utils.AveragedModel's counter, beside the weights.
_COUNTER = "n_averaged"


def read_state_dict(path: Path) -> tuple[StateDict, str | None]:
    """The tensors in a ``.safetensors`` file or in one of ``torch.save``, and the entry of the file they were under.

    Tensors are on the CPU; prefixes of wrappers are removed from their names.

    Raises:
        WeightsError: the file is empty, damaged, holds no state dict, or could be read only by running its code.
    """
    if path.stat().st_size == 0:
        raise WeightsError(f"{path} is empty")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    state, entry = _find_state_dict(content, path)
    return _unwrap(state), entry


def _read_safetensors(path: Path) -> StateDict:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{path} is no sound safetensors file", got=error) from error


def _read_pickle(path: Path) -> Any:
    names = _archived(path)
    if "constants.pkl" in names:  # TorchScript, which torch.load would hand on to torch.jit.load
        raise _needs_code(path)
    try:
        # Training scripts (torchvision's, timm's) keep their arguments in the file; a Namespace is harmless.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=bool(names))
    except OSError as error:
        if error.errno != errno.EINVAL:  # what mapping a file gives that ends before its tensors do
            raise
        raise WeightsError(f"{path} is cut short or no checkpoint", expected="a file of torch.save") from error
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
    ) as error:
        if "data.pkl" in names:
            raise _needs_code(path) from error
        raise WeightsError(f"{path} is cut short or no checkpoint", expected="a file of torch.save") from error


def _archived(path: Path) -> set[str]:
    """Names of the files in the archive that ``torch.save`` writes; nothing for another format."""
    if not zipfile.is_zipfile(path):
        return set()
    with zipfile.ZipFile(path) as archive:
        return {name.rsplit("/", 1)[-1] for name in archive.namelist()}


def _needs_code(path: Path) -> WeightsError:
    target = path.with_suffix(".state_dict.pth")
    script = (
        f"import torch; c = torch.load({json.dumps(str(path))}, weights_only=False); "
        f"m = next((c[k] for k in {json.dumps(ENTRIES)} if c.get(k) is not None), c) if isinstance(c, dict) else c; "
        f"torch.save(m.float().state_dict() if isinstance(m, torch.nn.Module) else m, {json.dumps(str(target))})"
    )
    return WeightsError(
        f"{path} holds Python objects, and reading them would run code from the file",
        expected="a state_dict",
        fix=f"If you trust it, turn it into one where its code is installed, then use {target}:",
        details=(f"python -c {shlex.quote(script)}",),
    )


def _find_state_dict(content: Any, path: Path) -> tuple[Mapping[str, Tensor], str | None]:
    if _is_state_dict(content):
        return content, None
    if isinstance(content, Mapping):
        for entry in ENTRIES:
            if _is_state_dict(content.get(entry)):
                return content[entry], entry
    keys = ", ".join(map(str, list(content)[:8])) if isinstance(content, Mapping) else type(content).__name__
    raise WeightsError(
        f"{path} holds no state_dict",
        got=keys,
        expected=f"tensors by name, at the top or under one of {', '.join(ENTRIES)}",
    )


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, Mapping) and len(value) > 0 and all(isinstance(item, Tensor) for item in value.values())


def _unwrap(state: Mapping[str, Tensor]) -> StateDict:
    names = {name: tensor for name, tensor in state.items() if name != _COUNTER}
    while names and all(name.startswith("model.model.") for name in names):  # a wrapper around YOLOv5's ``model.``
        names = {name.removeprefix("model."): tensor for name, tensor in names.items()}
    for prefix in _WRAPPERS * 2:  # either may be around the other
        if all(name.startswith(prefix) for name in names):
            names = {name[len(prefix) :]: tensor for name, tensor in names.items()}
    return names
