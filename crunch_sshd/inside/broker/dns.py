"""DNS messages (RFC 1035 §4): a question out, addresses in. Pure.

Owns the wire format and its checks; whatever a server sends, :func:`parse` ends with an answer or a ValueError.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import NamedTuple  # dataclasses would take three times as long to import

A, CNAME, AAAA = 1, 5, 28
INTERNET = 1
NO_ERROR, NAME_ERROR = 0, 3
"""Response codes (RFC 1035 §4.1.1): after any other code, another server may know better."""
RECURSION_DESIRED, TRUNCATED, RESPONSE = 0x0100, 0x0200, 0x8000
MAX_LABEL, MAX_NAME = 63, 253
MAX_ALIASES = 16
"""CNAMEs followed in one answer; a chain of more is a loop or a mistake."""
MAX_POINTERS = 64
"""Compression pointers followed in one name."""

_HEADER = struct.Struct(">HHHHHH")
_RECORD = struct.Struct(">HHIH")


class Answer(NamedTuple):
    """What a server said: its response code, whether the answer was cut, and the addresses of the name asked for."""

    code: int
    truncated: bool
    addresses: tuple[str, ...]


def question(identifier: int, name: str, kind: int) -> bytes:
    """Return a query for the records ``kind`` of ``name``; raise ValueError when ``name`` cannot be one."""
    header = _HEADER.pack(identifier, RECURSION_DESIRED, 1, 0, 0, 0)
    return header + _encode(name) + struct.pack(">HH", kind, INTERNET)


def _encode(name: str) -> bytes:
    if not name or len(name) > MAX_NAME or not name.isascii() or "\0" in name:
        raise ValueError("not a domain name")
    labels = name.encode("ascii").split(b".")
    if any(not 0 < len(label) <= MAX_LABEL for label in labels):
        raise ValueError("not a domain name")
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def parse(message: bytes, identifier: int, name: str, kind: int) -> Answer | None:
    """Read a server's message; None when it does not answer this very question; ValueError when malformed."""
    try:
        return _parse(message, identifier, name.lower(), kind)
    except (struct.error, IndexError) as error:
        raise ValueError("a DNS message ends too early") from error


def _parse(message: bytes, identifier: int, name: str, kind: int) -> Answer | None:
    found, flags, questions, answers, _, _ = _HEADER.unpack_from(message)
    if found != identifier or not flags & RESPONSE or questions != 1:
        return None
    asked, offset = _decode(message, _HEADER.size)
    if asked != name or struct.unpack_from(">HH", message, offset) != (kind, INTERNET):
        return None
    truncated = bool(flags & TRUNCATED)
    if truncated:
        return Answer(flags & 0xF, True, ())
    aliases, addresses = _records(message, offset + 4, answers, kind)
    for _ in range(MAX_ALIASES):
        if name not in aliases:
            break
        name = aliases[name]
    return Answer(flags & 0xF, False, tuple(addresses.get(name, ())))


def _records(message: bytes, offset: int, count: int, kind: int) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Return the aliases and the addresses among ``count`` records."""
    aliases: dict[str, str] = {}
    addresses: dict[str, list[str]] = {}
    size = 4 if kind == A else 16
    for _ in range(count):
        owner, offset = _decode(message, offset)
        found, group, _, length = _RECORD.unpack_from(message, offset)
        offset += _RECORD.size
        data = message[offset : offset + length]
        if group == INTERNET and found == CNAME:
            aliases[owner] = _decode(message, offset)[0]
        elif group == INTERNET and found == kind and len(data) == size:
            addresses.setdefault(owner, []).append(str(ipaddress.ip_address(data)))
        offset += length
    return aliases, addresses


def _decode(message: bytes, offset: int) -> tuple[str, int]:
    """Return the name at ``offset`` in lower case, and the offset after it; follows pointers (RFC 1035 §4.1.4)."""
    labels: list[bytes] = []
    size = 0
    after: int | None = None
    pointers = 0
    while length := message[offset]:
        if length & 0xC0 == 0xC0:
            pointers += 1
            if pointers > MAX_POINTERS:
                raise ValueError("a DNS name never ends")
            after = offset + 2 if after is None else after
            offset = (length & 0x3F) << 8 | message[offset + 1]
        elif length & 0xC0:
            raise ValueError("a DNS name has a label of no known kind")
        else:
            size += length + 1
            if size > MAX_NAME + 1:  # else thousands of records that point at one long chain would take minutes
                raise ValueError("a DNS name is too long")
            labels.append(message[offset + 1 : offset + 1 + length])
            offset += 1 + length
    name = b".".join(labels).decode("ascii", "replace").lower()
    return name, offset + 1 if after is None else after
