"""Listening sockets, for the controller and the gateway alike: bound here, or inherited from the parent process."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import MutableMapping

from arv_ssh.errors import ConfigError

FIRST_INHERITED = 3
"""The first file descriptor that systemd passes (sd_listen_fds(3))."""


def bind(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """Return a non-blocking TCP socket bound to ``host:port`` (port 0: any free one), IPv4 or IPv6 by the address.

    ``shared``: another process of this user that was bound by this function may hold the same port, and both get
    connections (SO_REUSEPORT); without it, a port in use is refused. Raises :class:`ConfigError` when
    it cannot be bound.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            _bind(listener, address, shared)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    listener.setblocking(False)
    return listener


def _bind(listener: socket.socket, address: tuple[object, ...], shared: bool) -> None:
    try:
        listener.bind(address)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or not shared:
            raise
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
    # Not before: with it set, bind(2) would not refuse a port that another process of ours uses.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def inherited(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """Return the sockets that systemd passed to this process, if any (sd_listen_fds(3)).

    Removes systemd's variables from ``environ``: they are not for the processes that we start.
    """
    pid, count, _ = (environ.pop(f"LISTEN_{name}", "") for name in ("PID", "FDS", "FDNAMES"))
    if not count or pid != str(os.getpid()):
        return []
    if not (count.isascii() and count.isdecimal() and 0 < int(count) <= 64):
        raise ConfigError(f"LISTEN_FDS is {count!r}; it must be the number of sockets that systemd passes")
    return [adopt(FIRST_INHERITED + index, "LISTEN_FDS") for index in range(int(count))]


def adopt(descriptor: int, whence: str) -> socket.socket:
    """Return the listening TCP socket inherited as ``descriptor``; ``whence`` names its source in errors."""
    refusal = f"file descriptor {descriptor}, named by {whence}, is not a listening TCP socket"
    try:
        listener = socket.socket(fileno=descriptor)
    except OSError as error:
        raise ConfigError(refusal) from error
    if (
        listener.family not in (socket.AF_INET, socket.AF_INET6)
        or listener.type != socket.SOCK_STREAM
        or not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    ):
        listener.detach()
        raise ConfigError(refusal)
    listener.set_inheritable(False)
    listener.setblocking(False)
    return listener
