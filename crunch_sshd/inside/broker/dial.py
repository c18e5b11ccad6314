"""Connecting to one of several addresses, and binding to them.

Owns the order of tries: the next address is tried when one fails or takes long (RFC 8305 §5), so that a dead IPv6 route
costs only a moment. The only time limit is the kernel's own, as with sshd.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Sequence

from crunch_sshd.inside.broker.resolver import endpoint, family

NEXT_TRY = 250
"""Milliseconds before trying the next address alongside one that does not answer (RFC 8305 §8)."""
BACKLOG = 128
"""Connections that may wait for the gateway to accept them, as sshd's SSH_LISTEN_BACKLOG."""
UNIX_PATH_LIMIT = 107
"""Bytes of a path in sockaddr_un (unix(7))."""


def connect(addresses: Sequence[str], port: int) -> socket.socket:
    """Return a socket connected to the first address that answers; raise the first one's OSError when none does."""
    waiting: dict[int, tuple[int, socket.socket]] = {}
    errors: dict[int, OSError] = {}
    poll = select.poll()
    upcoming = list(enumerate(addresses))
    try:
        while upcoming or waiting:
            if upcoming:
                index, address = upcoming.pop(0)
                try:
                    sock = _begin(address, port)
                except OSError as error:
                    errors[index] = error
                    continue
                waiting[sock.fileno()] = index, sock
                poll.register(sock, select.POLLOUT)
            for descriptor, _ in poll.poll(NEXT_TRY if upcoming else None):
                index, sock = waiting.pop(descriptor)
                poll.unregister(descriptor)
                number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if number == 0:
                    return sock
                sock.close()
                errors[index] = OSError(number, os.strerror(number))
    finally:
        for _, sock in waiting.values():
            sock.close()
    raise errors[min(errors)] if errors else OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))


def _begin(address: str, port: int) -> socket.socket:
    sock = socket.socket(family(address), socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setblocking(False)
        number = sock.connect_ex(endpoint(address, port))
        if number not in (0, errno.EINPROGRESS):
            raise OSError(number, os.strerror(number))
    except OSError:
        sock.close()
        raise
    return sock


def listen(addresses: Sequence[str], port: int) -> list[socket.socket]:
    """Return sockets that listen on those of the addresses that exist here, all on one port (0: any free one).

    Raises the first one's OSError when none could be bound.
    """
    found: list[socket.socket] = []
    failure: OSError | None = None
    for address in addresses:
        try:
            sock = _listen(address, port)
        except OSError as error:
            failure = failure or error
            continue
        found.append(sock)
        port = sock.getsockname()[1]
    if not found:
        raise failure or OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    return found


def _listen(address: str, port: int) -> socket.socket:
    sock = socket.socket(family(address), socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(endpoint(address, port))
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def is_own(address: str) -> bool:
    """Say whether ``address`` is one of this network namespace's own."""
    try:
        with socket.socket(family(address), socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
            probe.bind(endpoint(address, 0))
    except OSError:
        return False
    return True


def connect_unix(path: bytes) -> socket.socket:
    """Return a socket connected to the unix socket at ``path``."""
    sock = _unix(path)
    try:
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return sock


def listen_unix(path: bytes) -> socket.socket:
    """Return a socket listening at ``path``, which must not exist (sshd's StreamLocalBindUnlink no)."""
    sock = _unix(path)
    try:
        sock.bind(path)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _unix(path: bytes) -> socket.socket:
    if not path or b"\0" in path:  # an abstract name is not a path; sshd does not know them either
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    if len(path) > UNIX_PATH_LIMIT:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
