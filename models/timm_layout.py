"""timm's names of the networks of the MobileNet and EfficientNet families, and what its weights take for granted.

timm has every such network twice under the same tensor names: trained in PyTorch, and ported from TensorFlow
(``tf_…``), which pads otherwise. So the names alone do not say how a checkpoint is to be run.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from models.errors import WeightsError
from models.layouts import Layout, State
from models.padding import AUTO, SAME, SYMMETRIC, PaddedNetwork
from models.registry import Transform
from models.transforms import transform_of_config

_EPS = 1e-5  # of the batch norms in networks that timm trained itself

# The parts of each kind of block in the order in which ours are numbered. A block is of the first kind whose
# convolutions it has; not every one has squeeze-and-excite.
_KINDS = (
    ("conv_pw", "conv_dw", "se", "conv_pwl"),
    ("conv_exp", "conv_pwl"),
    ("conv_dw", "se", "conv_pw"),
    ("conv",),
)
_TENSOR = re.compile(r"blocks\.(\d+)\.(\d+)\.(\w+)\.(.+)")
_SE = {"conv_reduce": "fc1", "conv_expand": "fc2"}

# A file as timm publishes those it trained: efficientnet_b0_ra-3dd342df.pth.
_FILE = re.compile(r"(efficientnet|efficientnetv2|mobilenetv3)_\w+-[0-9a-f]{8}\.\w+")

Names = dict[str, str]


def timm_layout(head: Names, *, staged: bool) -> Layout:
    """timm's layout of a family.

    Args:
        head: timm's modules behind the blocks → ours; ``{}`` in a name of ours is the number after the last block's.
        staged: our blocks are numbered stage by stage as well, not from first to last.
    """
    return Layout("timm", "conv_stem.weight", partial(_rename, head=head, staged=staged), _adapt)


def _rename(state: State, head: Names, staged: bool) -> State:
    names = {"conv_stem": "features.0.0", "bn1": "features.0.1"}
    blocks = _blocks(state)
    last = 0
    for position, (stage, index) in enumerate(sorted(blocks), 1):
        last = stage + 1 if staged else position
        ours = f"features.{last}.{index}" if staged else f"features.{last}"
        names |= _block(f"blocks.{stage}.{index}", ours, blocks[stage, index], staged)
    names |= {theirs: ours.format(last + 1) for theirs, ours in head.items()}
    return dict(_tensor(name, tensor, names) for name, tensor in state.items())


def _blocks(state: State) -> dict[tuple[int, int], set[str]]:
    """The parts of each block, by the number of its stage and its own in there."""
    parts: dict[tuple[int, int], set[str]] = defaultdict(set)
    for name in state:
        if match := _TENSOR.fullmatch(name):
            parts[int(match[1]), int(match[2])].add(match[3])
    return parts


def _block(theirs: str, ours: str, parts: set[str], staged: bool) -> Names:
    """Names of the modules in one block. The convolution that ends timm's MobileNets as a block is none of ours."""
    kind = next((kind for kind in _KINDS if parts.issuperset({*kind} - {"se"})), ())
    if kind == ("conv",) and not staged:
        return {f"{theirs}.conv": f"{ours}.0", f"{theirs}.bn1": f"{ours}.1"}
    names: Names = {}
    norms = itertools.count(1)
    for index, part in enumerate(part for part in kind if part in parts):
        inside = f"{ours}.block.{index}"
        if part == "se":
            names |= {f"{theirs}.se.{conv}": f"{inside}.{layer}" for conv, layer in _SE.items()}
        else:
            names |= {f"{theirs}.{part}": f"{inside}.0", f"{theirs}.bn{next(norms)}": f"{inside}.1"}
    return names


def _tensor(name: str, tensor: Tensor, names: Names) -> tuple[str, Tensor]:
    module, _, leaf = name.rpartition(".")
    ours = names.get(module)
    if ours is None:
        return name, tensor
    if ours.startswith("classifier.") and tensor.ndim == 4:  # behind the pool, a 1x1 convolution is a linear layer
        tensor = tensor.flatten(1)
    return f"{ours}.{leaf}", tensor


def _adapt(network: nn.Module, path: Path) -> Transform | None:
    """Padding and epsilon by the user's word or by where the weights come from; preprocessing from ``config.json``.

    Raises:
        WeightsError: nothing says how the weights were trained.
    """
    assert isinstance(network, PaddedNetwork)
    config = _config(path)
    padding = network.asked if network.asked != AUTO else _trained_with(path, config) or network.usual
    if padding is None:
        raise WeightsError(
            f"timm's names in {path} do not tell how it pads: its networks from TensorFlow (tf_…) have the same ones",
            fix="Give --option padding=same if it was a tf_… network, else --option padding=symmetric.",
        )
    network.set_padding(padding, None if padding == SAME else _EPS)
    published = config.get("pretrained_cfg")
    return transform_of_config(published) if isinstance(published, Mapping) else None


def _config(path: Path) -> dict[str, Any]:
    """The file that timm's repositories on Hugging Face have beside the weights."""
    try:
        config = json.loads(path.with_name("config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) and isinstance(config.get("architecture"), str) else {}


def _trained_with(path: Path, config: Mapping[str, Any]) -> str | None:
    """The padding that the names of timm's architectures and files tell."""
    told = {}
    if path.name.startswith("tf_") or _FILE.fullmatch(path.name):
        told[path.name] = SAME if path.name.startswith("tf_") else SYMMETRIC
    if config:
        told[f"config.json's {config['architecture']}"] = (
            SAME if config["architecture"].startswith("tf_") else SYMMETRIC
        )
    if len(set(told.values())) > 1:
        fix = "Give --option padding=same or --option padding=symmetric, or move it away from that config.json."
        raise WeightsError(f"the name of {path} and the config.json beside it disagree", got=", ".join(told), fix=fix)
    return next(iter(told.values()), None)
