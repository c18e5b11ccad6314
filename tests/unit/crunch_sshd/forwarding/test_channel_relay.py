"""A socket as the place where a channel's data goes."""

from __future__ import annotations

import socket
from typing import Any, cast

import pytest

from crunch_sshd.forwarding.channel_relay import ChannelRelay, Relays, SocketSink


def test_sink_that_nobody_reads() -> None:
    """A full socket takes nothing, and says when it may again."""
    near, far = socket.socketpair()
    with far:
        sink = SocketSink(near, lambda: None)
        while sink.write(bytes(65536)):
            pass
        assert not sink.wait_writable(0)
        while sink.wait_writable(0) is False:
            far.recv(65536)
        assert sink.write(b"x") == 1
        sink.close()


def test_sink_whose_far_end_has_gone() -> None:
    """When no more is taken the writer hears so, and so does whoever waits for the end of the input."""
    ended: list[bool] = []
    near, far = socket.socketpair()
    sink = SocketSink(near, lambda: ended.append(True))
    far.close()
    with pytest.raises(BrokenPipeError):
        sink.write(b"x")
    assert ended == [True]
    sink.close()
    assert sink.wait_writable(0), "write says so"
    with pytest.raises(BrokenPipeError):
        sink.write(b"x")


class Channel:
    """Keeps what it should send."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.ends: list[str] = []

    def send_data(self, data: bytes | memoryview) -> None:
        self.sent += data

    def shutdown_write(self) -> None:
        self.ends.append("eof")

    def close(self) -> None:
        self.ends.append("close")


def test_relay() -> None:
    """What the far end sends arrives as it was, though the same memory is read into each time; then both ends come."""
    near, far = socket.socketpair()
    channel = Channel()
    over: list[ChannelRelay] = []
    relay = ChannelRelay(cast(Any, channel), near, over.append)
    data = bytes(range(256)) * 300
    far.sendall(data)
    far.shutdown(socket.SHUT_WR)
    relay.eof_received()
    relay.run()
    assert channel.sent == data and channel.ends == ["eof", "close"]
    assert over == [relay] and far.recv(1) == b""
    far.close()


def test_places() -> None:
    """There are as many places as the limit says; one that is given back can be taken again, until the end."""
    relays = Relays(2)
    assert relays.reserve() and relays.reserve() and not relays.reserve()
    relays.release()
    assert relays.reserve()
    relays.close()
    relays.release()
    assert not relays.reserve()
