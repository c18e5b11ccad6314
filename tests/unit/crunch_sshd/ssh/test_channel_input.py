"""The order of a channel's data on its way to a process that lags, and the window that is given back for it."""

from __future__ import annotations

import threading
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crunch_sshd.ssh.channel_input import ChannelInput, Waiting
from crunch_sshd.ssh.limits import SMALL_PIECE
from tests.unit.crunch_sshd.double import DEADLINE


class Channel:
    """Counts what the client may send again."""

    def __init__(self) -> None:
        self.total = 0
        self.closed = False
        self.changed = threading.Condition()

    def close(self) -> None:
        self.closed = True

    def consumed(self, size: int) -> None:
        with self.changed:
            self.total += size
            self.changed.notify_all()

    def until(self, size: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.total == size, DEADLINE), self.total


class Process:
    """Takes ``room`` bytes; whether it is writable is told only when the test lets it be known."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.taken = bytearray()
        self.writable = threading.Event()
        self.closed = threading.Event()
        self.writers: set[str] = set()

    def write(self, data: bytes | memoryview) -> int:
        if self.room < 0:
            raise BrokenPipeError
        size = min(self.room, len(data))
        self.taken += data[:size]
        self.room -= size
        if size:
            self.writers.add(threading.current_thread().name)
        return size

    def wait_writable(self, timeout: float) -> bool:
        return self.writable.wait(timeout)

    def close_stdin(self) -> None:
        self.closed.set()


def fresh(room: int) -> tuple[ChannelInput, Any, Process]:
    channel, process = Channel(), Process(room)
    stdin: Any = ChannelInput(channel)  # type: ignore[arg-type]
    stdin.attach(process)
    return stdin, channel, process


def test_direct() -> None:
    """A process that takes everything is written to by the caller, and the window is given back at once."""
    stdin, channel, process = fresh(100)
    stdin.data_received(b"abc")
    assert (bytes(process.taken), channel.total) == (b"abc", 3)
    assert process.writers == {threading.current_thread().name}
    stdin.eof_received()
    assert process.closed.is_set()


def test_no_overtaking() -> None:
    """What comes while earlier bytes wait is queued behind them, even if the process has room by then."""
    stdin, channel, process = fresh(2)
    stdin.data_received(b"first")
    assert (bytes(process.taken), channel.total) == (b"fi", 2)
    process.room = 100
    stdin.data_received(b"second")
    stdin.eof_received()
    assert process.taken == b"fi" and not process.closed.is_set()
    process.writable.set()
    assert process.closed.wait(DEADLINE)
    assert process.taken == b"firstsecond"
    channel.until(11)


def test_before_the_process_is_there() -> None:
    """Bytes that come first wait without giving the window back, and go out in order."""
    channel, process = Channel(), Process(100)
    stdin = ChannelInput(channel)  # type: ignore[arg-type]
    stdin.data_received(b"early ")
    stdin.data_received(b"bird")
    stdin.eof_received()
    assert channel.total == 0
    process.writable.set()
    stdin.attach(process)
    assert process.closed.wait(DEADLINE)
    assert process.taken == b"early bird"
    channel.until(10)


@pytest.mark.parametrize("waiting", [True, False])
def test_process_that_reads_no_more(waiting: bool) -> None:
    """Bytes for a process that reads no more are dropped and the window given back, so that a client can end."""
    stdin, channel, process = fresh(1 if waiting else -1)
    stdin.data_received(b"abc")
    process.room = -1
    process.writable.set()
    channel.until(3)
    stdin.data_received(b"more")
    channel.until(7)


def test_close_forgets() -> None:
    """After the end nothing is delivered any more, and the thread that waited for room ends."""
    stdin, channel, process = fresh(0)
    stdin.data_received(b"abc")
    stdin.close()
    process.room = 100
    process.writable.set()
    stdin.data_received(b"d")
    assert channel.total >= 1
    for thread in threading.enumerate():
        if thread.name == "stdin":
            thread.join(DEADLINE)
    assert process.taken == b""


def test_small_pieces_are_kept_as_one() -> None:
    """What waits takes about as much memory as its bytes, however small the packets were that it came in."""
    stdin, channel, process = fresh(0)
    stdin.data_received(b"x")
    tracemalloc.start()
    try:
        for _ in range(20_000):
            stdin.data_received(memoryview(b"head y tail")[5:6])
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 60_000
    process.room = 100_000
    process.writable.set()
    channel.until(20_001)
    assert process.taken == b"x" + b"y" * 20_000


@given(st.lists(st.integers(0, 3 * SMALL_PIECE), max_size=12), st.lists(st.integers(0, 5000), min_size=1))
def test_waiting_keeps_the_order(sizes: list[int], takes: list[int]) -> None:
    """Whatever the sizes of what comes and of what is taken, all of it leaves in its order."""
    sent, taken, waiting = bytearray(), bytearray(), Waiting()
    takes.append(SMALL_PIECE)
    for number, size in enumerate(sizes):
        data = bytes([number]) * size
        sent += data
        if data:
            waiting.append(data)
        if waiting.pieces:
            _deliver(waiting, taken, takes[number % len(takes)])
    while waiting.pieces:
        _deliver(waiting, taken, SMALL_PIECE)
    assert taken == sent


def _deliver(waiting: Waiting, taken: bytearray, room: int) -> None:
    def write(data: memoryview) -> int:
        taken.extend(data[:room])
        return min(room, len(data))

    waiting.deliver(write)


def test_no_thread_for_a_slow_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the host has no room for a thread the channel is closed, and the program sees no early end of file."""
    monkeypatch.setattr(threading.Thread, "start", lambda self: (_ for _ in ()).throw(RuntimeError("no thread")))
    stdin, channel, process = fresh(2)
    stdin.data_received(b"abc")
    stdin.eof_received()
    assert channel.closed and not process.closed.is_set()
