"""The models a server has: loaded, replaced and unloaded while requests come."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from deploy.errors import DeployError, InputError
from deploy.serving.batcher import Batcher
from deploy.serving.catalogue import Look, Offer, Offers, Opener, always
from deploy.serving.entry import Entry
from deploy.serving.errors import Unavailable, UnknownModel
from deploy.serving.settings import BatchSettings

_LOG = logging.getLogger("deploy.serving")


@dataclass(frozen=True)
class Model:
    """One version of a model that is loaded; ``versions`` are all of it that are, ``asked`` is what was asked for."""

    name: str
    version: str
    batcher: Batcher
    versions: tuple[str, ...] = ()
    asked: str | None = None


class Repository:
    """Model name → its versions' batchers."""

    def __init__(
        self,
        openers: Mapping[str, Opener] | None = None,
        settings: BatchSettings | None = None,
        drain_limit: float = 30.0,
        *,
        look: Look | None = None,
        only: Collection[str] | None = None,
    ) -> None:
        """The models of ``openers``, each as version 1 with ``settings``; or those that ``look`` finds.

        Args:
            openers: give the runners of a model, one for each instance; they may be slow.
            settings: how those batch.
            drain_limit: seconds for the last answers of a model that is replaced or unloaded.
            look: what can be loaded; called again for each load.
            only: the models that are loaded at the start; others when they are asked for. None is all.

        Raises:
            InputError: from ``look``, or it has not one of ``only``.
        """
        self._look: Look = look or partial(always, openers or {}, settings or BatchSettings())
        self._limit, self._only = drain_limit, only
        self._entries: dict[str, Entry] = {}
        for name, offers in self._look().items():
            self._entries[name] = Entry(offers, self._wants(name), self._wants(name))
        for name in only or ():
            self._entry(name)
        self._retiring: set[asyncio.Task[bool]] = set()
        self._serves = False

    def _wants(self, name: str) -> bool:
        return self._only is None or name in self._only

    def _entry(self, name: str) -> Entry:
        entry = self._entries.get(name)
        if entry is None:
            raise UnknownModel(f"Request for unknown model: '{name}' is not found")
        return entry

    def model(self, name: str, version: str | None = None) -> Model:
        """A version of a model; without ``version`` the newest that is ready.

        Raises:
            UnknownModel: the model or the version is not here, or is not loaded.
        """
        loaded = {str(number): batcher for number, (_, batcher) in sorted(self._entry(name).batchers.items())}
        if not loaded:
            raise UnknownModel(f"model '{name}' is not loaded")
        ready = [number for number, batcher in loaded.items() if batcher.ready]
        chosen = version or [*loaded, *ready][-1]
        if chosen not in loaded:
            raise UnknownModel(f"model '{name}' has no version '{version}'", expected=" or ".join(loaded))
        return Model(name, chosen, loaded[chosen], tuple(loaded), version or None)

    def again(self, model: Model) -> Model:
        """What now answers the request that ``model`` was found for: it may have been replaced meanwhile."""
        return self.model(model.name, model.asked)

    def models(self, name: str, version: str | None = None) -> list[Model]:
        """That version, or all versions that are loaded. Raises :class:`UnknownModel`."""
        model = self.model(name, version)
        return [model] if version else [self.model(name, each) for each in model.versions]

    def loaded(self) -> list[Model]:
        return [each for name, entry in self._entries.items() if entry.batchers for each in self.models(name)]

    def offer(self, model: Model) -> Offer:
        """What ``model`` was made of."""
        return self._entries[model.name].batchers[int(model.version)][0]

    @property
    def ready(self) -> bool:
        """Whether every model of the start was loaded and warmed up, or unloaded on request."""
        return all(entry.ready for entry in self._entries.values() if entry.required and entry.wanted)

    @property
    def names(self) -> list[str]:
        return list(self._entries)

    async def listed(self, ready_only: bool = False) -> list[dict[str, str]]:
        """:meth:`index`, with what lies in the folder since it was last looked at."""
        unseen = {}
        with contextlib.suppress(InputError):
            found = (await self.look()).items()
            unseen = {name: Entry(offers, wanted=False, required=False) for name, offers in found}
        return self.index(ready_only, unseen)

    def index(self, ready_only: bool = False, unseen: Mapping[str, Entry] | None = None) -> list[dict[str, str]]:
        """Name, version, state and reason of each model, as the repository extension has them.

        A model is listed that lies in the folder and is not loaded. The reason of one that is ready says that what it
        would be replaced by cannot be loaded.
        """
        rows = [
            {"name": name, "version": str(version), **entry.row(version)}
            for name, entry in {**(unseen or {}), **self._entries}.items()
            for version in sorted({*entry.offers.versions, *entry.batchers})
        ]
        return [row for row in rows if row["state"] == "READY" or not ready_only]

    async def start(self, *, exit_on_error: bool = True, stops: Callable[[], bool] = lambda: False) -> None:
        """Load the models of the start, one after the other, until ``stops``.

        Raises:
            Exception: why one cannot be loaded; without ``exit_on_error`` it is logged, and the server is ready without
                that one.
        """
        for name, entry in list(self._entries.items()):
            if stops():
                return
            errors = await self.update(name, entry.offers) if entry.wanted else []
            if errors and exit_on_error:
                raise errors[0].__cause__ or errors[0]  # whoever starts the server may know the whole reason
            entry.required &= not errors
            log(errors)
        self._serves = True

    async def load(self, name: str) -> None:
        """Open and warm up a model as the folder has it now; one that is loaded is replaced without dropping a request.

        Raises:
            UnknownModel: there is none of this name.
            Unavailable: it cannot be opened or run. What was loaded stays.
        """
        offers = (await self.look()).get(name)
        if offers is None:
            raise UnknownModel(f"Request for unknown model: '{name}' is not found")
        # Whoever asks may go: what is opened by then is still taken over or closed.
        for error in await asyncio.shield(asyncio.create_task(self.update(name, offers, load=True))):
            raise error

    async def look(self) -> Mapping[str, Offers]:
        """What can be loaded now. Raises :class:`InputError` where the folder cannot be read."""
        return await asyncio.to_thread(self._look)

    async def update(self, name: str, offers: Offers | None, *, load: bool = False) -> list[Unavailable]:
        """Make a model that is wanted what ``offers`` has of it; None: its files are gone.

        ``load`` wants it, and loads anew what has not changed or failed before.

        Returns:
            Why versions could not be loaded. Those that were loaded stay until all can be.
        """
        entry = self._entries.get(name) or Entry(offers or Offers(), self._wants(name), required=False)
        async with entry.lock:
            self._entries[name] = entry
            entry.offers = offers or Offers()
            entry.wanted |= load
            errors = await self._bring(name, entry, load) if entry.wanted else []
            if offers is None:
                del self._entries[name]
        return errors

    async def _bring(self, name: str, entry: Entry, load: bool) -> list[Unavailable]:
        errors, retired = [], []
        for version, offer in entry.offers.versions.items():
            if not load and entry.holds(version, offer):
                entry.failed.pop(version, None)  # what could not be loaded was taken back
            if not load and entry.tried(version, offer):
                continue
            try:
                batcher = await self._started(offer)
            except Exception as error:  # noqa: BLE001 - whatever a backend raises: what was loaded goes on
                entry.failed[version] = offer.stamp
                errors.append(_unavailable(name, version, error))
                continue
            entry.failed.pop(version, None)
            retired += [entry.batchers[version][1]] if version in entry.batchers else []
            entry.batchers[version], entry.unloaded = (offer, batcher), False
            if self._serves:  # what is loaded at the start is shown in a table
                _LOG.info("loaded '%s' version %s", name, version)
        entry.failed = {version: stamp for version, stamp in entry.failed.items() if version in entry.offers.versions}
        if not entry.failed:
            retired += [entry.batchers.pop(version)[1] for version in set(entry.batchers) - set(entry.offers.versions)]
        await self._retire(retired)
        return errors

    async def _started(self, offer: Offer) -> Batcher:
        batcher = Batcher(await asyncio.to_thread(offer.open), offer.batching)
        try:
            await batcher.start()
        except BaseException:
            await batcher.drain(0)
            raise
        return batcher

    async def unload(self, name: str) -> None:
        """Refuse new requests and answer the accepted ones. It stays unloaded until it is asked for."""
        entry = self._entry(name)
        async with entry.lock:
            retired = [batcher for _, batcher in entry.batchers.values()]
            entry.batchers, entry.failed, entry.wanted, entry.unloaded = {}, {}, False, True
            await self._retire(retired)

    async def _retire(self, batchers: Sequence[Batcher]) -> None:
        tasks = [asyncio.create_task(batcher.drain(self._limit)) for batcher in batchers]
        for task in tasks:
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)
        if tasks:
            await asyncio.wait(tasks)  # gather would cancel them with whoever waits here

    async def drain(self, limit: float | None = None) -> bool:
        """Drain all models within ``limit`` seconds (None: the usual ones); whether all requests were answered."""
        seconds = self._limit if limit is None else limit
        drains = (model.batcher.drain(seconds) for model in self.loaded())
        return all(await asyncio.gather(*drains, *self._retiring))


def _unavailable(name: str, version: int, error: Exception) -> Unavailable:
    what = error.headline if isinstance(error, DeployError) else repr(error)
    unavailable = Unavailable(f"model '{name}' version {version} cannot be loaded", details=[what])
    unavailable.__cause__ = error
    return unavailable


def log(errors: Sequence[DeployError]) -> None:
    """For the server's own eyes: details may hold paths."""
    for error in errors:
        _LOG.error("%s", "; ".join([error.headline, *error.details]))
