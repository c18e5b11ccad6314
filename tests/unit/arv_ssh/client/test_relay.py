"""The relay of ssh-proxy, as the process that ssh starts: bytes both ways, and ends both ways."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from pathlib import Path

import pytest

from tests.unit.conftest import Run, Start
from tests.unit.controller_double import UNIT, Peer
from tests.unit.ssh_proxy import KEY_HEADER, UUID, echo, finish


def test_bytes_both_ways_and_the_glued_ones(double: Start, client: Run) -> None:
    """What is glued to the head comes first, then 20 MB come back as they went."""
    server = double(echo)
    data = os.urandom(1 << 20) * 20
    process = client("ssh-proxy", UUID, env=server.environment())
    out, err = finish(process, data)
    assert (process.returncode, err) == (0, "")
    assert out[:15] == b"SSH-2.0-glued\r\n"
    assert hashlib.sha256(out[15:]).digest() == hashlib.sha256(data).digest()


def test_stdin_ends_first(double: Start, client: Run) -> None:
    """EOF on stdin ends that direction only: what the far end says after it arrives."""

    def script(peer: Peer) -> None:
        peer.switch(KEY_HEADER)
        sent = peer.recv_all()
        for _ in range(100):
            peer.send(b"late" * 1000 + sent)
        peer.end()

    process = client("ssh-proxy", UUID, env=double(script).environment())
    out, err = finish(process, b"!")
    assert (process.returncode, err) == (0, "")
    assert out == (b"late" * 1000 + b"!") * 100


@pytest.mark.parametrize("kind", ["pipes", "one socket"])
def test_far_end_ends_first(double: Start, client: Run, kind: str) -> None:
    """EOF of the far end ends stdout only: what stdin brings after it is passed on, on pipes and on a socket."""
    received = []

    def script(peer: Peer) -> None:
        peer.switch(KEY_HEADER, glued=b"bye")
        peer.end()
        received.append(peer.recv_all())

    server = double(script)
    if kind == "pipes":
        process = client("ssh-proxy", UUID, env=server.environment())
        assert process.stdin and process.stdout
        assert process.stdout.read() == b"bye"  # up to EOF, with stdin still open
        process.stdin.write(b"afterwards")
        process.stdin.close()
    else:
        ours, theirs = socket.socketpair()
        with ours:
            ours.settimeout(UNIT)
            with theirs:
                process = client("ssh-proxy", UUID, env=server.environment(), stdin=theirs, stdout=theirs)
            assert b"".join(iter(lambda: ours.recv(100), b"")) == b"bye"
            ours.sendall(b"afterwards")
            ours.shutdown(socket.SHUT_WR)
            process.wait(UNIT)
    assert process.wait(UNIT) == 0
    server.close_threads()
    assert received == [b"afterwards"]


def test_slow_reader_stops_the_far_end(double: Start, client: Run) -> None:
    """While nobody reads stdout, the far end is held back instead of being buffered, and stdin still flows."""
    stuck, heard = threading.Event(), threading.Event()
    total = 64 << 20

    def script(peer: Peer) -> None:
        peer.switch(KEY_HEADER)
        peer.sock.settimeout(0.5)
        peer.engine.write(bytes(total))
        left = memoryview(peer.engine.outgoing())
        while left:
            try:
                left = left[peer.sock.send(left) :]
            except TimeoutError:
                stuck.set()
                peer.sock.settimeout(UNIT)
                if not heard.is_set():
                    assert peer.recv() == b"still here"
                    heard.set()
        peer.end()
        peer.recv_all()  # to close with unread bytes is a reset, which would lose ours

    process = client("ssh-proxy", UUID, env=double(script).environment())
    assert process.stdin and process.stdout
    assert stuck.wait(UNIT)
    process.stdin.write(b"still here")
    process.stdin.flush()
    assert heard.wait(UNIT)
    memory = Path(f"/proc/{process.pid}/status").read_text().split("VmRSS:")[1].split()[0]
    assert int(memory) < 60_000  # kB
    assert len(finish(process)[0]) == total


def test_waiting_costs_nothing(double: Start, client: Run) -> None:
    """With one direction ended and the other idle, the loop sleeps: no spinning at EOF."""
    release = threading.Event()

    def script(peer: Peer) -> None:
        peer.switch(KEY_HEADER, glued=b"x")
        peer.recv_all()
        release.wait(UNIT)
        peer.end()

    process = client("ssh-proxy", UUID, env=double(script).environment())
    assert process.stdin and process.stdout
    process.stdin.close()
    process.stdin = None
    assert process.stdout.read(1) == b"x"

    def ticks() -> int:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    before, end = ticks(), time.monotonic() + 1.0
    while time.monotonic() < end:
        release.wait(0.2)
    assert ticks() - before < 10  # of 100 a second
    release.set()
    assert process.wait(UNIT) == 0


def test_ends_when_ssh_dies(double: Start, client: Run) -> None:
    """When both pipes hang up, ssh-proxy ends, while the far end says nothing and keeps the line."""
    ended = threading.Event()

    def script(peer: Peer) -> None:
        peer.switch(KEY_HEADER, glued=b"x")
        ended.wait(2 * UNIT)  # longer than the test waits

    process = client("ssh-proxy", UUID, env=double(script).environment())
    assert process.stdin and process.stdout
    assert process.stdout.read(1) == b"x"
    process.stdout.close()
    process.stdin.close()
    assert process.wait(UNIT) == 0
    ended.set()


def test_ends_when_ssh_dies_with_the_far_end_stuck(double: Start, client: Run) -> None:
    """The same while the far end reads nothing and stdin is full."""
    ended = threading.Event()

    def script(peer: Peer) -> None:
        peer.switch(KEY_HEADER, glued=b"x")
        ended.wait(2 * UNIT)  # longer than the test waits

    process = client("ssh-proxy", UUID, env=double(script).environment())
    assert process.stdin and process.stdout
    assert process.stdout.read(1) == b"x"
    os.set_blocking(process.stdin.fileno(), False)
    full_since = time.monotonic()
    while time.monotonic() - full_since < 0.5:
        try:
            os.write(process.stdin.fileno(), bytes(65536))
            full_since = time.monotonic()
        except BlockingIOError:
            ended.wait(0.05)
    process.stdout.close()
    process.stdin.close()
    process.wait(UNIT)
    ended.set()


def test_stdout_closed_early(double: Start, client: Run) -> None:
    """With nobody reading stdout, what comes down is dropped and stdin is passed on to its end."""
    received = []

    def script(peer: Peer) -> None:
        peer.switch(KEY_HEADER)
        peer.send(bytes(1 << 20))
        received.append(peer.recv_all())

    server = double(script)
    process = client("ssh-proxy", UUID, env=server.environment())
    assert process.stdin and process.stdout
    process.stdin.write(b"first ")
    process.stdin.flush()
    process.stdout.read(1)
    process.stdout.close()
    process.stdin.write(b"last")
    process.stdin.close()
    process.wait(UNIT)
    server.close_threads()
    assert received == [b"first last"]


def test_cut_connection(double: Start, client: Run) -> None:
    """A stream that is cut, not ended, is told as such."""

    def script(peer: Peer) -> None:
        peer.switch(KEY_HEADER, glued=b"x")
        peer.sock.shutdown(socket.SHUT_RDWR)

    server = double(script)
    process = client("ssh-proxy", UUID, env=server.environment())
    assert process.stdout
    process.stdout.read()
    assert process.wait(UNIT) == 255
    assert process.stderr
    assert process.stderr.read().decode() == (
        f"arvados-client: the connection to {server.settings().authority} was cut; reconnect\n"
    )
