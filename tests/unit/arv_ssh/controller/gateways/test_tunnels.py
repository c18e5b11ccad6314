"""Gateway tunnels at the controller: the endpoint, and the dial through them to a real gateway over memory."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop

from arv_ssh.config.cluster_config import ClusterConfig, parse
from arv_ssh.controller.gateways import dial
from arv_ssh.controller.gateways.dial import GatewayConnection, Target
from arv_ssh.controller.gateways.tunnels import PATH, STREAM_PATH, Tunnels
from arv_ssh.controller.peers.peers import Peers
from arv_ssh.errors import BadGateway, HttpError, Unavailable
from arv_ssh.net.http_client import address_of
from arv_ssh.net.http_messages import Request, Response, Upgrade
from arv_ssh.net.http_server import HttpConnection
from arv_ssh.net.tls import client_context
from arv_ssh.net.tls_transport import TlsLayer
from arv_ssh.net.upgraded import Upgraded, UpgradeRequest, open_upgraded
from arv_ssh.trust import credentials, host_key
from arv_ssh.trust.session_claim import SessionClaim
from crunch_sshd.gateway import certificate, tunnel
from crunch_sshd.gateway.gateway import Gateway
from crunch_sshd.gateway.tunnel import Uplink
from tests.timing import DEADLINE
from tests.unit.crunch_sshd.double import MemoryRuntime

UUID = "zzzzz-dz642-abcdeabcdeabcde"
ROOT = "root token"
SECRET = credentials.container_secret(ROOT, UUID)
CONTEXT, _ = certificate.fresh()
OWN, OTHER = "https://10.0.0.1:8443", "https://10.0.0.2:8443"
TRUSTING = client_context(insecure=True)
SERVERS: list[asyncio.AbstractServer] = []
"""Those of the test that runs."""
NODES: list[Node] = []
"""The same, of gateways; stopping one twice is allowed."""


def config(limit: int = 0) -> ClusterConfig:
    return parse("zzzzz", {"SystemRootToken": ROOT, "API": {"MaxGatewayTunnels": limit}})


class Host:
    """Tunnels behind an HTTPS port and a private socket of their own."""

    def __init__(self, directory: Path, limit: int = 0) -> None:
        self.peers = Peers(directory / "own.sock", OWN, (OWN, OTHER))
        self.tunnels = Tunnels(config(limit), self.peers)
        self.url = ""

    async def serve(self) -> Host:
        loop = asyncio.get_running_loop()
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        SERVERS.append(
            await loop.create_server(
                lambda: TlsLayer(CONTEXT, HttpConnection(self._handle), server_side=True), sock=listener
            )
        )
        SERVERS.append(
            await loop.create_unix_server(lambda: HttpConnection(self._handle_private), str(self.peers.own_socket))
        )
        return self

    async def _handle(self, request: Request) -> Response | Upgrade:
        found = PATH.fullmatch(request.path)
        assert found, request.path
        return self.tunnels.handle(found.group(1) or found.group(2), request)

    async def _handle_private(self, request: Request) -> Response | Upgrade:
        found = STREAM_PATH.fullmatch(request.path)
        assert found, request.path
        return self.tunnels.handle_stream(found.group(1))

    async def ask(self, uuid: str = UUID, secret: str = SECRET, name: str = "containers") -> Upgraded:
        """Ask for a tunnel as crunch-run does."""
        path = f"/arvados/v1/{name}/{uuid}/gateway_tunnel"
        request = UpgradeRequest(path, "host", [], {"auth_secret": secret}, "tunnel")
        return await open_upgraded(address_of(self.url, TRUSTING), request, answer_timeout=DEADLINE)

    async def connect(self, address: str = f"tunnel {OWN}/") -> GatewayConnection:
        request_id = f"req-{secrets.token_hex(10)}"  # as each request has its own: a gateway takes no session twice
        session = SessionClaim(UUID, int(time.time()) + 60, "", request_id, "zzzzz-tpzed-xurymjxw79nv3jz")
        return await dial.connect(Target(SECRET, address, session, "", dialer=self.tunnels))


class Node:
    """A gateway that nobody can dial, with a tunnel to ``host``; ``addresses`` are those that it was reached at."""

    def __init__(self, host: Host) -> None:
        self.addresses: list[str] = []
        self.gateway = Gateway(
            container_uuid=UUID,
            secret=SECRET,
            runtime=MemoryRuntime(),
            uplink=Uplink(host.url, TRUSTING),
            moved=self.addresses.append,
        )
        NODES.append(self)

    async def start(self) -> str:
        return await asyncio.to_thread(self.gateway.start)

    async def stop(self) -> None:
        await asyncio.to_thread(self.gateway.stop)


async def until(look: Callable[[], object]) -> None:
    while not look():
        await asyncio.sleep(0.01)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    """Play a scenario, and end the servers and gateways that it started."""

    async def whole() -> None:
        try:
            await asyncio.wait_for(scenario, DEADLINE)
        finally:
            for node in NODES:
                await node.stop()
            for server in SERVERS:
                server.close()
            NODES.clear()
            SERVERS.clear()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(whole())


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Return after a loss at once."""
    monkeypatch.setattr(tunnel, "FIRST_PAUSE", 0.01)


async def greeting(connection: GatewayConnection) -> bytes:
    """Return the first bytes that come out of a session."""
    came: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    class Reader(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            if not came.done():
                came.set_result(data)

        def connection_lost(self, exc: Exception | None) -> None:
            if not came.done():
                came.set_exception(exc or EOFError())

    if connection.early:
        return connection.early
    connection.transport.set_protocol(Reader())
    connection.transport.resume_reading()
    return await came


def test_a_session_through_a_tunnel(tmp_path: Path) -> None:
    """A gateway without a listening socket is reached through its tunnel, proven as any, and says where it is."""

    async def scenario() -> None:
        host = await Host(tmp_path).serve()
        node = Node(host)
        assert await node.start() == f"tunnel {OWN}/" == node.addresses[0]
        connection = await host.connect()
        assert connection.host_key == host_key.public_line(SECRET)
        assert (await greeting(connection)).startswith(b"SSH-2.0-")
        await node.stop()
        await until(lambda: not len(host.tunnels))
        with pytest.raises(Unavailable, match="tunnel of container .* is down"):
            await host.connect()

    run(scenario())


def test_the_address_is_signed(tmp_path: Path) -> None:
    """A session signed for another address than where the tunnel is is refused by the gateway."""

    async def scenario() -> None:
        host = await Host(tmp_path).serve()
        node = Node(host)
        await node.start()
        with pytest.raises(BadGateway, match="X-Arvados-Session-Authorization is wrong"):
            await host.connect(f"tunnel {OTHER}/")
        await node.stop()

    run(scenario())


def test_a_stock_gateways_loopback_address(tmp_path: Path) -> None:
    """An address on the loopback is one nobody can dial where there is a tunnel: a stock crunch-run records such."""

    async def scenario() -> None:
        host = await Host(tmp_path).serve()
        node = Node(host)
        await node.start()
        with pytest.raises(BadGateway, match="Session-Authorization is wrong"):  # it was asked, and not the port
            await host.connect("127.0.0.1:9")
        await node.stop()
        with pytest.raises(Unavailable, match="cannot be reached"):
            await host.connect("127.0.0.1:9")

    run(scenario())


def test_through_another_process_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process asks the others of its host for a stream through the tunnel that one of them has."""

    async def scenario() -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        holder, empty = await Host(tmp_path / "a").serve(), await Host(tmp_path / "b").serve()
        asking = Tunnels(config(), Peers(tmp_path / "c.sock", OWN, (OWN, OTHER)))
        gone = tmp_path / "gone.sock"
        siblings = [gone, empty.peers.own_socket, holder.peers.own_socket]
        monkeypatch.setattr(Peers, "siblings", lambda self: siblings)
        node = Node(holder)
        address = await node.start()
        session = SessionClaim(UUID, int(time.time()) + 60, "", "req-1", "zzzzz-tpzed-xurymjxw79nv3jz")
        connection = await dial.connect(Target(SECRET, address, session, "", dialer=asking))
        assert (await greeting(connection)).startswith(b"SSH-2.0-")
        returned = asyncio.ensure_future(holder.tunnels.lent_ended())
        await asyncio.sleep(0)
        assert not returned.done()
        connection.transport.abort()
        await returned
        del siblings[-1]
        with pytest.raises(Unavailable, match="is down"):
            await dial.connect(Target(SECRET, address, session, "", dialer=asking))
        await node.stop()

    run(scenario())


def test_returning(tmp_path: Path) -> None:
    """A lost tunnel is opened again, perhaps at another controller; sessions of the old one end, new ones work."""

    async def scenario() -> None:
        host = await Host(tmp_path).serve()
        node = Node(host)
        await node.start()
        connection = await host.connect()
        host.tunnels._peers = Peers(tmp_path / "own.sock", OTHER, (OWN, OTHER))
        host.tunnels.close()
        with pytest.raises((EOFError, ConnectionError), match="tunnel"):
            while True:
                await greeting(connection)
        await until(lambda: node.addresses == [f"tunnel {OWN}/", f"tunnel {OTHER}/"])
        assert (await greeting(await host.connect(f"tunnel {OTHER}/"))).startswith(b"SSH-2.0-")
        await node.stop()

    run(scenario())


def test_a_controller_that_leaves(tmp_path: Path) -> None:
    """A draining controller has its gateways open another tunnel, while its own sessions go on."""

    async def scenario() -> None:
        host = await Host(tmp_path).serve()
        node = Node(host)
        await node.start()
        before = await host.connect()
        host.tunnels.drain()
        await until(lambda: len(node.addresses) == 2 and len(host.tunnels) == 2)
        assert (await greeting(before)).startswith(b"SSH-2.0-")
        assert (await greeting(await host.connect())).startswith(b"SSH-2.0-")
        await node.stop()
        await until(lambda: not len(host.tunnels))

    run(scenario())


def test_a_draining_process_goes_through_its_successor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a draining process still has to tell a gateway goes through the tunnel that its successor has by then."""

    async def scenario() -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        leaving, successor = await Host(tmp_path / "a").serve(), await Host(tmp_path / "b").serve()
        monkeypatch.setattr(Peers, "siblings", lambda self: [successor.peers.own_socket])
        former = await leaving.ask()
        leaving.tunnels.drain()
        node = Node(successor)
        try:
            connection = await leaving.connect(await node.start())
            assert (await greeting(connection)).startswith(b"SSH-2.0-")
            assert len(leaving.tunnels) == 1
            connection.transport.abort()
        finally:
            former.transport.abort()  # nobody else ends it
            await node.stop()

    run(scenario())


def test_a_newer_tunnel(tmp_path: Path) -> None:
    """A newer tunnel of a container takes the older one's place; the older's end changes nothing for the newer."""

    async def scenario() -> None:
        host = await Host(tmp_path).serve()
        first = await host.ask()
        node = Node(host)
        address = await node.start()
        assert len(host.tunnels) == 2
        first.transport.abort()
        await until(lambda: len(host.tunnels) == 1)
        assert (await greeting(await host.connect(address))).startswith(b"SSH-2.0-")
        await node.stop()

    run(scenario())


def test_the_answer(tmp_path: Path) -> None:
    """Both names of the endpoint answer 101 with the controller's internal URL, in the form of stock Arvados."""

    async def scenario() -> None:
        host = await Host(tmp_path).serve()
        for name in ("containers", "connect"):
            opened = await host.ask(name=name)
            assert opened.headers["connection"] == "upgrade" and opened.headers["upgrade"] == "tunnel"
            assert opened.headers["x-arvados-internal-url"] == f"{OWN}/"
            opened.transport.abort()
        host.tunnels._peers = Peers(tmp_path / "own.sock", "", ())
        opened = await host.ask()
        assert "x-arvados-internal-url" not in opened.headers
        opened.transport.abort()

    run(scenario())


def test_refusals(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A wrong secret is 401, what is no container 404; no secret, right or wrong, is in the log or the sentence."""

    async def scenario() -> None:
        host = await Host(tmp_path).serve()
        wrong = credentials.container_secret(ROOT, "zzzzz-dz642-000000000000000")
        for uuid, secret, status, sentence in (
            (UUID, wrong, 401, f"auth_secret is not that of container {UUID}"),
            (UUID, "", 401, "auth_secret"),
            ("zzzzz-tpzed-xurymjxw79nv3jz", SECRET, 404, "not a container's UUID"),
            ("x", SECRET, 404, "'x' was not found"),
        ):
            with pytest.raises(HttpError, match=sentence) as caught:
                await host.ask(uuid, secret)
            assert caught.value.status == status
            assert secret == "" or secret not in str(caught.value) + caplog.text
        assert len(host.tunnels) == 0

    run(scenario())


@pytest.mark.parametrize(
    ("method", "upgrade_to", "sentence"),
    [("GET", "tunnel", "use POST to open"), ("POST", "ssh", "header Upgrade: tunnel")],
)
def test_other_requests(method: str, upgrade_to: str, sentence: str) -> None:
    """A request that is none for a tunnel is told what one looks like."""
    tunnels = Tunnels(config(), Peers(Path("own.sock"), OWN, ()))
    body = f"auth_secret={SECRET}".encode()
    with pytest.raises(HttpError, match=sentence) as caught:
        tunnels.handle(UUID, Request(method, "", "", {"upgrade": upgrade_to}, body, "192.0.2.1", "req-1"))
    assert caught.value.status == 400


def test_the_limit(tmp_path: Path) -> None:
    """One tunnel over MaxGatewayTunnels is refused with the limit's name; one that ends makes room."""

    async def scenario() -> None:
        host = await Host(tmp_path, limit=2).serve()
        first, second = await host.ask(), await host.ask()
        with pytest.raises(Unavailable, match=r"API\.MaxGatewayTunnels: 2"):
            await host.ask()
        first.transport.abort()
        await until(lambda: len(host.tunnels) == 1)
        third = await host.ask()
        for opened in (second, third):
            opened.transport.abort()

    run(scenario())


def test_whose_tunnel_it_is(tmp_path: Path) -> None:
    """An address of this controller, or none of a tunnel, is dialled from here; another controller's is passed on."""
    tunnels = Tunnels(config(), Peers(tmp_path / "own.sock", OWN, (OWN, OTHER)))
    assert tunnels.elsewhere(UUID, "10.0.0.7:34567") == ""
    assert tunnels.elsewhere(UUID, f"tunnel {OWN}/") == tunnels.elsewhere(UUID, f"tunnel {OWN}") == ""
    assert tunnels.elsewhere(UUID, f"tunnel {OTHER}/") == OTHER
    for stranger in ("https://evil.example.org/", "", OWN + ".evil.example.org/", f"{OTHER}/path"):
        with pytest.raises(Unavailable, match="not one of this cluster's Services.Controller.InternalURLs"):
            tunnels.elsewhere(UUID, f"tunnel {stranger}")
    alone = Tunnels(config(), Peers(tmp_path / "own.sock", "", ()))
    assert alone.elsewhere(UUID, "tunnel https://zzzzz.example.org") == ""


def test_first_tunnel_takes_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    """A gateway starts without its tunnel where no controller answers, says why, and keeps trying."""
    monkeypatch.setattr("crunch_sshd.gateway.gateway.FIRST_TUNNEL", 0.05)

    async def scenario() -> None:
        host = await Host(tmp_path).serve()
        nobody = Host(tmp_path)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            nobody.url = f"https://127.0.0.1:{probe.getsockname()[1]}"
        node = Node(nobody)
        assert await node.start() == "" and node.addresses == []
        assert node.gateway._tunnel is not None
        node.gateway._tunnel._uplink = Uplink(host.url, TRUSTING)
        await until(lambda: node.addresses)
        assert (await greeting(await host.connect())).startswith(b"SSH-2.0-")
        await node.stop()

    run(scenario())
    with suppress(json.JSONDecodeError):  # nothing was logged as plain text that holds the secret
        assert SECRET not in capfd.readouterr().err
