"""The reserve of descriptors, and the limit that it is the last part of."""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import Iterator

import pytest

from crunch_sshd.ssh import descriptors


@pytest.fixture
def limits() -> Iterator[tuple[int, int]]:
    """The limits of this process, soft and hard; the soft one may be changed."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def leave(room: int) -> int:
    """Lower the limit to at least ``room`` places beside the reserve; return the number at which that begins."""
    highest = max(int(one) for one in os.listdir("/proc/self/fd"))
    reserve, hard = highest + 1 + room, resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (reserve + descriptors.RESERVE, hard))
    return reserve


def test_reserve(limits: tuple[int, int]) -> None:
    """Places are given until only the reserve is left, and again once one is closed; each is closed on exec."""
    reserve = leave(40)
    places: list[int] = []
    with pytest.raises(OSError) as caught:
        while True:
            places.append(descriptors.reserve())
    assert caught.value.errno == errno.EMFILE
    assert len(places) >= 40 and max(places) == reserve - 1
    assert not any(map(os.get_inheritable, places))
    os.close(places.pop())
    places.append(descriptors.reserve())
    for place in places:
        os.close(place)


def test_fill(limits: tuple[int, int]) -> None:
    """Sockets move to their places one after the other, and leave no free number below that would hide how many."""
    reserve = leave(40)
    sockets: list[socket.socket] = []
    with pytest.raises(OSError, match="Too many open files"):
        while True:
            place = descriptors.reserve()
            near, far = socket.socketpair()
            sockets += [moved := descriptors.fill(place, near), far]
            assert near.fileno() == -1 and moved.fileno() == place and not os.get_inheritable(place)
            far.sendall(b"there")
            assert moved.recv(10) == b"there"
    assert 40 <= len(sockets) <= reserve + 2
    for one in sockets:
        one.close()


def test_raise_limit(limits: tuple[int, int]) -> None:
    """The soft limit becomes the hard one."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    descriptors.raise_limit()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (limits[1], limits[1])
