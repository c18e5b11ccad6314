"""When a peer counts as dead: what the kernel says of a connection, look by look."""

from __future__ import annotations

import asyncio
import socket
import struct
from functools import partial
from typing import Any

import pytest

from arv_ssh.net import dead_peers
from arv_ssh.net.dead_peers import DeadPeerWatch
from tests.timing import DEADLINE, SECOND
from tests.unit.arv_ssh.streams import Peer


class Connection:
    """A TCP socket as the kernel would describe it; ``last_ack`` in seconds of the test's clock."""

    family = socket.AF_INET

    def __init__(self) -> None:
        self.now = 1000.0
        self.probes = 0
        self.unacknowledged = 0
        self.last_ack = 900.0

    def setsockopt(self, *option: int) -> None:
        """Take any."""

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        numbers = [0] * 21
        numbers[3], numbers[12], numbers[20] = self.probes, self.unacknowledged, int((self.now - self.last_ack) * 1000)
        return struct.pack("=8B13I", *numbers)


def looks(connection: Connection, seconds: int, *, acknowledging: bool = False) -> bool:
    """Look every second for some ``seconds``; say whether the peer was found dead."""

    async def scenario() -> bool:
        watch = DeadPeerWatch(connection, lambda: None)
        watch.close()
        for _ in range(seconds):
            connection.now += 1
            if acknowledging:
                connection.last_ack = connection.now - 0.01
            if watch._is_dead(connection.now):
                return True
        return False

    return asyncio.run(scenario())


def test_an_idle_connection_is_the_kernels_business() -> None:
    """Without anything to acknowledge nobody is found dead here, however long ago the last word was."""
    assert not looks(Connection(), 500)


def test_nothing_acknowledged() -> None:
    """What was sent and is not acknowledged for PATIENCE seconds means a dead peer, and not before."""
    connection = Connection()
    connection.unacknowledged = 3
    assert not looks(connection, int(dead_peers.PATIENCE))
    assert looks(connection, int(dead_peers.PATIENCE) + 2)


def test_a_long_silence_before_the_first_word_does_not_count() -> None:
    """A peer that was quiet for long has its full time from when something is sent to it."""
    connection = Connection()
    connection.last_ack = 0.0
    connection.unacknowledged = 1
    assert not looks(connection, 5)


def test_a_slow_peer_that_acknowledges_lives() -> None:
    """There is always something on its way to a slow peer, and it acknowledges."""
    connection = Connection()
    connection.unacknowledged = 10
    assert not looks(connection, 500, acknowledging=True)


def test_probes_of_a_peer_that_stopped_reading() -> None:
    """A peer that stopped reading lives while it answers the kernel's probes, and is dead when it does not."""
    connection = Connection()
    connection.probes = 1
    assert not looks(connection, 500, acknowledging=True)
    connection.probes = 2
    assert looks(connection, 500)


@pytest.mark.parametrize("side", ["accepted", "dialled"])
def test_every_tcp_connection_is_asked_after(side: str) -> None:
    """The kernel is told to probe a quiet peer, and gives up within a minute."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        accepted: asyncio.Queue[Peer] = asyncio.Queue()

        def accept() -> Peer:
            peer = Peer()
            accepted.put_nowait(peer)
            return peer

        server = await loop.create_server(accept, "127.0.0.1", 0)
        _, client = await loop.create_connection(Peer, *server.sockets[0].getsockname()[:2])
        other = await accepted.get()
        await other.connected.wait()
        transport = client.transport if side == "dialled" else other.transport
        sock = transport.get_extra_info("socket")
        watch = DeadPeerWatch(sock, lambda: None)
        option = sock.getsockopt
        assert option(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        idle, interval, count = (
            option(socket.IPPROTO_TCP, one) for one in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
        assert idle + interval * count < dead_peers.DEAD_AFTER
        assert dead_peers.PATIENCE + 2 * dead_peers.LOOK < dead_peers.DEAD_AFTER
        assert not watch._is_dead(1e9)
        watch.close()
        for peer in (client, other):
            peer.transport.close()
            await peer.lost.wait()
        server.close()

    asyncio.run(asyncio.wait_for(scenario(), DEADLINE))


def test_other_connections_need_no_watch() -> None:
    """A unix socket, or a stream inside another connection, is left alone."""

    async def scenario() -> None:
        DeadPeerWatch(None, lambda: None).close()
        near, far = socket.socketpair()
        with far:
            transport, _ = await asyncio.get_running_loop().create_connection(Peer, sock=near)
            watch = DeadPeerWatch(transport.get_extra_info("socket"), lambda: None)
            assert watch._share is None
            transport.close()
            await asyncio.sleep(0)

    asyncio.run(scenario())


def test_one_timer_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many connections there are, one timer finds the dead, tells each once, and ends with the last of them."""
    monkeypatch.setattr(dead_peers, "LOOK", 0.1 * SECOND)
    monkeypatch.setattr(dead_peers, "PATIENCE", 0.2 * SECOND)

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        timers = 0
        call_later = loop.call_later

        def counting(*arguments: Any) -> asyncio.TimerHandle:
            nonlocal timers
            timers += 1
            return call_later(*arguments)

        monkeypatch.setattr(loop, "call_later", counting)
        told: list[int] = []
        watches = []
        for number in range(4 * dead_peers.SHARES):
            connection = Connection()
            connection.unacknowledged = number % 2
            watches.append(DeadPeerWatch(connection, partial(told.append, number)))
        assert timers == 1
        watches[1].close()
        dead = list(range(3, len(watches), 2))
        while len(told) < len(dead):
            await asyncio.sleep(0)
        rounds = dead_peers._rounds_of(loop)
        for _ in range(dead_peers.SHARES):  # one more round
            rounds._tick()
        assert sorted(told) == dead
        for watch in watches:
            watch.close()
        while rounds._running:
            await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(scenario(), DEADLINE))
