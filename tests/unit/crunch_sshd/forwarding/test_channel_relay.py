"""A socket as the place where a channel's data goes."""

from __future__ import annotations

import os
import socket
import threading
from typing import Any, cast

import pytest
from paramiko.message import Message

from arv_ssh.errors import Unavailable
from crunch_sshd.forwarding.channel_relay import ChannelRelay, Relays, SocketSink
from crunch_sshd.ssh import descriptors
from crunch_sshd.ssh.memory import Room
from tests.timing import DEADLINE, wait_for


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
        self.received = 0
        self.sent = bytearray()
        self.ends: list[str] = []

    def room(self, packets: int) -> Room:
        return Room(100, 0, packets)

    def send_room(self, room: Room, size: int) -> None:
        self.sent += b"".join(room.pieces(size))
        room.whole[:] = bytes(len(room.whole))

    def consumed(self, size: int) -> None:
        pass

    def stop_data(self) -> None:
        self.ends.append("stop")

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


def test_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are places while there are descriptors beside the reserve; one keeps its own until it is given back."""
    before = os.listdir("/proc/self/fd")
    relays = Relays()
    relays.reserve()
    with monkeypatch.context() as patched:
        patched.setattr(descriptors, "RESERVE", 1 << 40)
        with pytest.raises(Unavailable, match=r"no room for another connection \(Too many open"):
            relays.reserve()
    assert len(os.listdir("/proc/self/fd")) == len(before) + 1
    relays.release()
    relays.close()
    with pytest.raises(Unavailable, match="the connection is closed"):
        relays.reserve()
    assert os.listdir("/proc/self/fd") == before


def test_no_memory_for_another() -> None:
    """A gateway without memory has no place."""

    def check() -> None:
        raise Unavailable("no memory")

    with pytest.raises(Unavailable, match="no memory"):
        Relays(check).reserve()


def test_client_that_reads_no_more() -> None:
    """After eow@openssh.com what the socket's far end sends is not sent on, and the other direction continues."""
    near, far = socket.socketpair()
    channel = Channel()
    relay = ChannelRelay(cast(Any, channel), near, lambda relay: None)
    thread = threading.Thread(target=relay.run)
    thread.start()
    assert not relay.request("nonsense", Message())
    assert relay.request("eow@openssh.com", Message())
    wait_for(lambda: channel.ends == ["stop", "eof"], "the direction's end")
    relay.data_received(b"still")
    assert far.recv(10) == b"still"
    relay.eof_received()
    thread.join(DEADLINE)
    assert channel.ends == ["stop", "eof", "close"]
    far.close()
