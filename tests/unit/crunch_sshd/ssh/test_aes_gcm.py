"""AES-GCM where the data lies: what comes out is what other ends of SSH expect, and nothing beside it is touched."""

from __future__ import annotations

import random
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from paramiko import common
from paramiko.ssh_exception import SSHException

from arv_ssh.errors import ConfigError
from crunch_sshd.ssh.aes_gcm import AT_ONCE, BATCH, OPENED, Data, Direction, check_in_place, data_head, packet_room
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


def opened(opening: Direction, arrived: bytes) -> list[Any]:
    """Open packets; return (channel, data) or the type of each."""
    found: list[Any] = []
    while arrived:
        some, taken = open_some(opening, arrived)
        assert taken, "a packet is not complete"
        found += [(one[0], bytes(one[1])) if isinstance(one, tuple) else one[1] for one in some]
        arrived = arrived[taken:]
    return found


def open_some(opening: Direction, arrived: bytes | memoryview) -> tuple[list[bytes | Data], int]:
    """Return the packets that are opened at a time, and how many bytes they took."""
    found: deque[bytes | Data] = deque()
    taken = opening.open(memoryview(arrived), 0, len(arrived), found)
    return list(found), taken


def filled(most: int, size: int) -> tuple[Room, bytes]:
    """Return a room for packets of ``most`` bytes that has ``size`` bytes of data, and the data."""
    room = packet_room(most)
    data = bytes(index * 7 % 251 for index in range(size))
    assert room.fill(data) == size
    return room, data


def unpacked(sealed: bytes, first: int) -> list[bytes]:
    """Return the messages of packets, opened as everybody does (RFC 5647 §7); the first has the number ``first``."""
    plain = AESGCM(KEY)
    messages: list[bytes] = []
    while sealed:
        size = int.from_bytes(sealed[:4], "big")
        nonce = b"salt" + ((2**64 - 3 + first + len(messages)) % 2**64).to_bytes(8, "big")
        content = plain.decrypt(nonce, sealed[4 : size + 20], sealed[:4])
        assert size % 16 == 0 and 4 <= content[0] < 20
        messages.append(content[1 : size - content[0]])
        sealed = sealed[size + 20 :]
    return messages


def test_cipher_in_place() -> None:
    """What is encrypted into its own memory is what is encrypted elsewhere, for any size up to a whole packet's."""
    engine = AESGCM(KEY)
    for size in (*range(300), *range(1000, 33_000, 997), *range(32_700, 33_001)):
        data = random.randbytes(size)
        memory = memoryview(bytearray(b"before" + data + bytes(16) + b"behind"))
        engine.encrypt_into(b"n" * 12, memory[6 : 6 + size], b"head", memory[6 : 22 + size])
        assert memory.tobytes() == b"before" + engine.encrypt(b"n" * 12, data, b"head") + b"behind", size


@pytest.mark.parametrize("wrong", ["nothing", "refused"])
def test_cipher_that_cannot_work_in_place(wrong: str) -> None:
    """Another cryptography, whose cipher cannot, ends the gateway's start with one sentence; nothing wrong is sent."""

    def encrypt_into(*_: object) -> int:
        if wrong == "refused":
            raise ValueError("the buffers overlap")
        return 0

    with pytest.raises(ConfigError, match="encrypts no data in place; run: pip install"):
        check_in_place(SimpleNamespace(encrypt=AESGCM(KEY).encrypt, encrypt_into=encrypt_into))
    check_in_place(AESGCM(KEY))


@pytest.mark.parametrize("most", [16, 1000, 4099, 32 * 1024])
def test_sealed_in_place(most: int) -> None:
    """Full packets lie one behind the other, with what is left as the last; other ends open them."""
    full = most - most % 16
    for size in (1, full - 1, full, full + 1, 2 * full, 5 * full + 7, BATCH * full):
        (room, data), sealing, opening = filled(most, size), direction(), direction()
        sealed, packets, end = sealing.seal_in(room, 0, size, 7, 0)
        assert (packets, end) == (-(-size // full), size)
        pieces = opened(opening, bytes(sealed))  # more than one only of what is too large to be opened at a time
        assert ({channel for channel, _ in pieces}, b"".join(piece for _, piece in pieces)) == ({7}, data)
        assert unpacked(bytes(sealed), 0)[-1] == message(7, data[(packets - 1) * full :])
        assert sealing.bytes == opening.bytes == len(sealed)


def test_sealed_from_any_place_to_any() -> None:
    """Data leaves in any steps: what is still to be sealed stays as it was, up to what is kept for the moment."""
    room, data = filled(48, 700)
    sealing, opening = direction(), direction()
    start, got = 0, b""
    for step in (1, 46, 1, 47, 49, 95, 15, 200, 46, 50, 150):
        stop = start + step
        behind = room.behind(stop)
        kept = bytes(behind)
        while start < stop:
            sealed, _, start = sealing.seal_in(room, start, stop, 7, 0)
            (piece,) = (one for _, one in opened(opening, bytes(sealed)))
            got += piece
        behind[:] = kept
        assert (start, got) == (stop, data[:stop])
    assert got == data


def test_extended_data_sealed_in_place() -> None:
    """Extended data leaves packet by packet, as its longer beginning has no room in the row (RFC 4254 §5.2)."""
    room, data = filled(48, 130)
    sealing, start = direction(), 0
    got: list[bytes] = []
    while start < 130:
        sealed, packets, start = sealing.seal_in(room, start, 130, 7, 1)
        assert packets == 1
        got += unpacked(bytes(sealed), len(got))
    head = common.cMSG_CHANNEL_EXTENDED_DATA + (7).to_bytes(4, "big") + (1).to_bytes(4, "big")
    assert got == [head + len(one).to_bytes(4, "big") + one for one in (data[:48], data[48:96], data[96:])]
    assert [one[:13] for one in got] == [data_head(7, 1, size) for size in (48, 48, 34)]
    assert message(7, data) == data_head(7, 0, 130) + data


def test_gaps_are_wide_enough() -> None:
    """A packet's parts on either side of its data never reach the data of the next area."""
    for size in range(1, 49):
        for data_type in (0, 1):
            room, _ = filled(48, 3 * 48)
            others = bytes(room.areas[0]), bytes(room.areas[2])
            direction().seal_in(room, 48 + 48 - size, 96, 7, data_type)
            assert (bytes(room.areas[0]), bytes(room.areas[2])) == others


def test_padding_is_random() -> None:
    """No two packets have the same padding, also when the pool was drawn again."""
    sealing = direction()
    drawn = [sealing.padding(19) for _ in range(1000)]
    assert {len(one) for one in drawn} == {19} and len(set(drawn)) == 1000


def test_sealed_message() -> None:
    """A message is a whole packet: any size of it."""
    sealing = direction()
    for number, size in enumerate(range(1, 40)):
        assert unpacked(sealing.seal_message(bytes(range(size))), number) == [bytes(range(size))]


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
