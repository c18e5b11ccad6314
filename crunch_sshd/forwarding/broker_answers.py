"""The broker process's answers, read as if an enemy had written them: it runs where the container's user does.

Owns the form of its answers, and what becomes of the descriptors that come with them: each is closed or in an
:class:`Answer`. Does not know who asked.
"""

from __future__ import annotations

import errno
import ipaddress
import json
import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from arv_ssh.config.destination import MAX_PORT
from crunch_sshd.ssh.limits import PATH_LENGTH

MESSAGE_LIMIT = 64 * 1024
"""Bytes of one request or answer; a packet of the socketpair carries it whole."""
MAX_SOCKETS = 16
"""Sockets in one answer: a name to listen on may have several addresses."""
MAX_TEXT = 300
"""Characters of an error's text: it goes on one line of the user's screen."""
SENSELESS = "the process inside the container gave an answer that makes no sense"


class BrokerError(Exception):
    """The request cannot be done; the text is the system's, e.g. ``Connection refused``."""


class Malformed(Exception):
    """The process does not keep to the protocol: ignore everything it says from now on."""


@dataclass(frozen=True)
class Failed:
    """The process could not enter the container, and ends."""

    text: str


@dataclass(frozen=True)
class Answer:
    """The answer to the request ``identifier``. The asker owns the sockets, even when a method raises BrokerError."""

    identifier: int
    values: dict[str, Any]
    sockets: list[socket.socket]

    def close(self) -> None:
        """Close the sockets, which no caller takes."""
        for sock in self.sockets:
            sock.close()

    def check(self) -> None:
        """Raise :class:`BrokerError` when the answer says that the request failed, or not all of the answer came."""
        if "error" in self.values:
            raise BrokerError(_printable(self.values["error"]))
        if self.values.get("sockets", 0) != len(self.sockets):
            raise BrokerError(os.strerror(errno.EMFILE))

    def one_socket(self) -> socket.socket:
        """Return the only socket."""
        if len(self.sockets) != 1:
            raise BrokerError(SENSELESS)
        return self.sockets[0]

    def some_sockets(self) -> list[socket.socket]:
        """Return the sockets, at least one."""
        if not self.sockets:
            raise BrokerError(SENSELESS)
        return self.sockets

    def addresses(self) -> list[tuple[str, bool]]:
        """Return addresses, each with whether it is the container's own."""
        found = self.values.get("addresses")
        if not isinstance(found, list) or not all(map(_is_address, found)):
            raise BrokerError(SENSELESS)
        return [(address, own) for address, own in found]

    def port(self) -> int:
        """Return the port that was bound."""
        port = self.values.get("port")
        if type(port) is not int or not 0 < port <= MAX_PORT:
            raise BrokerError(SENSELESS)
        return port

    def path(self) -> str:
        """Return an absolute path."""
        path = self.values.get("path")
        if not isinstance(path, str) or not path.startswith("/") or "\0" in path or len(path) > PATH_LENGTH:
            raise BrokerError(SENSELESS)
        return path


def _is_address(one: object) -> bool:
    if not isinstance(one, list) or len(one) != 2 or not isinstance(one[0], str) or not isinstance(one[1], bool):
        return False
    try:
        ipaddress.ip_address(one[0])
    except ValueError:
        return False
    return True


def _printable(text: object) -> str:
    if not isinstance(text, str):
        raise BrokerError(SENSELESS)
    return "".join(one if one.isprintable() else "?" for one in text[:MAX_TEXT])


def receive(sock: socket.socket) -> Answer | Failed | None:
    """Return the process's next answer or failure; None at the end. Raises :class:`Malformed`."""
    try:
        message, descriptors, flags, _ = socket.recv_fds(sock, MESSAGE_LIMIT, MAX_SOCKETS, socket.MSG_CMSG_CLOEXEC)
    except OSError:
        return None
    if not message:
        _close(descriptors)
        return None
    try:
        values = _values(message, flags)
        if "failed" in values:
            _close(descriptors)
            return Failed(_printable(values["failed"]))
        identifier = values.get("id")
        if type(identifier) is not int:
            raise Malformed("an answer has no number")
    except (Malformed, BrokerError) as error:
        _close(descriptors)
        raise Malformed(str(error)) from error
    return Answer(identifier, values, _sockets(descriptors))


def _values(message: bytes, flags: int) -> dict[str, Any]:
    if flags & socket.MSG_TRUNC:
        raise Malformed("an answer is too long")
    try:
        values = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise Malformed("an answer is not JSON") from error
    if not isinstance(values, dict):
        raise Malformed("an answer is not an object")
    return values


def _sockets(descriptors: list[int]) -> list[socket.socket]:
    """Return ``descriptors`` as stream sockets; raises :class:`Malformed` when one is something else."""
    sockets: list[socket.socket] = []
    try:
        for number, descriptor in enumerate(descriptors):
            try:
                sockets.append(socket.socket(fileno=descriptor))
            except OSError as error:
                _close(descriptors[number:])
                raise Malformed("an answer's descriptor is not a socket") from error
        for one in sockets:
            if one.type != socket.SOCK_STREAM or one.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
                raise Malformed("an answer's socket is of a strange kind")
            one.setblocking(True)  # the broker connected without blocking, and the flag came along
    except Malformed:
        for one in sockets:
            one.close()
        raise
    return sockets


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        with suppress(OSError):
            os.close(descriptor)
