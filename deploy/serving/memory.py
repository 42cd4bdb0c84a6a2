"""How glibc's malloc gives memory back to the system."""

from __future__ import annotations

import ctypes

# malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_KEPT = 64 << 20
_ARENAS = 4
_MAPPED = 32 << 20  # the most that mallopt takes on 64 bits


def keep_freed_memory() -> bool:
    """Let malloc keep freed memory; whether that could be set (glibc has it, musl and others do not).

    It keeps up to 64 MiB in each of its arenas, of which threads then share four: by default each thread may have one.
    By default, too, a buffer of a request's size goes back to the system when it is freed, and the next one's pages are
    mapped and zeroed again, one fault each: for bodies of 600 KB that is most of what receiving them costs.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another libc; on Windows, CDLL takes no None
        return False
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    options = ((_M_MMAP_THRESHOLD, _MAPPED), (_M_TRIM_THRESHOLD, _KEPT), (_M_ARENA_MAX, _ARENAS))
    return all(mallopt(option, value) for option, value in options)
