"""Listening sockets, for the controller and the gateway alike."""

from __future__ import annotations

import socket

from arv_ssh.errors import ConfigError


def bind(host: str, port: int) -> socket.socket:
    """Return a non-blocking TCP socket bound to ``host:port`` (port 0: any free one), IPv4 or IPv6 by the address.

    Raises :class:`ConfigError` when it cannot be bound.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    listener.setblocking(False)
    return listener
