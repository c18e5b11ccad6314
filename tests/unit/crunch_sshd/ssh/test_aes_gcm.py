"""AES-GCM where the data lies: what comes out is what other ends of SSH expect, and nothing beside it is touched."""

from __future__ import annotations

from collections import deque

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from paramiko import common
from paramiko.ssh_exception import SSHException

from crunch_sshd.ssh.aes_gcm import AT_ONCE, BATCH, OPENED, Data, Direction
from crunch_sshd.ssh.memory import Room

KEY = bytes(range(16))
HEAD = common.cMSG_CHANNEL_DATA + (7).to_bytes(4, "big")


def direction(key: bytes = KEY) -> Direction:
    """Return one end of a direction; two with the same key fit together."""
    return Direction(AESGCM(key), b"salt" + b"\xff" * 7 + b"\xfd")


def packet(sealing: Direction, content: bytes) -> bytes:
    """Return a message as a packet, as anybody would build it."""
    padding = 4 + -(1 + len(content) + 4) % 16
    length = (1 + len(content) + padding).to_bytes(4, "big")
    return length + sealing.seal(length, bytes([padding]) + content + bytes(padding))


def message(channel: int, data: bytes) -> bytes:
    """Return a data message (RFC 4254 §5.2)."""
    return common.cMSG_CHANNEL_DATA + channel.to_bytes(4, "big") + len(data).to_bytes(4, "big") + data


def opened(opening: Direction, arrived: bytes) -> list[tuple[int, bytes] | int]:
    """Open packets; return (channel, data) or the type of each."""
    found, taken = open_some(opening, arrived)
    assert taken == len(arrived)
    return [(one[0], bytes(one[1])) if isinstance(one, tuple) else one[1] for one in found]


def open_some(opening: Direction, arrived: bytes | memoryview) -> tuple[list[bytes | Data], int]:
    """Return the packets that are opened at a time, and how many bytes they took."""
    found: deque[bytes | Data] = deque()
    taken = opening.open(memoryview(arrived), 0, len(arrived), found)
    return list(found), taken


@pytest.mark.parametrize("most", [4, 9, 32, 1000, 32 * 1024])
def test_sealed_in_place(most: int) -> None:
    """Packets sealed in a room are those that another end opens; the data not sealed yet stays as it was."""
    room = Room(BATCH * most + 5 * most + 3)
    data = bytes(index * 7 % 251 for index in range(len(room.data)))
    room.data[:] = data
    sealing, opening = direction(), direction()
    for start, stop, packets in ((0, 3 * most, 3), (3 * most, len(data), BATCH), ((3 + BATCH) * most, len(data), 3)):
        sealed, number, end = sealing.seal_in(room, start, stop, HEAD, most)
        assert number == packets
        assert end == stop or end == start + BATCH * most
        assert opened(opening, bytes(sealed)) == [(7, data[start:end])]
        assert bytes(room.data[end:]) == data[end:]
    assert sealing.bytes == opening.bytes
    assert end == len(data)


def test_sealed_in_place_is_what_everybody_seals() -> None:
    """A packet is well-formed: whole blocks, at least four bytes of padding, the counter's end passed (RFC 5647 §7)."""
    room = Room(93)
    room.data[:] = bytes(93)
    sealed, number, end = direction().seal_in(room, 0, 93, HEAD, 20)
    assert (number, end) == (5, 93)
    plain, rest = AESGCM(KEY), bytes(sealed)
    for number in range(5):
        size = int.from_bytes(rest[:4], "big")
        counter = (2**64 - 3 + number) % 2**64
        content = plain.decrypt(b"salt" + counter.to_bytes(8, "big"), rest[4 : size + 20], rest[:4])
        assert size % 16 == 0 and 4 <= content[0] < 20
        assert content[1 : size - content[0]] == message(7, bytes(20 if number < 4 else 13))
        rest = rest[size + 20 :]
    assert not rest


def test_data_of_messages_in_a_row() -> None:
    """Data for one channel comes out in one piece, up to anything else; each byte where it was, empty messages too."""
    sealing, opening = direction(), direction()
    pieces = [b"a", b"", bytes(range(200)), b"b" * 5000]
    arrived = b"".join(packet(sealing, message(1, piece)) for piece in pieces)
    arrived += packet(sealing, message(2, b"other")) + packet(sealing, message(1, b"again"))
    arrived += packet(sealing, common.cMSG_IGNORE + bytes(40)) + packet(sealing, message(1, b"last"))
    assert opened(opening, arrived) == [
        (1, b"".join(pieces)), (2, b"other"), (1, b"again"), common.MSG_IGNORE, (1, b"last"),
    ]  # fmt: skip


def test_more_than_is_opened_at_a_time() -> None:
    """What finds no room in the buffer is opened by the next call."""
    sealing, opening = direction(), direction()
    data = [bytes([number]) * 200_000 for number in range(5)]
    rest = memoryview(b"".join(packet(sealing, message(3, one)) for one in data))
    got = b""
    while rest:
        (found,), taken = open_some(opening, rest)
        assert isinstance(found, tuple) and taken
        assert len(found[1]) <= OPENED
        got += found[1]
        rest = rest[taken:]
    assert got == b"".join(data)


def test_tiny_messages() -> None:
    """Of messages that cannot be joined, only so many are opened at a time; the others are not lost."""
    sealing, opening = direction(), direction()
    rest = memoryview(b"".join(packet(sealing, message(number % 2, b"x")) for number in range(1000)))
    got: list[int] = []
    while rest:
        found, taken = open_some(opening, rest)
        assert 0 < len(found) <= AT_ONCE + 1
        got += [one[0] for one in found if isinstance(one, tuple)]
        rest = rest[taken:]
    assert got == [0, 1] * 500


def test_packets_behind_a_change_of_keys_wait_for_the_new_ones() -> None:
    """Nothing behind NEWKEYS is opened with the old keys, however much has arrived; a packet that is cut waits too."""
    new = b"n" * 16
    sealing = direction()
    before = packet(sealing, common.cMSG_IGNORE + bytes(14)) + packet(sealing, common.cMSG_NEWKEYS)
    after = packet(direction(new), common.cMSG_IGNORE + bytes(14))
    found, taken = open_some(direction(), before + after)
    assert ([one[1] for one in found], taken) == ([common.MSG_IGNORE, common.MSG_NEWKEYS], len(before))
    found, taken = open_some(direction(new), after + after[:-1])
    assert (len(found), taken) == (1, len(after))


@pytest.mark.parametrize("content", [message(1, b"data")[:-1], message(1, b"data") + b"x", HEAD])
def test_data_message_that_is_not_as_long_as_it_says(content: bytes) -> None:
    """Its padding, or the packet before it, is never taken for data."""
    sealing = direction()
    arrived = packet(sealing, message(1, b"before")) + packet(sealing, content)
    with pytest.raises(SSHException, match="not as long as it says"):
        open_some(direction(), arrived)


@pytest.mark.parametrize("padding", [0, 3, 31, 200])
def test_impossible_padding(padding: int) -> None:
    """A packet whose padding is too short, or longer than the packet, ends the connection."""
    length = (32).to_bytes(4, "big")
    arrived = length + direction().seal(length, bytes([padding]) + bytes(31))
    with pytest.raises(SSHException, match="padding"):
        open_some(direction(), arrived)
