"""HTTP to ports of the container, with a broker of the test's own: limits, time-outs, failures, and the audit."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop

from arv_ssh.audit.trail import Trail
from arv_ssh.errors import BadGateway, BadRequest, Forbidden, GatewayTimeout, HttpError, Unavailable
from arv_ssh.net.http_messages import Request, StreamedResponse
from crunch_sshd.audit.channel_audit import GatewayAudit
from crunch_sshd.forwarding.broker import BrokerError, Found
from crunch_sshd.gateway import ports
from crunch_sshd.gateway.ports import Ports
from crunch_sshd.ssh.limits import PORT_CONNECTIONS
from tests.timing import DEADLINE
from tests.unit.crunch_sshd.double import MemoryRuntime

UUID = "zzzzz-dz642-abcdeabcdeabcde"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
OWN = "172.17.0.2"
Answer = Callable[[list[str], int], socket.socket]


def run(scenario: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # a gateway's loop
        runner.run(asyncio.wait_for(scenario, DEADLINE))


def request(target: str = "/x", **headers: str) -> Request:
    raw = [(b"host", b"h"), *((name.replace("_", "-").encode(), value.encode()) for name, value in headers.items())]
    named = {name.decode(): value.decode() for name, value in raw}
    return Request("GET", target, "", named, b"", "", "req-1", target=target.encode(), raw_headers=raw)


class Broker:
    """A broker that connects as ``answer`` does."""

    made: list[Broker]
    answer: Answer

    def __init__(self, container: object, account: object) -> None:
        self.spent = self.closed = False
        self.made.append(self)

    def connect(self, addresses: list[str], port: int) -> socket.socket:
        return type(self).answer(addresses, port)

    def resolve(self, host: str) -> list[Found]:
        return [Found(host, host == OWN)]

    def close(self) -> None:
        self.closed = True


class Runtime(MemoryRuntime):
    """A runtime whose container can be entered, and has these files."""

    files = {"/etc/hostname": "box\n", "/etc/hosts": f"127.0.0.1 localhost\n{OWN} box\n192.0.2.1 box\n"}

    def host(self) -> Any:
        return SimpleNamespace(read_text=self.files.__getitem__)


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> type[Broker]:
    class Fresh(Broker):
        made: list[Broker] = []

    monkeypatch.setattr(ports, "BrokerClient", Fresh)
    return Fresh


@asynccontextmanager
async def served(broker: type[Broker], said: bytes = OK) -> AsyncIterator[list[bytes]]:
    """Have the broker connect to a server that answers each connection with ``said``; give the heads it gets."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(said)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    broker.answer = staticmethod(lambda addresses, port: socket.create_connection(address))
    try:
        yield heads
    finally:
        server.close()


async def read(answer: object) -> bytes:
    assert isinstance(answer, StreamedResponse)
    body = b"".join([piece async for piece in answer.chunks])
    await answer.chunks.aclose()
    return body


async def refused(one: Ports, kind: type[HttpError], sentence: str, asked: Request | None = None) -> None:
    with pytest.raises(kind, match=sentence):
        await one.handle(asked or request(), 80)


def test_requests_share_a_broker(broker: type[Broker]) -> None:
    """One broker serves request after request; when it can serve no more, or nobody asks, another takes its place."""

    async def scenario() -> None:
        one = Ports(UUID, Runtime(), GatewayAudit())
        async with served(broker) as heads:
            for _ in range(2):
                assert await read(await one.handle(request(x_arvados_authorization="secret", x_other="1"), 80)) == b"ok"
            assert len(broker.made) == 1 and b"secret" not in heads[0] and b"x-other: 1" in heads[0]
            broker.made[0].spent = True
            assert await read(await one.handle(request(), 80)) == b"ok"
            assert len(broker.made) == 2
            one._stop_broker()
            assert broker.made[1].closed
            assert await read(await one.handle(request(), 80)) == b"ok" and len(broker.made) == 3
        one.close()
        assert broker.made[2].closed

    run(scenario())


def test_idle_broker(broker: type[Broker], monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker leaves the container once there has been no connection for a while."""
    monkeypatch.setattr(ports, "IDLE", 0.01)
    gone = threading.Event()
    monkeypatch.setattr(broker, "close", lambda self: gone.set())

    async def scenario() -> None:
        one = Ports(UUID, Runtime(), GatewayAudit())
        async with served(broker):
            answer = await one.handle(request(), 80)
            await asyncio.sleep(0.05)
            assert not gone.is_set()
            await read(answer)
            await asyncio.to_thread(gone.wait, DEADLINE)
        one.close()

    run(scenario())
    assert gone.is_set()


def test_where_it_listens(broker: type[Broker]) -> None:
    """The loopbacks are tried, then those of the addresses in the container's hosts file that are its own."""
    asked: list[list[str]] = []

    def answer(addresses: list[str], port: int) -> socket.socket:
        asked.append(addresses)
        raise BrokerError("Connection refused" if len(asked) == 1 else "No route to host")

    broker.answer = staticmethod(answer)

    async def scenario() -> None:
        one = Ports(UUID, Runtime(), GatewayAudit())
        await refused(one, BadGateway, r"nothing answers on port 80 of container .* \(No route to host\); start")
        assert asked == [["127.0.0.1", "::1"], [OWN]]
        one.close()

    run(scenario())


def test_limit(broker: type[Broker]) -> None:
    """There is room for so many connections, counted until each is let go of; those that failed do not count."""

    async def scenario() -> None:
        one = Ports(UUID, Runtime(), GatewayAudit())
        async with served(broker):
            answers = [await one.handle(request(), 80) for _ in range(PORT_CONNECTIONS)]
            await refused(one, Unavailable, f"{PORT_CONNECTIONS} connections to ports .* are open")
            await read(answers.pop())
            answers.append(await one.handle(request(), 80))
            for answer in answers:
                await read(answer)
        async with served(broker, b"nonsense"):
            for _ in range(PORT_CONNECTIONS + 1):
                await refused(one, BadGateway, "does not answer in HTTP")
        one.close()

    run(scenario())


def test_no_room(broker: type[Broker]) -> None:
    """Where memory is short, or the container cannot be entered, a request is refused before it costs anything."""

    def full() -> None:
        raise Unavailable("no memory")

    class Elsewhere(MemoryRuntime):
        def host(self) -> None:
            return None

    class Unknown(Runtime):
        def account(self, login_username: str) -> Any:
            raise Forbidden("no such user")

    async def scenario() -> None:
        for one, kind, sentence in (
            (Ports(UUID, Runtime(), GatewayAudit(), full), Unavailable, "no memory"),
            (Ports(UUID, Elsewhere(), GatewayAudit()), Unavailable, "does not run as root"),
            (Ports(UUID, Unknown(), GatewayAudit()), Forbidden, "no such user"),
        ):
            await refused(one, kind, sentence)
            assert one._taken == 0
            one.close()
        one = Ports(UUID, Runtime(), GatewayAudit())
        await refused(one, BadRequest, "neither a path", request("ftp://elsewhere/"))
        one.close()

    run(scenario())
    assert broker.made == []


def test_a_program_that_accepts_nothing(broker: type[Broker], monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is not made in time is 504; when it comes after all, it is closed."""
    monkeypatch.setattr(ports, "CONNECT_TIMEOUT", 0.01)
    go_on, ends = threading.Event(), socket.socketpair()

    def answer(addresses: list[str], port: int) -> socket.socket:
        go_on.wait(DEADLINE)
        return ends[0]

    broker.answer = staticmethod(answer)

    async def scenario() -> None:
        one = Ports(UUID, Runtime(), GatewayAudit())
        await refused(one, GatewayTimeout, "port 80 of container .* accepts no connections")
        go_on.set()
        assert await asyncio.to_thread(ends[1].recv, 1) == b""
        one.close()

    run(scenario())
    ends[1].close()


def test_stop(broker: type[Broker]) -> None:
    """When the gateway stops, answers under way end with an error, not as if they were whole."""

    async def scenario() -> None:
        one = Ports(UUID, Runtime(), GatewayAudit())
        async with served(broker, b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"):
            answer = await one.handle(request(), 80)
            one.close()
            with pytest.raises(BadGateway, match="closed the connection"):
                await read(answer)
            assert isinstance(answer, StreamedResponse)
            await answer.chunks.aclose()

    run(scenario())


def test_audit(broker: type[Broker], tmp_path: Path) -> None:
    """Each request is recorded with its port, its client and the bytes both ways."""
    audit = GatewayAudit(Trail("on", tmp_path, "gateway"))

    async def scenario() -> None:
        one = Ports(UUID, Runtime(), audit)
        async with served(broker) as heads:
            await read(await one.handle(request(x_forwarded_for="192.0.2.9"), 8080))
            sizes.append(len(heads[0]))
        one.close()

    sizes: list[int] = []
    run(scenario())
    audit.close()
    text = "".join(file.read_text() for file in tmp_path.iterdir())
    assert text.count('"event":"channel.begin"') == text.count('"event":"channel.end"') == 1
    for fact in (
        '"type":"port"', '"target":"port 8080"', '"client":"192.0.2.9"', '"request_id":"req-1"',
        f'"bytes_from_client":{sizes[0]}', '"bytes_to_client":40',
    ):  # fmt: skip
        assert fact in text, text
