"""The file descriptors that this process may have, and a reserve of them for the logins and programs of all users.

Owns raising the limit, and the places for forwarded connections, which are refused before the reserve is touched.
Knows nothing of what the descriptors are for.
"""

from __future__ import annotations

import errno
import os
import resource
import socket

RESERVE = 128
"""Descriptors that forwarded connections leave to logins and programs: a program takes six, its start some ten more."""


def raise_limit() -> None:
    """Raise this process's soft limit to its hard one (getrlimit(2)); the lower is for select(2), not used here."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def reserve() -> int:
    """Return a descriptor that keeps a place for a socket: :func:`fill` it, or close it if none comes.

    Raises OSError (EMFILE) when only the reserve is left. The kernel gives the lowest free number (open(2)), so while
    every socket moves to its place, a number says how many descriptors are in use, and nothing has to be counted.
    """
    place = os.open("/", os.O_PATH | os.O_CLOEXEC)
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != resource.RLIM_INFINITY and place >= limit - RESERVE:
        os.close(place)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return place


def fill(place: int, sock: socket.socket) -> socket.socket:
    """Return ``sock`` moved to its place."""
    with sock:
        os.dup2(sock.fileno(), place, inheritable=False)
    return socket.socket(fileno=place)
