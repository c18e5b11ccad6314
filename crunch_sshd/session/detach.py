"""Detach keys: the sequence with which a user leaves a program running, as in ``docker attach``. Pure."""

from __future__ import annotations

import re

from arv_ssh.errors import BadRequest

_CONTROL = "@abcdefghijklmnopqrstuvwxyz[\\]^_"
_KEY = re.compile(r"ctrl-([@a-z\[\\\]^_])|([\x00-\x7f])")


def parse(text: str) -> bytes:
    """Return the bytes of a sequence such as ``ctrl-p,ctrl-q`` (single characters or ``ctrl-X``); "" means no keys.

    Raises :class:`BadRequest` for anything else.
    """
    keys = bytearray()
    for word in text.split(",") if text else ():
        found = _KEY.fullmatch(word)
        if found is None:
            raise BadRequest(f"the detach keys {text!r} have no key {word!r}; write e.g. ctrl-p,ctrl-q")
        keys.append(_CONTROL.index(found[1]) if found[1] else ord(found[2]))
    return bytes(keys)


class DetachKeys:
    """Looks for the sequence in a user's typing. A partial match is held back until it is clear what follows."""

    def __init__(self, sequence: bytes) -> None:
        self._sequence = sequence
        self._matched = 0
        self.complete = False

    def feed(self, data: bytes | memoryview) -> bytes:
        """Return what may go on to the program; ``complete`` is true once the sequence has been typed."""
        passed = bytearray()
        for byte in data:
            if self.complete:
                break
            while self._matched and byte != self._sequence[self._matched]:
                passed += self._fall_back()
            if byte == self._sequence[self._matched]:
                self._matched += 1
                self.complete = self._matched == len(self._sequence)
            else:
                passed.append(byte)
        return bytes(passed)

    def _fall_back(self) -> bytes:
        """Release the oldest held bytes, keeping the longest end of them that still begins the sequence."""
        held = self._sequence[: self._matched]
        for shorter in range(self._matched - 1, -1, -1):
            if held.endswith(self._sequence[:shorter]):
                self._matched = shorter
                return held[: len(held) - shorter]
        raise AssertionError("the empty sequence begins every other")
