"""Bytes between the socket and who takes them, in pieces of any size."""

from __future__ import annotations

import socket

import pytest

from crunch_sshd.ssh.buffered_socket import STORAGE, BufferedSocket


def test_early_bytes_come_first() -> None:
    """What was read before belongs in front of what comes."""
    near, far = socket.socketpair()
    with near, far:
        buffered = BufferedSocket(near, b"early ")
        far.sendall(b"late")
        assert buffered.recv(100) == b"early " and buffered.recv(100) == b"late"


def test_many_early_bytes() -> None:
    """However much was read before, it all comes first, and what waits is moved out of the way of what comes."""
    near, far = socket.socketpair()
    with near, far:
        early = bytes(range(251)) * (STORAGE // 200)
        buffered = BufferedSocket(near, early)
        assert buffered.recv(len(early) - 5) == early[:-5]
        far.sendall(b"late")
        assert buffered.fill() == 4
        assert buffered.storage[buffered.start : buffered.end] == early[-5:] + b"late" and not buffered.start


def test_nothing_moves_when_nothing_comes() -> None:
    """What waits is the same after a read that brought nothing, and can still be taken."""
    near, far = socket.socketpair()
    with near, far:
        buffered = BufferedSocket(near, b"early")
        assert buffered.recv(2) == b"ea"
        near.setblocking(False)
        for _ in range(2):
            with pytest.raises(TimeoutError):
                buffered.fill()
        assert buffered.recv(10) == b"rly"


def test_more_than_the_storage_passes() -> None:
    """What waits is moved to the beginning when there is no room behind it, and stays what it was."""
    near, far = socket.socketpair()
    with near, far:
        buffered = BufferedSocket(near)
        block = bytes(range(251)) * 400
        passed, sent = bytearray(), bytearray()
        while len(sent) < 3 * STORAGE:
            far.sendall(block)
            sent += block
            buffered.fill()
            stop = max(buffered.start, buffered.end - 17)
            passed += buffered.storage[buffered.start : stop]
            buffered.start = stop
        while len(passed) < len(sent):
            passed += buffered.recv(4096)
        assert passed == sent


def test_end_and_nothing_yet() -> None:
    """No data within the interval is a TimeoutError; the far end's close is nothing more to read."""
    near, far = socket.socketpair()
    with near:
        buffered = BufferedSocket(near)
        near.setblocking(False)
        with pytest.raises(TimeoutError):
            buffered.fill()
        far.close()
        assert buffered.fill() == 0
