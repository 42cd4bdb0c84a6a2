"""The models a server has: loaded, replaced and unloaded while requests come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from deploy.errors import DeployError
from deploy.runtime.base import Runner
from deploy.serving.batcher import Batcher
from deploy.serving.errors import Unavailable, UnknownModel
from deploy.serving.settings import BatchSettings

VERSION = "1"
Opener = Callable[[], Sequence[Runner]]


@dataclass(frozen=True)
class Model:
    """One version of a model that is loaded."""

    name: str
    version: str
    batcher: Batcher


@dataclass
class _Entry:
    open: Opener
    batcher: Batcher | None = None
    reason: str = "loading"
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Repository:
    """Model name → its batcher. ``openers`` give the runners of a model, one for each instance; they may be slow."""

    def __init__(self, openers: Mapping[str, Opener], settings: BatchSettings, drain_limit: float = 30.0) -> None:
        self._entries = {name: _Entry(opener) for name, opener in openers.items()}
        self._settings, self._limit = settings, drain_limit

    def model(self, name: str, version: str | None = None) -> Model:
        """Raises :class:`UnknownModel` for a model or version that is not here or not loaded."""
        batcher = self._entry(name).batcher
        if version not in (None, "", VERSION):
            raise UnknownModel(f"model '{name}' has no version '{version}'", expected=VERSION)
        if batcher is None:
            raise UnknownModel(f"model '{name}' is not loaded")
        return Model(name, VERSION, batcher)

    def _entry(self, name: str) -> _Entry:
        entry = self._entries.get(name)
        if entry is None:
            raise UnknownModel(f"Request for unknown model: '{name}' is not found")
        return entry

    @property
    def ready(self) -> bool:
        """Whether every model was loaded and warmed up, or unloaded on request."""
        states = [
            entry.batcher.ready if entry.batcher else entry.reason == "unloaded" for entry in self._entries.values()
        ]
        return all(states)

    def loaded(self) -> list[Model]:
        return [Model(name, VERSION, entry.batcher) for name, entry in self._entries.items() if entry.batcher]

    def index(self, ready_only: bool = False) -> list[dict[str, str]]:
        """Name, version, state and reason of each model, as the repository extension has them."""
        rows = []
        for name, entry in self._entries.items():
            ready = entry.batcher is not None and entry.batcher.ready
            state = {"state": "READY", "reason": ""} if ready else {"state": "UNAVAILABLE", "reason": entry.reason}
            if ready or not ready_only:
                rows.append({"name": name, "version": VERSION, **state})
        return rows

    async def load(self, name: str) -> None:
        """Open and warm up a model; one that is loaded is replaced without dropping a request.

        Raises:
            Unavailable: it cannot be opened or run. One that was loaded stays.
        """
        entry = self._entry(name)
        async with entry.lock:
            try:
                batcher = await self._started(entry.open)
            except Exception as error:
                entry.reason = "it cannot be loaded"  # the error may hold a path: it is the server's to log
                what = error.headline if isinstance(error, DeployError) else repr(error)
                raise Unavailable(f"model '{name}' cannot be loaded", details=[what]) from error
            old, entry.batcher = entry.batcher, batcher
            if old is not None:
                await old.drain(self._limit)

    async def _started(self, opener: Opener) -> Batcher:
        batcher = Batcher(await asyncio.to_thread(opener), self._settings)
        try:
            await batcher.start()
        except BaseException:
            await batcher.drain(0)
            raise
        return batcher

    async def unload(self, name: str) -> None:
        """Refuse new requests and answer the accepted ones."""
        entry = self._entry(name)
        async with entry.lock:
            old, entry.batcher, entry.reason = entry.batcher, None, "unloaded"
            if old is not None:
                await old.drain(self._limit)

    async def drain(self, limit: float | None = None) -> bool:
        """Drain all models within ``limit`` seconds (None: the usual ones); whether all requests were answered."""
        seconds = self._limit if limit is None else limit
        return all(await asyncio.gather(*(model.batcher.drain(seconds) for model in self.loaded())))
