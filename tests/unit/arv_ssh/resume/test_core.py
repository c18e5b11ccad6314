"""One end of a resumable stream, as transcripts of frames, and two ends against a model with cuts at every byte."""

from __future__ import annotations

import struct
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arv_ssh.resume.core import (
    ASK,
    ASK_AFTER,
    CONFIRM,
    CONFIRM_BYTES,
    CONFIRM_FRAMES,
    END,
    GOODBYE,
    LOST_AFTER,
    WINDOW,
    LinkLost,
    PeerError,
    ResumableStream,
)


class Wire:
    """What is under way to one end."""

    def __init__(self, content: bytes = b"") -> None:
        self.content = bytearray(content)

    def read_into(self, room: memoryview) -> int:
        """Take what has arrived."""
        size = min(len(room), len(self.content))
        room[:size] = self.content[:size]
        del self.content[:size]
        return size


def told(kind: int, number: int) -> bytes:
    return struct.pack(">IQ", kind << 24 | 8, number)


def data(content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + content


def taken(end: ResumableStream, wire: bytes, size: int = 1000) -> bytes:
    """Return the data that ``end`` takes out of ``wire``, all of which it reads."""
    source, room = Wire(wire), memoryview(bytearray(size))
    got = b""
    while source.content:
        piece = bytes(room[: end.take(source.read_into, room)])
        got += piece
        if end.peer_left:
            break
    return got


@pytest.mark.parametrize("size", [1, 10, 1000])
def test_data_and_what_stands_between(size: int) -> None:
    """Data comes out as it went in, however it was cut into frames, and however little room there is."""
    end = ResumableStream()
    end.data([b"abc"])
    wire = data(b"one") + told(CONFIRM, 2) + data(b"two") + told(ASK, 3) + data(b"three")
    assert taken(end, wire, size) == b"onetwothree"
    assert (end.received, end.confirmed, end.kept) == (11, 3, 0)
    assert end.answer(1.0) == told(CONFIRM, 11)
    assert end.answer(1.0) == b""


def test_each_byte_alone() -> None:
    """Frames may come one byte at a time."""
    end = ResumableStream()
    wire = data(b"one") + told(ASK, 0) + data(b"two") + struct.pack(">I", END << 24)
    got = b"".join(taken(end, bytes([byte])) for byte in wire)
    assert got == b"onetwo" and end.peer_ended and not end.peer_left
    assert end.received == 7


def test_what_is_confirmed_is_forgotten() -> None:
    """Only what the other end lacks is sent again, from the middle of a frame where it must be."""
    end = ResumableStream()
    frames = [end.data([b"abc", b"def"]), end.data([b"ghi"]), end.end()]
    assert end.kept == 10 and end.resume(0) == frames
    assert end.resume(4) == [data(b"ef"), data(b"ghi"), struct.pack(">I", END << 24)]
    assert end.resume(6) == frames[1:]
    assert end.resume(10) == []


def test_bytes_and_frames_that_are_due() -> None:
    """Much data, many frames, and a little that has waited for long are confirmed without being asked for."""
    end = ResumableStream()
    assert taken(end, data(bytes(CONFIRM_BYTES - 1))) and end.answer(1.0) == b""
    assert taken(end, data(b"x")) and end.answer(1.0) == told(CONFIRM, CONFIRM_BYTES)
    for _ in range(CONFIRM_FRAMES - 1):
        assert taken(end, data(b"x")) and end.answer(1.0) == b""
    assert taken(end, data(b"x")) and end.answer(2.0) == told(CONFIRM, CONFIRM_BYTES + CONFIRM_FRAMES)
    assert taken(end, data(b"x")) and end.answer(2.1 + ASK_AFTER) != b""


def test_undelivered_bytes_are_not_confirmed() -> None:
    """What waits for a slow reader is not confirmed: the sender would send more."""
    end = ResumableStream()
    taken(end, data(bytes(WINDOW)))
    assert end.answer(1.0, undelivered=WINDOW) == b""
    assert end.answer(1.0, undelivered=0) == told(CONFIRM, WINDOW)


def test_silence() -> None:
    """A silent peer is asked after five seconds, again after ten, and given up after fifteen."""
    end = ResumableStream()
    said = [end.silent(float(second)) for second in range(int(LOST_AFTER))]
    assert [second for second, one in enumerate(said) if one] == [ASK_AFTER, 2 * ASK_AFTER]
    with pytest.raises(LinkLost):
        end.silent(LOST_AFTER)


def test_a_sign_of_life() -> None:
    """Anything that comes begins the wait anew."""
    end = ResumableStream()
    for second in range(100):
        end.answer(second * 10.0)
        assert not end.silent(second * 10.0 + 1)


def test_who_was_stopped_has_not_listened() -> None:
    """After an hour's stop the other end is asked first, not given up."""
    end = ResumableStream()
    assert end.silent(0.0) == b""
    assert end.silent(3600.0) == told(ASK, 0)
    assert end.silent(3601.0) == b""


@pytest.mark.parametrize("wire", [
    struct.pack(">I", 9 << 24), struct.pack(">I", CONFIRM << 24 | 7), struct.pack(">I", END << 24 | 1) + b"x",
    struct.pack(">I", 0), struct.pack(">I", END << 24) * 2, struct.pack(">I", END << 24) + data(b"x"), told(CONFIRM, 4),
    told(ASK, 1 << 63),
])  # fmt: skip
def test_wrong_frames(wire: bytes) -> None:
    """What no honest end sends is an error: also the confirmation of what was never sent."""
    end = ResumableStream()
    end.data([b"abc"])
    with pytest.raises(PeerError):
        taken(end, wire)
    assert end.resume(0) == [data(b"abc")]  # nothing is lost for who comes after


@pytest.mark.parametrize("have", [1, 6, 1 << 63, -1])
def test_wrong_offset(have: int) -> None:
    """Who asks for bytes that are confirmed, or claims to have what was never sent, cannot go on."""
    end = ResumableStream()
    end.data([b"abcde"])
    taken(end, told(CONFIRM, 2))
    with pytest.raises(PeerError):
        end.resume(have)
    assert end.resume(2) == [data(b"cde")]


def test_goodbye() -> None:
    """After a goodbye nothing more is read."""
    end = ResumableStream()
    assert taken(end, data(b"x") + struct.pack(">I", GOODBYE << 24) + b"junk") == b"x"
    assert end.peer_left and end.peer_ended


class Pair:
    """Two ends, what is under way between them, and what each should get and has got."""

    def __init__(self) -> None:
        self.ends = ResumableStream(), ResumableStream()
        self.wires = Wire(), Wire()  # to the first, to the second
        self.meant = bytearray(), bytearray()
        self.got = bytearray(), bytearray()
        self.now = 0.0

    def send(self, side: int, size: int) -> None:
        end, other = self.ends[side], 1 - side
        if end.ended or end.room < size:
            return
        content = bytes((len(self.meant[other]) + number) % 251 for number in range(size))
        self.meant[other].extend(content)
        self.wires[other].content.extend(end.data([content[: size // 2], content[size // 2 :]]))

    def end(self, side: int) -> None:
        self.wires[1 - side].content.extend(self.ends[side].end())

    def arrive(self, side: int, wire: int, room: int) -> None:
        """Let ``wire`` bytes arrive at a side that has ``room``."""
        source = Wire(bytes(self.wires[side].content[:wire]))
        del self.wires[side].content[:wire]
        buffer = memoryview(bytearray(room))
        while source.content:
            got = self.ends[side].take(source.read_into, buffer)
            self.got[side].extend(buffer[:got])
            self.now += 1
            self.wires[1 - side].content.extend(self.ends[side].answer(self.now))

    def cut(self) -> None:
        """Lose all that is under way, and connect anew."""
        first, second = self.ends
        self.wires[0].content[:] = b"".join(second.resume(first.received))
        self.wires[1].content[:] = b"".join(first.resume(second.received))


SIDES = st.integers(0, 1)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), SIDES, st.integers(1, 40)),
        st.tuples(st.just("arrive"), SIDES, st.integers(1, 60), st.integers(1, 30)),
        st.tuples(st.just("end"), SIDES),
        st.tuples(st.just("cut")),
    ),
    max_size=120,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_no_byte_is_lost_and_none_comes_twice(steps: list[tuple[str, int]]) -> None:
    """Wherever the connection is cut, each side gets what the other one sent, in order and once, and its end."""
    pair = Pair()
    for name, *arguments in steps:
        getattr(pair, name)(*arguments)
        assert all(pair.meant[side].startswith(pair.got[side]) for side in (0, 1))
    pair.end(0)
    pair.end(1)
    pair.cut()
    while any(wire.content for wire in pair.wires):
        for side in (0, 1):
            pair.arrive(side, 7, 5)
    assert pair.got == pair.meant
    assert all(end.peer_ended for end in pair.ends)


def test_what_is_not_handed_on_has_not_come() -> None:
    """Data that came just before the connection failed comes again with the next one."""
    end, room = ResumableStream(), memoryview(bytearray(100))
    arrived = [b"\0\0\0\5", b"hello"]

    def source(place: memoryview) -> int:
        if not arrived:
            raise OSError("a record is broken")
        data = arrived.pop(0)
        place[: len(data)] = data
        return len(data)

    with pytest.raises(OSError, match="broken"):
        end.take(source, room)
    assert end.received == 0


def test_a_cut_at_every_byte() -> None:
    """A connection cut after each single byte still brings everything."""
    pair = Pair()
    for size in (1, 5, 2):
        pair.send(0, size)
    while len(pair.got[1]) < len(pair.meant[1]):
        before = len(pair.got[1])
        pair.cut()
        pair.arrive(1, 5, 100)  # one header, one byte
        assert len(pair.got[1]) == before + 1


def test_memory_is_given_back() -> None:
    """What is confirmed is not kept: neither the bytes nor their frames."""
    pair = Pair()
    for _ in range(1000):
        pair.send(0, 40)
        pair.arrive(1, 1000, 1000)
        pair.arrive(0, 1000, 1000)
    kept: deque[bytes | memoryview] = pair.ends[0]._kept
    assert len(kept) < CONFIRM_FRAMES and pair.ends[0].kept == sum(len(frame) - 4 for frame in kept)


def test_blocks_are_used_again() -> None:
    """A long transfer needs as many blocks as are under way, and keeps none of them once it is silent."""
    made: list[memoryview] = []

    def allocate(size: int) -> memoryview:
        made.append(memoryview(bytearray(size)))
        return made[-1]

    end, number = ResumableStream(allocate), 0
    for step in range(200):
        content = bytes([step]) * 200_000
        assert bytes(end.data([content[:5], content[5:]])) == data(content)
        if step % 5 == 4:
            assert [bytes(frame) for frame in end.resume(number)] == [
                data(bytes([kept]) * 200_000) for kept in range(step - 4, step + 1)
            ]
            number = end.sent
            taken(end, told(CONFIRM, number))
    assert len(made) <= 12
    end.silent(0.0)
    assert not end._free and not end._full
