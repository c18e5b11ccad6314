"""The variables that a client sets for a session (RFC 4254 §6.4), up to the limits. Pure.

Owns their count and size. :mod:`crunch_sshd.session.commands` decides which names a client may set.
"""

from __future__ import annotations

from crunch_sshd.ssh.limits import ENVIRONMENT_SIZE, ENVIRONMENT_VARIABLES


class Environment:
    """One session's variables. ``variables`` is what the program gets."""

    def __init__(self) -> None:
        self.variables: dict[str, str] = {}
        self._size = 0

    def add(self, name: str, value: str) -> bool:
        """Set or replace a variable; return False when there is no room for it."""
        before = self.variables.get(name)
        size = self._size + _size(name, value) - (0 if before is None else _size(name, before))
        if size > ENVIRONMENT_SIZE or before is None and len(self.variables) >= ENVIRONMENT_VARIABLES:
            return False
        self._size = size
        self.variables[name] = value
        return True


def _size(name: str, value: str) -> int:
    """Return the bytes of NAME=VALUE and the zero behind it."""
    return len(name.encode("utf-8", "replace")) + len(value.encode("utf-8", "replace")) + 2
