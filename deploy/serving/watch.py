"""Hot reload: what changes in the folder reaches the repository, while it serves."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

from deploy.errors import InputError
from deploy.serving.catalogue import Offers
from deploy.serving.repository import Repository, log


@dataclass(frozen=True)
class Reload:
    """When the folder of the models is looked at.

    Attributes:
        seconds: between two looks; None: only at SIGHUP.
        exit_on_error: a model that cannot be loaded at the start ends it.
    """

    seconds: float | None = None
    exit_on_error: bool = True


class Hangups:
    """While entered: SIGHUP, on systems that have it, calls ``reload``; or ``closed``, where it says that the terminal
    from which the server was started is gone."""

    def __init__(self, reload: Callable[[], None], closed: Callable[[], None]) -> None:
        self._reload, self._closed, self._terminal = reload, closed, _in_terminal()
        self._signal = getattr(signal, "SIGHUP", None)

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            self._signal = None
        if self._signal is not None:
            asyncio.get_running_loop().add_signal_handler(self._signal, self._told)

    def __exit__(self, *_: object) -> None:
        if self._signal is not None:
            asyncio.get_running_loop().remove_signal_handler(self._signal)

    def _told(self) -> None:
        (self._closed if self._terminal and not _in_terminal() else self._reload)()


def _in_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


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
