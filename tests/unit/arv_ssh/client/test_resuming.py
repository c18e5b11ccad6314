"""ssh-proxy's relay of a resumable session, with a far end that sends while nobody reads, and cuts."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from typing import Any, cast

import pytest

from arv_ssh.client import resuming
from arv_ssh.client.controller import AcceptedUpgrade
from arv_ssh.client.redial import Redial
from arv_ssh.client.resuming import ResumingRelay
from arv_ssh.client.transport import Connection
from arv_ssh.resume.core import WINDOW, ResumableStream
from crunch_sshd.ssh.link import PlainEngine
from tests.timing import DEADLINE, wait_for


class Session:
    """An accepted session on a plain socket."""

    first = b""

    def __init__(self, sock: socket.socket) -> None:
        self.engine = PlainEngine()
        self.connection = Connection(sock, cast(Any, self.engine), "the far end")


class Far:
    """The far end: its stream, its socket, and the way back to it."""

    def __init__(self) -> None:
        self.stream = ResumableStream()
        self.got = bytearray()
        self.resumed = 0
        self.firsts: list[bytes] = []
        """What comes with the answers to the next requests to go on."""
        self.session = self._connect()

    def _connect(self) -> AcceptedUpgrade:
        near, self.sock = socket.socketpair()
        self.sock.setblocking(False)
        self.out = bytearray()
        return cast(AcceptedUpgrade, Session(near))

    def resume(self, received: int, cut: Exception) -> tuple[AcceptedUpgrade, int]:
        """Take the place of :class:`Redial`."""
        have = self.stream.received
        self.sock.close()
        session = self._connect()
        self.out += b"".join(self.stream.resume(received))
        if self.firsts:
            cast(Session, session).first = self.firsts.pop(0)
        self.resumed += 1
        return session, have

    def leave(self, received: int) -> AcceptedUpgrade:
        """Take the place of :class:`Redial`."""
        return self._connect()

    def move(self) -> bool:
        """Send what waits, and read what has come; never true, so that it can stand in a condition."""
        try:
            if self.out:
                del self.out[: self.sock.send(self.out)]
        except BlockingIOError:
            pass
        try:
            arrived = bytearray(self.sock.recv(1 << 20))
        except OSError:
            time.sleep(0.001)
            return False

        def source(room: memoryview) -> int:
            size = min(len(room), len(arrived))
            room[:size] = arrived[:size]
            del arrived[:size]
            return size

        room = memoryview(bytearray(1 << 16))
        while arrived and not self.stream.peer_left:
            self.got += room[: self.stream.take(source, room)]
        self.out += self.stream.answer(time.monotonic())
        return False


class Relayed:
    """A relay in a thread, with the other ends of its pipes."""

    def __init__(self, far: Far | None = None) -> None:
        self.far = far or Far()
        stdin, self.stdin = os.pipe()
        self.stdout, stdout = os.pipe()
        self.relay = ResumingRelay(self.far.session, stdin, stdout, None, cast(Redial, self.far))
        self.thread = threading.Thread(target=self._run, args=(stdin, stdout))
        self.thread.start()

    def _run(self, stdin: int, stdout: int) -> None:
        try:
            self.relay.run()
        finally:
            os.close(stdin)
            os.close(stdout)

    def close(self) -> None:
        """End it as ssh does."""
        os.close(self.stdin)
        os.close(self.stdout)
        end = time.monotonic() + DEADLINE
        while self.thread.is_alive() and time.monotonic() < end:
            self.far.move()
            if self.far.stream.peer_left:
                self.far.sock.close()
                self.thread.join(DEADLINE)
        assert self.far.stream.peer_left


@pytest.fixture
def relayed() -> Relayed:
    return Relayed()


def test_a_reader_that_stops(relayed: Relayed) -> None:
    """What comes while stdout takes nothing is kept in its order, up to a window, and the far end is told of none."""
    far, meant = relayed.far, hashlib.sha256()
    for number in range(40):
        content = bytes([number]) * 150_000
        meant.update(content)
        far.out += far.stream.data([content])
    wait_for(lambda: far.move() or not far.out, "the relay to read everything")
    wait_for(lambda: far.move() or relayed.relay._waiting_size > 4_000_000, "all to be kept")
    assert far.stream.kept > WINDOW // 2
    got = hashlib.sha256()
    for _ in range(40):
        left = 150_000
        while left:
            piece = os.read(relayed.stdout, left)
            got.update(piece)
            left -= len(piece)
    assert got.digest() == meant.digest()
    wait_for(lambda: far.move() or far.stream.kept < WINDOW // 4, "it to be confirmed")
    relayed.close()


def test_a_cut_amid_input(relayed: Relayed) -> None:
    """Input is read on after a cut, and comes whole."""
    content = os.urandom(3_000_000)

    def feed() -> None:
        view = memoryview(content)
        while view:
            view = view[os.write(relayed.stdin, view) :]

    feeder = threading.Thread(target=feed)
    feeder.start()
    cuts = 0
    while len(relayed.far.got) < len(content):
        relayed.far.move()
        if cuts < 5 and len(relayed.far.got) > cuts * 500_000:
            cuts += 1
            relayed.far.sock.close()
            wait_for(lambda: relayed.far.sock.fileno() >= 0, "the relay to dial again")
    feeder.join(DEADLINE)
    assert relayed.far.got == content
    relayed.close()


def test_damage_right_after_the_answer(relayed: Relayed) -> None:
    """Connections that begin with nonsense, or break the protocol, are replaced, however many they are."""
    far = relayed.far
    frame = bytes(far.stream.data([b"whole"]))
    far.firsts += [frame[:6] + b"\xff" * 12] * 2000
    far.sock.close()
    wait_for(lambda: far.resumed == 2001, "the relay to dial again and again")
    wait_for(lambda: far.move() or not far.out)
    assert os.read(relayed.stdout, 100) == b"whole"
    relayed.close()


def test_damage_at_the_beginning() -> None:
    """So it is with the first connection of all."""
    far = Far()
    cast(Session, far.session).first = b"\xff" * 12
    first = far.sock
    relayed = Relayed(far)
    wait_for(lambda: far.resumed, "another connection")
    first.close()
    far.out += far.stream.data([b"whole"])
    wait_for(lambda: far.move() or not far.out)
    assert os.read(relayed.stdout, 100) == b"whole"
    relayed.close()


def test_a_goodbye_behind_much_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who leaves while the connection takes no more says goodbye over another one."""
    monkeypatch.setattr(resuming, "LINGER", 0.1)
    relayed = Relayed()
    first = relayed.far.sock
    os.close(relayed.stdin)
    os.close(relayed.stdout)
    wait_for(lambda: relayed.far.sock is not first, "another connection")
    wait_for(lambda: relayed.far.move() or relayed.far.stream.peer_left, "the goodbye")
    relayed.far.sock.close()
    first.close()
    relayed.thread.join(DEADLINE)
    assert not relayed.thread.is_alive()


def test_what_came_with_the_answer() -> None:
    """The first bytes of a session may have come with the answer; the rest follows them."""
    far = Far()
    session = cast(Session, far.session)
    frame = bytes(far.stream.data([b"early"]))
    session.first = frame[:6]
    session.engine.receive(frame[6:])
    relayed = Relayed(far)
    assert os.read(relayed.stdout, 100) == b"early"
    relayed.close()
