"""The state of one model: what the folder has of it, and what of that is loaded."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass, field

from deploy.serving.batcher import Batcher
from deploy.serving.catalogue import Offer, Offers

# The error itself may hold a path: it is the server's to log.
_FAILED, _CHANGED = "it cannot be loaded", "what has changed cannot be loaded"


@dataclass
class Entry:
    """A model's state.

    Attributes:
        offers: what the folder has of it.
        wanted: it is to be loaded, and kept as the folder has it.
        required: the server is not ready without it.
        failed: version → the stamp of what could not be loaded, and is not tried again until it changes.
        unloaded: on request.
    """

    offers: Offers
    wanted: bool
    required: bool
    batchers: dict[int, tuple[Offer, Batcher]] = field(default_factory=dict)
    failed: dict[int, Hashable] = field(default_factory=dict)
    unloaded: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def ready(self) -> bool:
        return bool(self.batchers) and all(batcher.ready for _, batcher in self.batchers.values())

    def holds(self, version: int, offer: Offer) -> bool:
        """Whether just this is loaded."""
        return version in self.batchers and self.batchers[version][0].stamp == offer.stamp

    def tried(self, version: int, offer: Offer) -> bool:
        """Whether just this is loaded, or could not be."""
        failed = version in self.failed and self.failed[version] == offer.stamp
        return failed or self.holds(version, offer)

    def row(self, version: int) -> dict[str, str]:
        """State and reason of a version."""
        if version in self.batchers and self.batchers[version][1].ready:
            return {"state": "READY", "reason": _CHANGED if self.failed else ""}
        if version in self.failed:
            return {"state": "UNAVAILABLE", "reason": _FAILED}
        waiting = "loading" if self.wanted else "not loaded"
        return {"state": "UNAVAILABLE", "reason": "unloaded" if self.unloaded else waiting}
