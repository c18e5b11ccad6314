"""What crunch-run and its gateway's process say to each other: one JSON object a packet, over a socketpair.

Owns the form of the messages, and that a secret in one never leaves these two processes: no other process can open an
end of a socketpair, and no argument list or environment shows the secret. Knows nothing of the messages' meaning.
"""

from __future__ import annotations

import json
import socket
from typing import Any

LIMIT = 1 << 20
"""Bytes of one message; the longest holds a site's forwarding destinations."""


class Control:
    """One end. One thread may send while another receives."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LIMIT)

    def fileno(self) -> int:
        """Return the descriptor, for poll(2)."""
        return self._sock.fileno()

    def send(self, kind: str, **fields: Any) -> bool:
        """Send a message; False when the other end is gone."""
        try:
            self._sock.sendall(json.dumps({"kind": kind, **fields}).encode())
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def receive(self) -> dict[str, Any]:
        """Block until there is a message and return it; an empty one when the other end is gone."""
        try:
            packet = self._sock.recv(LIMIT)
        except ConnectionResetError:
            packet = b""
        message: dict[str, Any] = json.loads(packet) if packet else {}
        return message

    def close(self) -> None:
        """Close this end; the other one learns of it."""
        self._sock.close()


def passed(descriptor: int) -> socket.socket:
    """Return a socket that this process was started with; processes that it starts do not inherit it."""
    sock = socket.socket(fileno=descriptor)
    sock.set_inheritable(False)
    return sock


def pair() -> tuple[Control, socket.socket]:
    """Return one end, and the socket of the other for the process that is started with it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Control(ours), theirs
