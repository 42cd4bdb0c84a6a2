"""What can be loaded: each model's versions, with its settings and what opens it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NoReturn

from deploy.errors import InputError
from deploy.runtime.base import Runner
from deploy.serving.folder import Files, find, stamp, stamp_of_settings
from deploy.serving.settings import BatchSettings, ModelSettings, read_settings, shares, uses_cores

Opener = Callable[[], Sequence[Runner]]


@dataclass(frozen=True)
class Offer:
    """One version of a model. ``open`` gives its runners, one for each instance, and may be slow.

    Attributes:
        stamp: another one where the files or the settings have changed.
        file, settings: what it is made of, where it is made of files.
    """

    open: Opener
    batching: BatchSettings
    stamp: Hashable = None
    file: Path | None = None
    settings: ModelSettings | None = None


@dataclass(frozen=True)
class Offers:
    """The versions of a model that are to be served.

    Attributes:
        stamp: of all files; the same at two looks where nobody is writing them.
        error: why its settings are refused; opening it raises that.
    """

    versions: Mapping[int, Offer] = field(default_factory=dict)
    stamp: Hashable = None
    error: InputError | None = None


Look = Callable[[], Mapping[str, Offers]]


def always(openers: Mapping[str, Opener], batching: BatchSettings) -> dict[str, Offers]:
    """Models that are no files: each is version 1, and never changes."""
    return {name: Offers({1: Offer(opener, batching)}) for name, opener in openers.items()}


class Catalogue:
    """The models in files and folders; calling it looks again.

    Where no threads are stated, the cores are shared out among all instances that are found.
    """

    def __init__(
        self,
        given: Sequence[Path],
        defaults: ModelSettings,
        opener: Callable[[Path, ModelSettings], Sequence[Runner]],
        cores: int,
    ) -> None:
        """``opener``: of a file, with its settings complete; called in a thread."""
        self._given, self._defaults, self._opener, self._cores = given, defaults, opener, cores

    def __call__(self) -> dict[str, Offers]:
        """Raises :class:`InputError` where the folder cannot be read or two models have one name."""
        found = find(self._given)
        settings: dict[str, ModelSettings | InputError] = {name: self._settings(each) for name, each in found.items()}
        demands = {
            name: (instances_on_cpu(found[name], each), each.threads)
            for name, each in settings.items()
            if isinstance(each, ModelSettings)
        }
        threads = shares(demands, self._cores)
        return {name: self._offers(files, settings[name], threads.get(name, 1)) for name, files in found.items()}

    def _settings(self, files: Files) -> ModelSettings | InputError:
        if not files.settings.exists():
            return self._defaults
        try:
            return read_settings(files.settings, self._defaults)
        except InputError as error:
            return error

    def _offers(self, files: Files, settings: ModelSettings | InputError, threads: int) -> Offers:
        stamps = {version: stamp(file) for version, file in sorted(files.versions.items())}
        every = (tuple(stamps.items()), stamp_of_settings(files.settings))
        if isinstance(settings, InputError):
            version = max(stamps)
            refused = Offer(partial(_refuse, settings), BatchSettings(), every, files.versions[version])
            return Offers({version: refused}, every, error=settings)
        versions = {}
        for version in newest(files, settings):
            file, complete = files.versions[version], replace(settings, threads=threads)
            open_ = partial(self._opener, file, complete)
            # Not the threads: that another model came is no reason to load this one again.
            versions[version] = Offer(open_, settings.batching, (stamps[version], settings), file, complete)
        return Offers(versions, every)


def _refuse(error: InputError) -> NoReturn:
    raise error


def newest(files: Files, settings: ModelSettings) -> list[int]:
    """The versions that are served, oldest first."""
    return sorted(files.versions)[-settings.versions :]


def instances_on_cpu(files: Files, settings: ModelSettings) -> int:
    """How many instances want CPU threads, of all versions that are served."""
    return settings.instances * sum(uses_cores(files.versions[each], settings) for each in newest(files, settings))
