"""DNS messages: what we ask, and what we make of any bytes that come back."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crunch_sshd.inside.broker import dns

ID = 0x1234
NAME = "db.example"
QUESTION = b"\x02db\x07example\x00"


def message(records: list[bytes], *, code: int = 0, flags: int = 0, kind: int = dns.A, identifier: int = ID) -> bytes:
    """Return a server's answer to the question for NAME."""
    head = struct.pack(">HHHHHH", identifier, 0x8180 | flags | code, 1, len(records), 0, 0)
    return head + QUESTION + struct.pack(">HH", kind, 1) + b"".join(records)


def record(owner: bytes, kind: int, data: bytes) -> bytes:
    return owner + struct.pack(">HHIH", kind, 1, 60, len(data)) + data


SAME = b"\xc0\x0c"
"""A pointer to the question's name."""


def test_question() -> None:
    """One question, recursion desired (RFC 1035 §4.1)."""
    assert dns.question(ID, NAME, dns.A) == bytes.fromhex("123401000001000000000000") + QUESTION + b"\0\1\0\1"


@pytest.mark.parametrize("name", ["", ".", "a..b", "x" * 64, ".".join(["x" * 60] * 5), "bücher.example", "a\0b"])
def test_no_names(name: str) -> None:
    """What cannot be a name is never asked for."""
    with pytest.raises(ValueError, match="not a domain name"):
        dns.question(ID, name, dns.A)


def test_addresses() -> None:
    """All addresses of the name are found, IPv4 and IPv6."""
    four = message([record(SAME, dns.A, bytes([10, 0, 0, 1])), record(SAME, dns.A, bytes([10, 0, 0, 2]))])
    assert dns.parse(four, ID, "DB.example", dns.A) == dns.Answer(0, False, ("10.0.0.1", "10.0.0.2"))
    six = message([record(SAME, dns.AAAA, bytes(15) + b"\1")], kind=dns.AAAA)
    assert dns.parse(six, ID, NAME, dns.AAAA) == dns.Answer(0, False, ("::1",))


def test_aliases() -> None:
    """An alias is followed within the answer, whatever the order; a loop of them ends."""
    target = b"\x03web\xc0\x0f"  # web.example, by a pointer into the question
    answer = message([record(target, dns.A, bytes([10, 0, 0, 3])), record(SAME, dns.CNAME, target)])
    found = dns.parse(answer, ID, NAME, dns.A)
    assert found and found.addresses == ("10.0.0.3",)
    loop = message([record(SAME, dns.CNAME, target), record(target, dns.CNAME, SAME)])
    assert dns.parse(loop, ID, NAME, dns.A) == dns.Answer(0, False, ())


def test_records_of_others_are_ignored() -> None:
    """An address of another name in the answer is not the name's."""
    answer = message([record(b"\x04evil\x00", dns.A, bytes([6, 6, 6, 6])), record(SAME, dns.A, b"short")])
    assert dns.parse(answer, ID, NAME, dns.A) == dns.Answer(0, False, ())


def test_codes() -> None:
    """The response code and the truncation are told."""
    assert dns.parse(message([], code=3), ID, NAME, dns.A) == dns.Answer(dns.NAME_ERROR, False, ())
    assert dns.parse(message([], flags=dns.TRUNCATED), ID, NAME, dns.A) == dns.Answer(0, True, ())


@pytest.mark.parametrize(
    "other",
    [
        message([], identifier=ID + 1),
        message([], kind=dns.AAAA),
        dns.question(ID, NAME, dns.A),
        message([]).replace(b"\x02db", b"\x02dc"),
    ],
)
def test_answers_to_other_questions(other: bytes) -> None:
    """Another number, type or name, or a question, is no answer."""
    assert dns.parse(other, ID, NAME, dns.A) is None


def test_name_that_points_at_itself() -> None:
    """A name whose pointers go round is malformed, and costs no time."""
    with pytest.raises(ValueError, match="never ends"):
        dns.parse(message([record(b"\xc0\x1c", dns.A, bytes(4))]), ID, NAME, dns.A)


def test_cut_at_every_byte() -> None:
    """A message cut anywhere is malformed or no answer: nothing else happens."""
    whole = message([record(SAME, dns.A, bytes([10, 0, 0, 1]))])
    for size in range(len(whole)):
        try:
            found = dns.parse(whole[:size], ID, NAME, dns.A)
        except ValueError:
            continue
        assert found is None or found.addresses == ()


@given(st.binary(max_size=600))
def test_any_bytes(tail: bytes) -> None:
    """Whatever follows the question, parsing ends with an answer or a ValueError."""
    start = struct.pack(">HHHHHH", ID, 0x8180, 1, 9, 0, 0) + QUESTION + b"\0\1\0\1"
    try:
        dns.parse(start + tail, ID, NAME, dns.A)
    except ValueError:
        pass
