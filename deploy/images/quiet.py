"""Keep Pillow's warnings from the user: what matters about a file is in the error that decoding raises."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator

_lock = threading.Lock()
_mute = contextlib.ExitStack()
_inside = 0


@contextlib.contextmanager
def pillow_quiet() -> Iterator[None]:
    """Ignore warnings raised inside Pillow while any thread is in here."""
    # warnings.catch_warnings() swaps a list of the whole process: only the first thread in and the last one out may
    # touch it, or threads that overlap would put each other's filters back.
    global _inside
    with _lock:
        _inside += 1
        if _inside == 1:
            _mute.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _mute.close()
