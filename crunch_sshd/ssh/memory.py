"""Memory for many connections, most of them idle: taken where it is used, and given back when they are gone."""

from __future__ import annotations

import ctypes
import gc
import mmap


def untouched(size: int) -> memoryview:
    """Return a buffer of ``size`` bytes that takes memory only where used; a bytearray would be filled with zeros."""
    return memoryview(mmap.mmap(-1, size))


class Room:
    """A buffer that data is read into again and again, and from which it leaves in packets without being copied.

    ``data`` is where to read into. Around it are margins, as a packet's parts before and behind its data need them:
    whoever sends the data writes these, and also over the data that it has sent.
    """

    MARGIN = 64

    def __init__(self, size: int) -> None:
        self.whole = untouched(self.MARGIN + size + self.MARGIN)
        self.data = self.whole[self.MARGIN : self.MARGIN + size]

    def holds(self, data: bytes | memoryview) -> bool:
        """Say whether ``data`` lies in this room."""
        return isinstance(data, memoryview) and data.obj is self.whole.obj


def give_back() -> None:
    """Return free memory to the system (malloc_trim(3)); do nothing if the C library lacks that call.

    The library keeps freed memory for every thread that ever ran: tens of megabytes after 50 simultaneous logins.
    """
    gc.collect()  # connections are cycles of objects
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
