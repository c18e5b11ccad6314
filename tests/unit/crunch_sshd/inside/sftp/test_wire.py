"""The bytes of SFTP: packets out of any pieces, fields, and answers."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crunch_sshd.inside.sftp import wire
from crunch_sshd.inside.sftp.wire import Answers, Fields, Malformed, Packets
from tests.unit.crunch_sshd.inside.sftp.client import answers, packet


def fed(data: bytes, size: int) -> list[bytes]:
    """The packets in ``data`` that arrives ``size`` bytes at a time."""
    packets, found = Packets(), []
    while data:
        space = packets.space[0]
        piece, data = data[: min(size, len(space))], data[min(size, len(space)) :]
        space[: len(piece)] = piece
        found += [bytes(one) for _, _, one in packets.received(len(piece))]
    return found


class TestPackets:
    """Requests in what was received."""

    @pytest.mark.parametrize("size", [1, 10, 1 << 20])
    @given(bodies=st.lists(st.binary(min_size=wire.CONTENT, max_size=300), max_size=20))
    def test_any_pieces(self, bodies: list[bytes], size: int) -> None:
        """Packets come out as they were, whatever pieces they came in."""
        assert fed(b"".join(map(wire.text, bodies)), size) == bodies

    @pytest.mark.parametrize("size", [100_000, 1 << 20])
    def test_longest(self, size: int) -> None:
        """Many of the longest packets pass through the one buffer."""
        bodies = [bytes([number]) * wire.MAX_PACKET for number in range(1, 10)]
        assert fed(b"".join(map(wire.text, bodies)), size) == bodies

    @pytest.mark.parametrize("size", [0, wire.MAX_PACKET + 1, 0xFFFFFFFF])
    def test_impossible_length(self, size: int) -> None:
        """A length that no packet has is told by the first four bytes."""
        with pytest.raises(Malformed, match=str(size)):
            fed(wire.number(size), 1)

    @pytest.mark.parametrize("size", [1, 2, 3, 4])
    @pytest.mark.parametrize("piece", [1, 100])
    def test_too_short(self, size: int, piece: int) -> None:
        """A packet without room for a kind and an id is none."""
        with pytest.raises(Malformed, match="too early"):
            fed(wire.text(bytes(size)), piece)

    def test_kind_and_id(self) -> None:
        """Each comes with its kind and its id."""
        packets, data = Packets(), packet(wire.STAT, 7, b"a") + packet(wire.REMOVE, 0xFFFFFFFF, b"b")
        packets.space[0][: len(data)] = data
        heads = [(kind, number) for kind, number, _ in packets.received(len(data))]
        assert heads == [(wire.STAT, 7), (wire.REMOVE, 0xFFFFFFFF)]

    def test_there_is_always_space(self) -> None:
        """However a packet begins, there is room to read the rest of it."""
        packets = Packets()
        for _ in range(5):
            data = wire.text(bytes(wire.MAX_PACKET)) + wire.text(bytes(100_000))[:50_000]
            while data:
                space = packets.space[0]
                assert space
                piece, data = data[: len(space)], data[len(space) :]
                space[: len(piece)] = piece
                list(packets.received(len(piece)))
            rest = bytes(50_004)
            packets.space[0][: len(rest)] = rest
            list(packets.received(len(rest)))


class TestFields:
    """The fields of one packet."""

    @given(first=st.integers(0, 2**32 - 1), second=st.integers(0, 2**64 - 1), third=st.binary())
    def test_values(self, first: int, second: int, third: bytes) -> None:
        """Fields come out as they went in."""
        data = wire.number(first) + wire.long_number(second) + wire.text(third)
        fields = Fields(memoryview(data))
        assert (fields.u32(), fields.u64(), fields.string()) == (first, second, third)
        assert fields.empty

    @given(data=st.binary(max_size=20), wanted=st.sampled_from(["byte", "u32", "u64", "string", "view"]))
    def test_never_beyond_the_end(self, data: bytes, wanted: str) -> None:
        """Whatever a packet holds, reading it gives a value or the one error."""
        fields = Fields(memoryview(data))
        try:
            while not fields.empty:
                getattr(fields, wanted)()
        except Malformed:
            pass
        else:
            assert fields.empty


class TestAnswers:
    """The buffer of answers."""

    def test_all_kinds(self) -> None:
        """Each kind of answer is a packet of its own."""
        made = Answers()
        made.version([(b"a", b"1")])
        made.add(wire.STATUS, 1, wire.status(wire.FAILURE, "No space left on device"))
        made.handle(2, wire.text(b"hand"))
        made.names(3, [wire.entry(b"n", b"long n", bytes(4))])
        made.attributes(4, (0o644, 1, 1, 1, 2, 3, 1 << 40, -1, 1 << 33, 0))
        made.extended(5, b"any")
        made.data_space(4)[:4] = b"data"
        made.data(6, 4)
        made.done(7)
        found = answers(bytes(made.take()))
        assert [one.request_id for one in found] == [3, 1, 2, 3, 4, 5, 6, 7]
        assert (found[1].code, found[1].text) == (wire.FAILURE, b"No space left on device")
        assert found[2].text == b"hand"
        assert found[3].names() == [(b"n", b"long n", b"")]
        assert found[4].content == struct.pack(">IQ5I", 15, 1 << 40, 2, 3, 0o644, 0xFFFFFFFF, 0)
        assert found[6].text == b"data"
        assert (found[7].code, found[7].text) == (wire.OK, b"Success")

    def test_full(self) -> None:
        """As long as it is not full, the largest answer still fits."""
        made = Answers()
        while made.size <= made.FULL:
            assert len(made.data_space(wire.MAX_DATA)) == wire.MAX_DATA
            made.data(1, wire.MAX_DATA)
        assert len(made.take()) <= wire.BUFFER
        assert made.size == 0

    def test_too_long(self) -> None:
        """An answer longer than a packet is never made."""
        with pytest.raises(ValueError, match="longer than a packet"):
            Answers().add(wire.EXTENDED_REPLY, 1, bytes(wire.MAX_PACKET))


def test_packets_of_the_tests() -> None:
    """The tests' own packets are those of the protocol."""
    assert packet(wire.READ, 1, b"h", (2,), 3) == bytes.fromhex(
        "00000016 05 00000001 00000001 68 0000000000000002 00000003"
    )
