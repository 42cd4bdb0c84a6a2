"""Weights into networks: official checkpoints, files, or random ones for trials."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from models.checkpoint import StateDict, read_state_dict
from models.download import Progress, download, sha256_of
from models.errors import WeightsError, WeightsUnavailable
from models.fit import check_fit, default_network, shapes_of
from models.hub import hub_file
from models.layouts import State, in_our_names, layout_of
from models.padding import AUTO, SAME
from models.registry import Checkpoint, ModelSpec, Transform
from models.settle import settle


@dataclass(frozen=True)
class WeightsInfo:
    """What was loaded.

    Attributes:
        source: ``official``, ``file``, ``random``, or ``code``: as the network's own code loaded them.
        name, sha256: the file's; None for random weights.
        transform: the preprocessing these weights want.
        reason: why ``auto`` fell back to random weights.
        entry: the part of the file the weights were taken from (``state_dict_ema``), None where they are all of it.
        layout: whose names the tensors had (``timm``), None where they had ours.
        own_transform: ``transform`` is known to be that of these weights, and not assumed.
    """

    source: str
    name: str | None
    sha256: str | None
    transform: Transform
    reason: str | None = None
    entry: str | None = None
    layout: str | None = None
    own_transform: bool = False


def load_weights(
    model: nn.Module,
    spec: ModelSpec,
    source: str = "auto",
    *,
    input_size: tuple[int, int] | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
    timeout: float = 5.0,
    seed: int = 0,
) -> WeightsInfo:
    """Put weights into ``model``, a network of ``spec``. Every name and shape must match.

    Args:
        source: ``pretrained`` (the best official checkpoint), ``pretrained:TAG`` or a checkpoint's tag, ``random``, a
            file, or ``auto``: ``pretrained`` if that can be had, else ``random`` with the reason in what is returned.
        input_size: height and width random weights are fitted to, the spec's by default.
        cache: folder of the official files, PyTorch Hub's by default.
        timeout: seconds the download server has to answer.
        seed: of random weights.

    Raises:
        WeightsUnavailable: ``pretrained``, and the file is neither in the cache nor can it be downloaded.
        WeightsError: there is no such checkpoint or file, or it does not fit the model.
    """
    files = _Cache(cache or Path(torch.hub.get_dir()) / "checkpoints", progress, timeout)
    size = input_size or spec.input_size
    if source == "random":
        return _random(model, spec, size, seed)
    if source == "auto":
        try:
            return _official(model, spec, _published(spec, None), files)
        except WeightsError as error:
            return _random(model, spec, size, seed, reason=str(error))
    tags = [checkpoint.tag for checkpoint in spec.checkpoints]
    kind, _, tag = source.partition(":")
    if kind == "pretrained" or source in tags:
        return _official(model, spec, _published(spec, source if source in tags else tag or None), files)
    return _from_file(model, spec, source)


@dataclass(frozen=True)
class _Cache:
    """Official files in a folder, fetched when they are asked for."""

    folder: Path
    progress: Progress | None
    timeout: float

    def file(self, checkpoint: Checkpoint) -> Path:
        if checkpoint.hub_id:
            return hub_file(checkpoint.hub_id, self.timeout)
        path = self.folder / checkpoint.filename
        if not (path.is_file() and sha256_of(path).startswith(checkpoint.sha256_prefix)):
            self._fetch(checkpoint, path)
        return path

    def _fetch(self, checkpoint: Checkpoint, path: Path) -> None:
        url = checkpoint.url
        try:
            download(url, path, checkpoint.sha256_prefix, progress=self.progress, timeout=self.timeout)
        except WeightsUnavailable as error:
            raise WeightsUnavailable(
                f"{path} is damaged, and {error.what}" if path.is_file() else error.what,
                got=error.got,
                expected=error.expected,
                fix=f"Download {url} elsewhere and put it at {path}, or give --weights FILE or --weights random.",
            ) from error


def _random(
    model: nn.Module, spec: ModelSpec, size: tuple[int, int], seed: int, reason: str | None = None
) -> WeightsInfo:
    settle(model, size, seed, transform=spec.transform, multiple=spec.size_multiple)
    return WeightsInfo("random", None, None, spec.transform, reason)


def _published(spec: ModelSpec, tag: str | None) -> Checkpoint:
    for checkpoint in spec.checkpoints:
        if tag in (None, checkpoint.tag):
            return checkpoint
    if not spec.checkpoints:
        fix = "Give your own with --weights FILE, or try --weights random."
        raise WeightsError(f"no official weights of {spec.name} are published", fix=fix)
    raise WeightsError(f"{spec.name} has no such checkpoint", got=tag, expected=_choices(spec))


def _choices(spec: ModelSpec) -> str:
    return ", ".join(f"pretrained:{checkpoint.tag}" for checkpoint in spec.checkpoints)


def _official(model: nn.Module, spec: ModelSpec, checkpoint: Checkpoint, files: _Cache) -> WeightsInfo:
    if shapes_of(model.state_dict()) != shapes_of(default_network(spec).state_dict()):
        raise WeightsError(
            f"the official weights of {spec.name} are for {spec.num_classes} classes and the default options",
            fix="Give weights of your own with --weights FILE.",
        )
    if getattr(model, "asked", AUTO) == SAME and getattr(model, "usual", None) != SAME:
        raise WeightsError(f"the official weights of {spec.name} pad symmetrically", fix="Leave out padding=same.")
    return _load(model, spec, files.file(checkpoint), checkpoint)


def _from_file(model: nn.Module, spec: ModelSpec, source: str) -> WeightsInfo:
    path = Path(source).expanduser()
    if not path.is_file():
        choices = ", ".join(["auto", "pretrained", *filter(None, [_choices(spec)]), "random or a checkpoint file"])
        raise WeightsError("there is no such weights file", got=source, expected=choices)
    return _load(model, spec, path)


def _load(model: nn.Module, spec: ModelSpec, path: Path, known: Checkpoint | None = None) -> WeightsInfo:
    """An official file is known by its hash, wherever it lies and whatever it is called."""
    try:
        sha256 = sha256_of(path)
        state, entry = read_state_dict(path)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read", got=error.strerror or error) from error
    check_fit(model, spec, state, str(path))
    _check_finite(state, path)
    layout = layout_of(state, spec.layouts)
    transform = layout.adapt(model, path) if layout else None
    _copy(in_our_names(state, spec.layouts), model)
    named = (c for c in spec.checkpoints if c.sha256_prefix and sha256.startswith(c.sha256_prefix))
    official = known or next(named, None)
    if official is not None and hasattr(model, "transform_input"):
        vars(model)["transform_input"] = True  # as torchvision's GoogLeNet and Inception have it for their own weights
    return WeightsInfo(
        "official" if official else "file",
        path.name,
        sha256,
        transform or (official and official.transform) or spec.transform,
        entry=entry,
        layout=layout.name if layout else None,
        own_transform=transform is not None or official is not None,
    )


def _copy(state: State, model: nn.Module) -> None:
    """Names and shapes have been checked; some networks' own loading wants a version that files do not all have."""
    with torch.no_grad():
        for name, tensor in model.state_dict(keep_vars=True).items():
            if name in state:  # but for the norms' counters, see check_fit
                tensor.copy_(state[name])


def _check_finite(state: StateDict, path: Path) -> None:
    bad = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise WeightsError(f"the weights in {path} hold NaN or infinity", got=f"{len(bad)} tensors, the first {bad[0]}")
