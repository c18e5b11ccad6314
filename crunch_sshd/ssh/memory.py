"""Memory for many connections, most of them idle: taken where it is used, and given back when they are gone."""

from __future__ import annotations

import ctypes
import gc
import mmap


def untouched(size: int) -> memoryview:
    """Return a buffer of ``size`` bytes that takes memory only where used; a bytearray would be filled with zeros."""
    return memoryview(mmap.mmap(-1, size))


def give_back() -> None:
    """Return free memory to the system (malloc_trim(3)); do nothing if the C library lacks that call.

    The library keeps freed memory for every thread that ever ran: tens of megabytes after 50 simultaneous logins.
    """
    gc.collect()  # connections are cycles of objects
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
