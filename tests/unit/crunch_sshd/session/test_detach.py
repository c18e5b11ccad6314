"""Detach keys: what is a sequence, and what of a user's typing goes on to the program."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arv_ssh.errors import BadRequest
from crunch_sshd.session.detach import DetachKeys, parse


@pytest.mark.parametrize(
    ("text", "keys"), [("", b""), ("ctrl-p,ctrl-q", b"\x10\x11"), ("ctrl-@,x", b"\0x"), ("ctrl-[", b"\x1b")]
)
def test_parse(text: str, keys: bytes) -> None:
    """Single characters and ctrl-X, as docker attach has them."""
    assert parse(text) == keys


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-P", "xy", "ctrl-p,,x", "é", ","])
def test_what_is_no_sequence(text: str) -> None:
    """The error names the key that is none."""
    with pytest.raises(BadRequest, match="no key"):
        parse(text)


@given(st.lists(st.binary(max_size=6)), st.sampled_from([b"aab", b"aa", b"abab", b"a"]))
def test_typing(pieces: list[bytes], sequence: bytes) -> None:
    """However the typing is cut, the program gets what stands before the sequence, or all but its last beginning."""
    alphabet = bytes(sequence[byte % len(sequence)] if byte < 200 else byte for byte in range(256))
    typed = [piece.translate(alphabet) for piece in pieces]
    keys = DetachKeys(sequence)
    passed = b"".join(keys.feed(piece) for piece in typed)
    before, found, _ = b"".join(typed).partition(sequence)
    assert keys.complete == bool(found)
    held = next(size for size in range(len(sequence), -1, -1) if before.endswith(sequence[:size]))
    assert passed == (before if found else before[: len(before) - held])
