"""How glibc's malloc gives memory back to the system."""

from __future__ import annotations

import ctypes

# malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT = 64 << 20
_MAPPED = 32 << 20  # the most that mallopt takes on 64 bits


def keep_freed_memory() -> bool:
    """Let malloc keep up to 64 MiB of freed memory; whether that could be set (glibc has it, musl and others do not).

    By default a buffer of a request's size goes back to the system when it is freed, and the next one's pages are
    mapped and zeroed again, one fault each: for bodies of 600 KB that is most of what receiving them costs.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another libc; on Windows, CDLL takes no None
        return False
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    return bool(mallopt(_M_MMAP_THRESHOLD, _MAPPED) and mallopt(_M_TRIM_THRESHOLD, _KEPT))
