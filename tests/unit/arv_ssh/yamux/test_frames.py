"""yamux's frames: headers to and from bytes, and a reader fed in whatever pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arv_ssh.yamux.frames import Flag, FrameReader, Header, RemoteProtocolError, Type, decode


def test_a_header_on_the_wire() -> None:
    """The fields stand in the order of the specification, in network order."""
    header = Header(Type.WINDOW_UPDATE, Flag.SYN | Flag.FIN, 0x01020304, 0x0A0B0C0D)
    assert header.encode() == bytes.fromhex("00 01 0005 01020304 0a0b0c0d")
    assert decode(header.encode()) == header


@pytest.mark.parametrize(
    ("wire", "complaint"),
    [
        ("01 00 0000 00000001 00000000", "version 1"),
        ("00 04 0000 00000001 00000000", "unknown type 4"),
        ("00 00 0010 00000001 00000000", "unknown flags"),
        ("00 02 0001 00000001 00000000", "PING frame names stream 1"),
        ("00 03 0000 00000002 00000000", "GO_AWAY frame names stream 2"),
        ("00 00 0001 00000000 00000000", "names no stream"),
    ],
)
def test_what_is_no_header(wire: str, complaint: str) -> None:
    """Each breach of a header's form is the peer's fault, and the error says which."""
    with pytest.raises(RemoteProtocolError, match=complaint):
        decode(bytes.fromhex(wire))


WIRE = (
    Header(Type.WINDOW_UPDATE, Flag.SYN, 1, 0).encode()
    + Header(Type.DATA, 0, 1, 25).encode() + b"a payload of twenty-five."
    + Header(Type.PING, Flag.SYN, 0, 7).encode()
    + Header(Type.DATA, Flag.FIN, 1, 0).encode()
)  # fmt: skip


def read(pieces: list[bytes]) -> tuple[list[Header], bytes]:
    """Return the headers and all payload that a reader finds in ``pieces``."""
    reader, headers, payload = FrameReader(), list[Header](), b""
    for piece in pieces:
        reader.receive(piece)
        for part in reader:
            if isinstance(part, Header):
                headers.append(part)
            else:
                payload += part
    assert not reader.inside_frame
    return headers, payload


@given(st.lists(st.integers(0, len(WIRE))))
def test_pieces(cuts: list[int]) -> None:
    """However the bytes are cut, the same frames come out."""
    bounds = [0, *sorted(cuts), len(WIRE)]
    assert read([WIRE[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]) == read([WIRE])


@pytest.mark.parametrize("size", [1, 10])
def test_fed_in_small_pieces(size: int) -> None:
    """Fed 1 byte or 10 at a time, the same frames come out."""
    assert read([WIRE[at : at + size] for at in range(0, len(WIRE), size)]) == read([WIRE])


def test_inside_a_frame() -> None:
    """A reader knows that the bytes so far end inside a header or a payload."""
    reader = FrameReader()
    for at, byte in enumerate(WIRE):
        reader.receive(bytes([byte]))
        list(reader)
        ends = at + 1 in (12, 24 + 25, 36 + 25, 48 + 25)
        assert reader.inside_frame is not ends, at
