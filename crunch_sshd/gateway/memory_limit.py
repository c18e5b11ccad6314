"""How much memory a gateway may use: it refuses new sessions before it reaches that much.

Owns reading the memory of a process, for the gateway itself and for crunch-run, which ends a gateway that grows beyond
its limit anyway. Knows nothing of who is in the gateway.
"""

from __future__ import annotations

import os
from pathlib import Path

from arv_ssh.errors import Unavailable

FULL = 0.8
"""The share of the limit beyond which no session begins; the rest is for the growth of open sessions."""
CROWDED = 0.6
"""The share beyond which no forwarded connection begins, so that forwardings never keep anybody from logging in."""
_PAGE = os.sysconf("SC_PAGE_SIZE")
_MIB = 1 << 20


def resident(pid: int | str = "self") -> int:
    """Return the bytes of memory that a process uses (proc(5), statm); 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


class MemoryLimit:
    """The limit of this process in bytes, 0 for none, as the gateway of a container."""

    def __init__(self, limit: int, container_uuid: str = "") -> None:
        self._limit = limit
        self._container_uuid = container_uuid

    def check_session(self) -> None:
        """Raise :class:`Unavailable` when this process has no room for another session."""
        self._check(FULL, "session")

    def check_forward(self) -> None:
        """Raise :class:`Unavailable` when this process has no room for another forwarded connection."""
        self._check(CROWDED, "forwarded connection")

    def _check(self, share: float, what: str) -> None:
        used = resident()
        if self._limit and used >= share * self._limit:
            raise Unavailable(
                f"the gateway of container {self._container_uuid} has no memory for another {what} (it uses "
                f"{used // _MIB} of {self._limit // _MIB} MiB); try again once other sessions have ended"
            )


NO_LIMIT = MemoryLimit(0)
"""For a gateway that may use what the system has; it never changes."""
