"""One fuzz target, one input of it, and the bounds that hold for each: time, memory, exceptions.

Owns what counts as a crash. A target's function raises nothing for an input that is handled; what the code under test
may raise by its documentation is swallowed in the target itself, so whatever gets here is a defect.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st

CORPUS = Path(__file__).parent / "corpus"
CPU_SECONDS = 10.0
"""Processor time for one input of at most :data:`MAX_INPUT` bytes. Most take some milliseconds; the slowest, thousands
of brackets for YAML's parser, took 2.5 s on a machine with a load of 20."""
MEMORY = 128 * 1024
"""Kilobytes by which one input may raise the process's peak."""
MAX_INPUT = 4096
"""Bytes of an input that an engine makes; files of the corpus may be longer."""


class TooMuch(AssertionError):
    """An input took more time or memory than any input may."""


@dataclass(frozen=True)
class Target:
    """``run`` takes one input; ``oracle`` says in a sentence what it holds the code to."""

    name: str
    oracle: str
    run: Callable[[bytes], None]


def run_one(target: Target, data: bytes) -> None:
    """Run one input within the bounds."""
    peak, begun = _peak(), time.process_time()
    target.run(data)
    seconds, grown = time.process_time() - begun, _peak() - peak
    if seconds > CPU_SECONDS:
        raise TooMuch(f"{target.name} took {seconds:.1f} s of processor time for {len(data)} bytes")
    if grown > MEMORY:
        raise TooMuch(f"{target.name} took {grown // 1024} MB for {len(data)} bytes")


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def corpus(target: Target) -> dict[str, bytes]:
    """Return the inputs kept for ``target``, by file name; those named crash-… once failed."""
    return {path.name: path.read_bytes() for path in sorted((CORPUS / target.name).iterdir())}


def inputs(target: Target) -> st.SearchStrategy[bytes]:
    """Return inputs as hypothesis makes them: anything, and what is in the corpus with some bytes changed."""
    seeds = [data[:MAX_INPUT] for data in corpus(target).values()]
    return st.one_of(st.binary(max_size=256), _changed(seeds)) if seeds else st.binary(max_size=256)


@st.composite
def _changed(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 8))] = draw(st.one_of(st.binary(max_size=8), st.sampled_from(seeds)))
    return bytes(data)


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    """Yield ``data`` in pieces of ``size`` bytes."""
    for at in range(0, len(data), size):
        yield data[at : at + size]


class Choices:
    """Reads an input as decisions: numbers and strings, zeros and empty ones after its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def byte(self) -> int:
        """Return a number from 0 to 255."""
        return self.take(1)[0] if self else 0

    def number(self) -> int:
        """Return a number of 32 bits."""
        return int.from_bytes(self.take(4), "big")

    def take(self, size: int) -> bytes:
        """Return the next bytes, fewer at the end."""
        self._at += size
        return self._data[self._at - size : self._at]

    def string(self) -> bytes:
        """Return a string of up to 255 bytes."""
        return self.take(self.byte())

    def rest(self) -> bytes:
        """Return all that is left."""
        return self.take(max(0, len(self._data) - self._at))
