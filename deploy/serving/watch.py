"""Hot reload: what changes in the folder reaches the repository, while it serves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Hashable, Mapping

from deploy.errors import InputError
from deploy.serving.catalogue import Offers
from deploy.serving.repository import Repository, log


class Watcher:
    """Looks at the folder every ``seconds`` (None: only when told).

    Files that are being copied are not picked up: a model is taken as it is when two looks in turn saw the same sizes
    and times.
    """

    def __init__(self, repository: Repository, seconds: float | None = None) -> None:
        self._repository, self._seconds = repository, seconds
        self._told = asyncio.Event()
        self._seen: Mapping[str, Hashable] | None = None
        self._error = ""

    def tell(self) -> None:
        """Look now and take what is there: whoever says so (SIGHUP) has finished copying."""
        self._told.set()

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._told.wait(), self._seconds)
            told = self._told.is_set()
            self._told.clear()
            await self.look(told)

    async def look(self, told: bool = False) -> None:
        """One look. A folder that cannot be read changes nothing, and is said once."""
        try:
            found = await self._repository.look()
        except InputError as error:
            if error.headline != self._error:
                log([error])
            self._error = error.headline
            return
        self._error = ""
        seen, self._seen = self._seen, {name: offers.stamp for name, offers in found.items()}
        names = {*found, *self._repository.names}
        steady = [name for name in names if told or (seen is not None and seen.get(name) == self._seen.get(name))]
        await asyncio.gather(*(self._update(name, found.get(name)) for name in sorted(steady)))

    async def _update(self, name: str, offers: Offers | None) -> None:
        log(await self._repository.update(name, offers))
