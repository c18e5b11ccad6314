"""The controller's dial of a gateway: the real one over a container in memory, and impostors of every kind."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from arv_ssh.controller.gateways import dial
from arv_ssh.controller.gateways.dial import GatewayConnection, NotTheGateway, Target
from arv_ssh.errors import BadGateway, BadRequest, Forbidden, GatewayTimeout, HttpError, Unavailable
from arv_ssh.trust import credentials, host_key
from arv_ssh.trust.session_claim import SessionClaim
from crunch_sshd.gateway import certificate
from crunch_sshd.gateway.connection import Login
from crunch_sshd.gateway.gateway import Gateway
from tests.unit.crunch_sshd.double import MemoryRuntime

UUID = "zzzzz-dz642-abcdeabcdeabcde"
SECRET = credentials.container_secret("root token", UUID)
CONTEXT, DER = certificate.fresh()
RESPOND = credentials.respond_auth(SECRET, credentials.request_auth(SECRET, DER))
HEAD = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: ssh\r\n"


def target(address: str, **changes: Any) -> Target:
    session = SessionClaim(UUID, int(time.time()) + 60, "", "req-1", "zzzzz-tpzed-xurymjxw79nv3jz")
    return Target(SECRET, address, replace(session, **changes), "")


@pytest.fixture
def address() -> Iterator[str]:
    """The address of a gateway for UUID."""
    gateway = Gateway(container_uuid=UUID, secret=SECRET, runtime=MemoryRuntime())
    yield gateway.start()
    gateway.stop()
    gateway.stop()


def reach(one: Target, use: Callable[[GatewayConnection], Awaitable[None]] | None = None) -> None:
    """Connect, use the connection, and close it."""

    async def scenario() -> None:
        connection = await dial.connect(one)
        try:
            if use is not None:
                await use(connection)
        finally:
            connection.transport.abort()
            await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(scenario(), 30))


CAUSES = {NotTheGateway: "proof", BadGateway: "refused", GatewayTimeout: "timeout"}
"""What is counted for each failure."""


def impostor(one: Target, answer: bytes | None, kind: type[HttpError], sentence: str) -> None:
    """Dial a TLS server that gives ``answer`` to anything (None: it says nothing), and expect to be told off."""

    async def scenario() -> None:
        done = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await reader.readuntil(b"\r\n\r\n")
                if answer is not None:
                    writer.write(answer)
                    await writer.drain()
                else:
                    await reader.read()
            except ConnectionError:
                pass  # the dialler was faster
            finally:
                writer.transport.abort()
                done.set()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=CONTEXT)
        port = server.sockets[0].getsockname()[1]
        try:
            with pytest.raises(HttpError, match=sentence) as caught:
                await dial.connect(replace(one, gateway_address=f"127.0.0.1:{port}"))
            assert type(caught.value) is kind and caught.value.dial_failure == CAUSES[kind]
            assert SECRET not in str(caught.value)
            await done.wait()
        finally:
            server.close()
            await server.wait_closed()

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_proven_both_ways(address: str) -> None:
    """The real gateway lets us in, and its host key is the container's."""

    async def use(connection: GatewayConnection) -> None:
        assert connection.host_key == host_key.public_line(SECRET)
        assert connection.other_host_keys == host_key.public_line(SECRET, host_key.ECDSA)
        assert not connection.transport.is_reading()

    reach(target(address), use)


@pytest.mark.parametrize("any_username", [False, True])
def test_the_ssh_user_name(any_username: bool) -> None:
    """The gateway is told, with proof, when the SSH user name of a client that is not ours must not count."""
    logins: list[Login] = []
    gateway = Gateway(container_uuid=UUID, secret=SECRET, runtime=MemoryRuntime())
    gateway._opened = lambda transport, early, login: (logins.append(login), transport.abort())[0]  # type: ignore
    try:
        reach(replace(target(gateway.start()), any_username=any_username))
    finally:
        gateway.stop()
    assert [login.any_username for login in logins] == [any_username]


def test_login_name(address: str) -> None:
    """The gateway's refusal of a login name is told in its own words."""
    reach(target(address, login_username="crunch"))
    with pytest.raises(Forbidden, match="no user 'alice'"):
        reach(target(address, login_username="alice"))


def test_detach_keys(address: str) -> None:
    """So is that of detach keys which are none."""
    with pytest.raises(BadRequest, match="detach keys"):
        reach(replace(target(address), detach_keys="nonsense"))


def test_wrong_secret(address: str) -> None:
    """A gateway that does not know our secret refuses us, and the user is told that it did."""
    with pytest.raises(BadGateway, match=f"gateway of container {UUID} refused the session.*Authorization is wrong"):
        reach(replace(target(address), secret="another"))


def test_other_container(address: str) -> None:
    """A gateway of another container at the recorded address refuses."""
    with pytest.raises(BadGateway, match=f"this is the gateway of {UUID}"):
        reach(target(address, container_uuid="zzzzz-dz642-000000000000000"))


def test_address_of_another_name(address: str) -> None:
    """A gateway reached under another address than it recorded refuses: the proof is over the address."""
    with pytest.raises(BadGateway, match="Session-Authorization is wrong"):
        reach(target(address.replace("127.0.0.1", "localhost")))


def test_nobody_listens() -> None:
    """An address where nobody listens is 503 with the address."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(Unavailable, match=f"cannot be reached at {where}.*node may be down") as caught:
            reach(target(where))
        assert caught.value.dial_failure == "unreachable"


@pytest.mark.parametrize("wrong", ["", "host", "host:", ":22", "host:port", "host:0", "host:99999", "[::1"])
def test_address_that_is_none(wrong: str) -> None:
    """An address on the record that is no host:port is told as such."""
    with pytest.raises(BadGateway, match="is not host:port"):
        reach(target(wrong))


def test_silent_listener(monkeypatch: pytest.MonkeyPatch) -> None:
    """What accepts and never speaks TLS is given up."""
    monkeypatch.setattr(dial, "CONNECT_TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with pytest.raises(GatewayTimeout, match="did not answer in time"):
            reach(target(f"127.0.0.1:{listener.getsockname()[1]}"))


def test_silent_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    """What speaks TLS and never answers is given up."""
    monkeypatch.setattr(dial, "ANSWER_TIMEOUT", 0.05)
    impostor(target(""), None, GatewayTimeout, "did not answer in time")


@pytest.mark.parametrize(
    "headers",
    ["", "X-Arvados-Authorization-Response: \r\n", f"X-Arvados-Authorization-Response: {RESPOND[::-1]}\r\n"],
    ids=["none", "empty", "wrong"],
)
def test_unproven_gateway(headers: str) -> None:
    """What cannot prove that it knows the container's secret is not its gateway, whatever host key it names."""
    key = f"X-Arvados-Ssh-Host-Key: {host_key.public_line(SECRET)}\r\n"
    impostor(target(""), (HEAD + headers + key + "\r\n").encode(), NotTheGateway, "is not its gateway")


OWN, ECDSA = host_key.public_line(SECRET), host_key.public_line(SECRET, host_key.ECDSA)


@pytest.mark.parametrize(
    "keys",
    [
        {"Host-Key": "ssh-ed25519 AAAA"},
        {"Host-Key": ECDSA},
        {"Host-Key": f"{OWN}, {ECDSA}"},
        {"Host-Key": OWN, "Other-Host-Keys": "ecdsa-sha2-nistp256 AAAA"},
        {"Host-Key": OWN, "Other-Host-Keys": f"{ECDSA}, ssh-rsa AAAA"},
        {"Host-Key": OWN, "Other-Host-Keys": host_key.public_line(SECRET[::-1], host_key.ECDSA)},
        {"Other-Host-Keys": ECDSA},
    ],
)
def test_wrong_host_key(keys: dict[str, str]) -> None:
    """A proven gateway that announces a key that is not the container's, or only others, is refused."""
    named = "".join(f"X-Arvados-Ssh-{name}: {key}\r\n" for name, key in keys.items())
    headers = f"X-Arvados-Authorization-Response: {RESPOND}\r\n{named}"
    impostor(target(""), (HEAD + headers + "\r\n").encode(), NotTheGateway, "host key that is not the container's")


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (b"", "closed the connection"),
        (b"SSH-2.0-x\r\n", "does not answer in HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "refused the session"),
        (b'HTTP/1.1 502 Bad Gateway\r\nContent-Length: 21\r\n\r\n{"errors": ["wrong"]}', "the session: wrong"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n", "a protocol other than SSH"),
        (b"HTTP/1.1 101 Switching Proto", "closed the connection"),
    ],
    ids=["nothing", "ssh", "200", "502", "websocket", "half"],
)
def test_nonsense(answer: bytes, sentence: str) -> None:
    """Any other answer is 502 in words."""
    impostor(target(""), answer, BadGateway, sentence)


def test_stock_gateway_and_early_bytes() -> None:
    """A stock Arvados gateway proves itself and names no host key; bytes glued to its answer are SSH's."""
    found: list[GatewayConnection] = []

    async def scenario() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(f"{HEAD}X-Arvados-Authorization-Response: {RESPOND}\r\n\r\nSSH-2.0-Go\r\n".encode())
            await writer.drain()
            await reader.read()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=CONTEXT)
        port = server.sockets[0].getsockname()[1]
        found.append(await dial.connect(target(f"127.0.0.1:{port}")))
        found[0].transport.close()
        server.close()
        await server.wait_closed()

    asyncio.run(asyncio.wait_for(scenario(), 30))
    assert (found[0].host_key, found[0].early) == (None, b"SSH-2.0-Go\r\n")
