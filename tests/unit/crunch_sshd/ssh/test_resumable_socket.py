"""The stream of a session over one link after the other: a peer that speaks the same protocol, and cuts."""

from __future__ import annotations

import hashlib
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from arv_ssh.resume.core import LONGEST_KEPT, WINDOW, PeerError, ResumableStream
from crunch_sshd.ssh.link import Link, PlainEngine
from crunch_sshd.ssh.resumable_socket import PENDING, ResumableSocket
from tests.timing import DEADLINE, wait_for

BLOCK = 64 * 1024


class Far:
    """The other end, which confirms all that it gets, on a link that can be replaced; it never blocks."""

    def __init__(self) -> None:
        self.stream = ResumableStream()
        self.got = bytearray()
        self.out = bytearray()
        self.confirming = True
        self.lost: list[str] = []
        self.socket = ResumableSocket(self._link(), self.lost.append)

    def _link(self) -> Link:
        near, self.sock = socket.socketpair()
        self.sock.setblocking(False)
        return Link(near, PlainEngine())

    def resume(self) -> None:
        """Lose the link, with all that is under way, and go on with a new one."""
        have = self.socket.release()
        self.sock.close()
        self.socket.attach(self._link(), self.stream.received)
        self.out[:] = b"".join(self.stream.resume(have))

    def say(self, *frames: bytes | memoryview) -> None:
        """Send ``frames`` when there is room."""
        self.out += b"".join(frames)
        self.move()

    def move(self, size: int = 1 << 20) -> bool:
        """Send what waits, and read up to ``size`` bytes of frames; say whether anything came."""
        try:
            del self.out[: self.sock.send(self.out) if self.out else 0]
        except BlockingIOError:
            pass
        try:
            arrived = bytearray(self.sock.recv(size))
        except BlockingIOError:
            time.sleep(0.001)
            return False
        if not arrived:
            raise ConnectionResetError

        def source(room: memoryview) -> int:
            taken = min(len(room), len(arrived))
            room[:taken] = arrived[:taken]
            del arrived[:taken]
            return taken

        room = memoryview(bytearray(BLOCK))
        while arrived and not self.stream.peer_left:
            self.got += room[: self.stream.take(source, room)]
        if self.confirming:
            self.out += self.stream.answer(time.monotonic())
        return True

    def read_until(self, ready: Callable[[], object]) -> None:
        """Move bytes until ``ready``."""
        end = time.monotonic() + DEADLINE
        while not ready():
            assert time.monotonic() < end
            self.move()


@pytest.fixture
def far() -> Iterator[Far]:
    made = Far()
    yield made
    made.socket.close()
    made.sock.close()


def read_all(near: ResumableSocket, size: int) -> bytes:
    """Return ``size`` bytes that the near end reads."""
    got = bytearray()
    while len(got) < size:
        try:
            piece = near.recv(BLOCK)
        except TimeoutError:
            continue
        assert piece
        got += piece
    return bytes(got)


def test_both_ways(far: Far) -> None:
    """What is written arrives at the other end, in both directions."""
    assert far.socket.send(b"downwards") == 9
    far.say(far.stream.data([b"upwards"]))
    assert read_all(far.socket, 7) == b"upwards"
    far.read_until(lambda: far.got == b"downwards")


def test_a_lost_link_is_no_end(far: Far) -> None:
    """While there is no link, writing succeeds and reading waits; afterwards all has arrived once."""
    far.socket.send(b"one ")
    far.say(far.stream.data([b"first "])[:-3])
    assert read_all(far.socket, 3) == b"fir"
    far.sock.close()
    with pytest.raises(TimeoutError):
        far.socket.recv(10)
    assert not far.socket.linked and len(far.lost) == 1
    far.socket.send(b"two")
    far.resume()
    far.move()
    assert read_all(far.socket, 3) == b"st "
    far.read_until(lambda: far.got == b"one two")


def test_many_cuts(far: Far) -> None:
    """Ten megabytes each way, cut twenty times at random: exact, in both directions."""
    size = 10 << 20
    down, up = os.urandom(size), os.urandom(size)
    read: list[bytes] = []
    chance = random.Random(17)  # so that a failure can be repeated
    reader = threading.Thread(target=lambda: read.append(read_all(far.socket, size)))
    writer = threading.Thread(target=write_all, args=(far.socket, down))
    reader.start()
    writer.start()
    sent, cuts, end = 0, 0, time.monotonic() + DEADLINE
    while (len(far.got) < size or reader.is_alive()) and time.monotonic() < end:
        if sent < size and far.stream.room > 0 and len(far.out) < BLOCK:
            piece = up[sent : sent + chance.randint(1, 200_000)]
            sent += len(piece)
            far.out += far.stream.data([piece])
        if far.move(chance.randint(1, 300_000)) and cuts < 20 and chance.random() < 0.4:
            cuts += 1
            far.resume()
    reader.join(DEADLINE)
    writer.join(DEADLINE)
    assert cuts == 20
    assert hashlib.sha256(far.got).digest() == hashlib.sha256(down).digest()
    assert hashlib.sha256(read[0]).digest() == hashlib.sha256(up).digest()


def write_all(near: ResumableSocket, data: bytes) -> None:
    for start in range(0, len(data), BLOCK):
        near.send(data[start : start + BLOCK])


def test_a_large_piece_is_kept_in_blocks(far: Far) -> None:
    """What does not fit into one block is sent in equal frames that each do, and arrives whole."""
    data = os.urandom(3 * LONGEST_KEPT + 1)
    far.socket.release()
    assert far.socket.send(memoryview(data)) == len(data)
    kept = list(far.socket._stream._kept)
    assert all(isinstance(frame, memoryview) for frame in kept)
    assert b"".join(frame[4:] for frame in kept) == data
    assert {len(frame) for frame in kept[:-1]} == {4 + -(-len(data) // 4)} and len(kept) == 4


def test_unconfirmed_bytes_are_bounded(far: Far) -> None:
    """A writer waits once the other end has much to confirm, and goes on when that is done; nobody else reads."""
    far.confirming = False
    writer = threading.Thread(target=write_all, args=(far.socket, bytes(2 * WINDOW)))
    writer.start()
    far.read_until(lambda: len(far.got) >= WINDOW)
    assert far.socket.kept <= WINDOW + BLOCK
    far.confirming = True
    far.say(far.stream.answer(time.monotonic()))
    far.read_until(lambda: len(far.got) == 2 * WINDOW)
    writer.join(DEADLINE)
    assert not writer.is_alive()


def test_what_a_waiting_writer_reads_is_not_lost(far: Far) -> None:
    """Data that comes while a writer waits for confirmations goes to the reader."""
    far.confirming = False
    writer = threading.Thread(target=write_all, args=(far.socket, bytes(WINDOW + BLOCK)))
    writer.start()
    far.say(far.stream.data([b"in between"]))
    far.read_until(lambda: len(far.got) >= WINDOW)
    wait_for(lambda: len(far.socket._pending) == 10, "the writer to read")
    assert read_all(far.socket, 10) == b"in between"
    far.say(far.stream.answer(time.monotonic()))
    writer.join(DEADLINE)
    assert not writer.is_alive()


def test_a_waiting_writer_gives_signs_of_life(far: Far) -> None:
    """Who asks whether we are there is answered also while a writer waits for room."""
    far.confirming = False
    writer = threading.Thread(target=write_all, args=(far.socket, bytes(2 * WINDOW)))
    writer.start()
    far.read_until(lambda: len(far.got) >= WINDOW)
    told = far.stream.confirmed
    far.say(far.stream.data([b"five!"]), struct.pack(">IQ", 2 << 24 | 8, 0))
    far.read_until(lambda: far.stream.confirmed > told)
    far.confirming = True
    far.say(far.stream.answer(time.monotonic()))
    far.read_until(lambda: len(far.got) == 2 * WINDOW)
    writer.join(DEADLINE)
    assert not writer.is_alive()


def test_confirmations_behind_much_data(far: Far) -> None:
    """While a writer waits, the other end may send a window, but no more, before the confirmation it waits for."""
    far.confirming = False
    writer = threading.Thread(target=write_all, args=(far.socket, bytes(2 * WINDOW)))
    writer.start()
    far.read_until(lambda: len(far.got) >= WINDOW)
    while far.stream.room > 0 and far.stream.sent < 3 * WINDOW:
        far.say(far.stream.data([bytes(BLOCK)]))
        far.read_until(lambda: len(far.out) < WINDOW)
    far.confirming = True
    far.say(far.stream.answer(time.monotonic()))
    far.read_until(lambda: len(far.got) == 2 * WINDOW)
    writer.join(DEADLINE)
    assert len(far.socket._pending) <= PENDING
    assert len(read_all(far.socket, far.stream.sent)) == far.stream.sent
    far.read_until(lambda: far.stream.kept < WINDOW // 2)


def test_an_end_ends_a_wait(far: Far) -> None:
    """Who waits for room does so no more after the other end's END: nobody reads what comes after that."""
    far.confirming = False
    ends: list[str] = []

    def write() -> None:
        try:
            write_all(far.socket, bytes(2 * WINDOW))
        except OSError as error:
            ends.append(str(error))

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    far.read_until(lambda: len(far.got) >= WINDOW)
    far.say(far.stream.end())
    far.sock.close()
    writer.join(DEADLINE)
    assert len(ends) == 1 and "over" in ends[0]
    assert read_end(far.socket) == b""


def test_questions_of_who_does_not_read(far: Far) -> None:
    """However often it is asked for a sign of life while it cannot send, it has one frame to say."""
    reader = threading.Thread(target=lambda: read_all(far.socket, 1))
    reader.start()
    with far.socket._sending:
        for _ in range(20):
            far.say(struct.pack(">IQ", 2 << 24 | 8, 0))
            wait_for(lambda: far.socket._unsaid, "the question to come")
        assert len(far.socket._unsaid) == 12
    far.say(far.stream.data([b"x"]))
    reader.join(DEADLINE)


def test_single_bytes_are_bounded(far: Far) -> None:
    """A writer of single bytes waits as soon as what is kept for it takes the memory that all may take."""
    far.confirming = False
    writer = threading.Thread(target=write_single_bytes, args=(far.socket,))
    writer.start()
    wait_for(lambda: far.socket.kept >= WINDOW, "the writer to wait")
    assert far.socket.kept <= WINDOW + 1000
    assert far.socket._stream.kept * 200 < WINDOW
    far.socket.close()
    writer.join(DEADLINE)
    assert not writer.is_alive()


def write_single_bytes(near: ResumableSocket) -> None:
    with suppress(OSError):
        while True:
            near.send(b"x")


def test_a_link_that_was_never_used_is_lost_too(far: Far) -> None:
    """A link may be replaced before anybody read from it; if the next one never comes, the session is known to wait."""
    far.socket.release()
    far.sock.close()
    far.socket.attach(far._link(), 0)
    told = len(far.lost)
    far.socket.release()
    assert len(far.lost) == told + 1 and not far.socket.linked


def test_close_wakes_everybody(far: Far) -> None:
    """A closed stream ends readers and writers, also those that wait for a link."""
    far.sock.close()
    with pytest.raises(TimeoutError):
        far.socket.recv(1)
    ends: list[object] = []

    def write() -> None:
        try:
            write_all(far.socket, bytes(2 * WINDOW))
        except OSError as error:
            ends.append(error)

    threads = [threading.Thread(target=write), threading.Thread(target=lambda: ends.append(read_end(far.socket)))]
    for thread in threads:
        thread.start()
    wait_for(lambda: far.socket.kept >= WINDOW, "the writer to wait")
    far.socket.close()
    for thread in threads:
        thread.join(DEADLINE)
    assert len(ends) == 2 and b"" in ends


def read_end(near: ResumableSocket) -> bytes:
    while True:
        try:
            return near.recv(1)
        except TimeoutError:
            continue


def test_close_says_goodbye(far: Far) -> None:
    """The other end learns that there is nothing to come back to."""
    far.socket.send(b"last words")
    far.socket.close()
    far.confirming = False
    far.read_until(lambda: far.stream.peer_left)
    assert far.got == b"last words"


def test_the_other_ends_goodbye(far: Far) -> None:
    """After its goodbye the stream has ended, and cannot be written."""
    far.say(far.stream.data([b"x"]), far.stream.goodbye())
    assert read_end(far.socket) == b"x" and read_end(far.socket) == b""
    with pytest.raises(OSError, match="over"):
        far.socket.send(b"more")
    assert far.lost == []


def test_nonsense_loses_the_link_not_the_session(far: Far) -> None:
    """A peer that breaks the protocol loses its link; who comes after with the right offset goes on."""
    far.socket.send(b"kept")
    far.say(struct.pack(">IQ", 1 << 24 | 8, 1000))
    with pytest.raises(TimeoutError):
        far.socket.recv(1)
    assert "1000" in far.lost[0]
    with pytest.raises(PeerError):
        far.socket.check(5)
    far.resume()
    with pytest.raises(TimeoutError):
        far.socket.recv(1)
    far.read_until(lambda: far.got == b"kept")


def test_a_newer_link_takes_the_place(far: Far) -> None:
    """A link may be replaced while it is well: what it brings from then on does not count."""
    old = far.sock.dup()
    read: list[bytes] = []
    thread = threading.Thread(target=lambda: read.append(read_all(far.socket, 8)))
    thread.start()
    far.resume()
    with old, pytest.raises(OSError, match="Broken pipe"):
        while True:
            old.send(b"\0\0\0\4junk")
    far.say(far.stream.data([b"the", b" new"]), far.stream.data([b"!"]))
    thread.join(DEADLINE)
    assert read == [b"the new!"]


def test_descriptors_are_closed(far: Far) -> None:
    """A link that is gone leaves no descriptor behind."""
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        far.resume()
        with pytest.raises(TimeoutError):
            far.socket.recv(1)
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_came_with_the_request_and_what_comes_then() -> None:
    """The first bytes of a link may have been read before, in the middle of a frame; the rest follows them."""
    near, sock = socket.socketpair()
    with sock:
        frames = bytes(ResumableStream().data([b"early and late"]))
        engine = PlainEngine()
        engine.receive(frames[6:9])
        made = ResumableSocket(Link(near, engine, early=frames[:6]))
        assert read_all(made, 5) == b"early"
        sock.send(frames[9:])
        assert read_all(made, 9) == b" and late"
        made.close()


def test_an_end_of_the_link_behind_data() -> None:
    """Data that comes together with an end of TLS is read, and then the link is lost, though its socket stays open."""
    near, sock = socket.socketpair()
    lost: list[str] = []
    with sock:
        engine = PlainEngine()
        engine.receive(ResumableStream().data([b"last"]))
        engine.receive(b"")
        made = ResumableSocket(Link(near, engine), lost.append)
        assert read_all(made, 4) == b"last"
        with pytest.raises(TimeoutError):
            made.recv(1)
        assert not made.linked and "without a goodbye" in lost[0]
        made.close()
