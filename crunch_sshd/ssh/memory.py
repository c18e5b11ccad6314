"""Memory for many connections, most of them idle: taken where it is used, and given back when they are gone."""

from __future__ import annotations

import ctypes
import gc
import mmap
from collections.abc import Iterator


def untouched(size: int) -> memoryview:
    """Return a buffer of ``size`` bytes that takes memory only where used; a bytearray would be filled with zeros.

    One of less than a page is a bytearray. Raises OSError where the system gives no memory.
    """
    return memoryview(mmap.mmap(-1, size) if size >= mmap.PAGESIZE else bytearray(size))


class Room:
    """Memory that data is read into again and again, each piece where it lies in the packet that carries it away.

    ``areas`` is where to read into, one after the other (readv(2)), ``first`` is only the first of them. They have
    ``size`` bytes each. Around each is a gap for the other parts of its packet. Whoever sends the data writes into the
    gaps, over the data sent, and for a moment over as many bytes behind it as a gap has.
    """

    def __init__(self, size: int, gap: int, number: int) -> None:
        self.size, self.gap, self.stride = size, gap, size + gap
        self.whole = untouched(gap + number * self.stride)
        self.areas = [self.whole[at : at + size] for at in range(gap, len(self.whole), self.stride)]
        self.first = self.areas[:1]

    def fill(self, data: bytes | memoryview) -> int:
        """Copy as much of ``data`` to the beginning as there is room for; return how many bytes."""
        size = min(len(data), self.size * len(self.areas))
        view = memoryview(data)
        for start in range(0, size, self.size):
            piece = view[start : start + self.size]
            self.areas[start // self.size][: len(piece)] = piece
        return size

    def piece(self, start: int, stop: int) -> memoryview:
        """Return the data from ``start`` on, until ``stop`` or its area's end."""
        begin = start % self.size
        return self.areas[start // self.size][begin : begin + stop - start]

    def pieces(self, size: int) -> Iterator[memoryview]:
        """Yield the first ``size`` bytes of data."""
        return (self.piece(start, size) for start in range(0, size, self.size))

    def behind(self, stop: int) -> memoryview:
        """Return the bytes behind ``stop`` that are written over for a moment when the data before it is sent."""
        at = self.gap + stop // self.size * self.stride + stop % self.size
        return self.whole[at : at + self.gap]


def give_back() -> None:
    """Return free memory to the system (malloc_trim(3)); do nothing if the C library lacks that call.

    The library keeps freed memory for every thread that ever ran: tens of megabytes after 50 simultaneous logins.
    """
    gc.collect()  # connections are cycles of objects
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
