"""What a channel sends for itself: the order of requests, the end, and nothing once it is closed."""

from __future__ import annotations

import threading

import pytest

from tests.timing import wait_for
from tests.unit.crunch_sshd.double import DEADLINE, Link, MemoryRuntime, read_to_end


def test_data_after_the_close(link: Link, runtime: MemoryRuntime) -> None:
    """Who writes to a channel that the client has closed hears so."""
    channel = link.open("cat")
    process = runtime.next()
    (server,) = link.transport._channels.values()
    channel.close()
    assert process.hung_up.wait(DEADLINE)
    with pytest.raises(OSError, match="closed"):
        server.send_data(b"late")


def test_data_that_nobody_reads(link: Link, runtime: MemoryRuntime) -> None:
    """A full window keeps nobody waiting once the client reads no more; the rest and what comes later are dropped."""
    channel = link.open("cat")
    process = runtime.next()
    (server,) = link.transport._channels.values()

    def stop() -> None:
        wait_for(lambda: server.out_window_size == 0, "the window to be full")
        server.stop_data()

    stopping = threading.Thread(target=stop)
    stopping.start()
    server.send_data(bytes(server.out_window_size + 1))
    server.send_data(b"late")
    stopping.join()
    received = 0
    process.end(3)
    while data := channel.recv(65536):
        received += len(data)
    assert received == channel.in_window_size


def test_memory_that_is_used_again(link: Link, runtime: MemoryRuntime) -> None:
    """What was sent may be overwritten as soon as the call is over."""
    channel = link.open("cat")
    process = runtime.next()
    (server,) = link.transport._channels.values()
    room = server.room()
    expected = bytearray()
    for number in range(20):
        data = bytes([number]) * 100_000
        expected += data
        server.send_room(room, room.fill(data))
    process.end(3)
    assert read_to_end(channel) == (bytes(expected), b"", 3)
