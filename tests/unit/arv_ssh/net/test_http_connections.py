"""The connections of a server, with doubles of them; that real ones fit is test_http_server's affair."""

from __future__ import annotations

import asyncio

from arv_ssh.net.http_connections import Connections
from tests.timing import DEADLINE


class Connection:
    """A connection that notes what it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def close_if_idle(self) -> None:
        self.asked += 1


def test_drain() -> None:
    """Draining asks each open connection once, and none that is gone."""
    gone, still = Connection(), Connection()

    async def scenario() -> None:
        connections = Connections()
        connections.add(gone)
        connections.add(still)
        connections.discard(gone)
        assert not connections.draining
        connections.drain()
        assert connections.draining

    asyncio.run(scenario())
    assert (gone.asked, still.asked) == (0, 1)


def test_ended() -> None:
    """The end is when the last one is gone, one that came meanwhile included."""

    async def scenario() -> None:
        connections, first, second = Connections(), Connection(), Connection()
        await connections.ended()
        connections.add(first)
        ended = asyncio.create_task(connections.ended())
        await asyncio.sleep(0)
        connections.add(second)
        connections.discard(first)
        await asyncio.sleep(0)
        assert not ended.done()
        connections.discard(second)
        await ended

    asyncio.run(asyncio.wait_for(scenario(), DEADLINE))
