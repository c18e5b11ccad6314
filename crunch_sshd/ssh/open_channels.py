"""The channels of one transport: which are open, and which there have ever been.

Owns two departures from how paramiko 5.1 keeps them: a channel is found without a lock, for each packet of data;
and the numbers of all channels take the memory of one. Does not know what a channel does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from crunch_sshd.ssh.channel import GatewayChannel

Find = Callable[[int, Callable[[], None]], Callable[[], GatewayChannel | None]]
"""Returns the weak reference to the open channel of a number, else the second argument: :func:`no_channel`."""


def finder(channels: Any) -> Find:
    """Return what finds a channel in ``channels``, paramiko's ``ChannelMap``: one call for the four of its ``get``.

    It looks in the very table that ``put`` and ``delete`` change. One look is whole without their lock.
    """
    find: Find = channels._map.data.get
    return find


def no_channel() -> None:
    """Stand for the reference to a channel that is not open."""


class ChannelNumbers(dict[int, bool]):
    """The numbers of all channels so far, kept as one: paramiko keeps each of them, and counts upwards."""

    def __init__(self) -> None:
        super().__init__()
        self._highest = -1

    def __setitem__(self, number: int, seen: bool) -> None:
        self._highest = max(self._highest, number)

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int) and 0 <= number <= self._highest
