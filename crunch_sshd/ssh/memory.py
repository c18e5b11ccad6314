"""Memory for many connections, most of them idle: taken where it is used, and given back when they are gone."""

from __future__ import annotations

import ctypes
import gc
import mmap


def untouched(size: int) -> memoryview:
    """Return a buffer of ``size`` bytes that takes memory only where it is used; a bytearray is filled with zeros."""
    return memoryview(mmap.mmap(-1, size))


def give_back() -> None:
    """Return free memory to the system (malloc_trim(3)); with a C library that has no such call, nothing.

    The library keeps what was freed, for each of the threads that there were once: after 50 logins at the same time,
    tens of megabytes.
    """
    gc.collect()  # connections are cycles of objects
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
