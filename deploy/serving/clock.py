"""The event loop's clock, in full."""

from __future__ import annotations

import asyncio
import time


def now() -> float:
    """What the running loop's ``time()`` would be if uvloop's did not count whole milliseconds; for ``call_at`` too."""
    loop = asyncio.get_running_loop()
    return time.monotonic() if type(loop).__module__.startswith("uvloop") else loop.time()
