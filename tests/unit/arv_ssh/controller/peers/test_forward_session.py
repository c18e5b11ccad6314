"""Requests passed on to another controller, and what comes back."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine
from typing import Any

import pytest
import uvloop

from arv_ssh.controller.peers import forward_session
from arv_ssh.errors import BadGateway, Forbidden, HttpError, Unavailable
from arv_ssh.net.http_messages import Request, Response, Upgrade
from arv_ssh.net.http_server import HttpConnection
from arv_ssh.net.tls import client_context
from arv_ssh.net.tls_transport import TlsLayer
from arv_ssh.net.upgraded import Upgraded
from crunch_sshd.gateway import certificate
from tests.timing import DEADLINE

UUID = "zzzzz-dz642-abcdeabcdeabcde"
CONTEXT, _ = certificate.fresh()
REQUEST = Request(
    "POST", f"/arvados/v1/connect/{UUID}/ssh", "", {"upgrade": "ssh", "authorization": "Bearer v2/token/secret"},
    b"login_username=crunch&detach_keys=&other=x", "203.0.113.9", "req-01234567890123456789",
)  # fmt: skip


class Other:
    """Another controller, which answers with ``answer``, or raises it."""

    def __init__(self, answer: Upgrade | HttpError, *, tls: bool = True) -> None:
        self.answer = answer
        self.tls = tls
        self.seen: list[Request] = []

    async def _handle(self, request: Request) -> Response | Upgrade:
        self.seen.append(request)
        if isinstance(self.answer, HttpError):
            raise self.answer
        return self.answer

    def _accept(self) -> asyncio.BaseProtocol:
        connection = HttpConnection(self._handle)
        return TlsLayer(CONTEXT, connection, server_side=True) if self.tls else connection

    async def ask(self, request: Request = REQUEST, *, insecure: bool = True) -> Upgraded:
        listener = socket.create_server(("127.0.0.1", 0))
        server = await asyncio.get_running_loop().create_server(self._accept, sock=listener)
        url = f"http{'s' * self.tls}://127.0.0.1:{listener.getsockname()[1]}"
        try:
            return await forward_session.pass_on(url, UUID, request, client_context(insecure=insecure))
        finally:
            server.close()


def run(scenario: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(asyncio.wait_for(scenario, DEADLINE))


KEYS = [("X-Arvados-Ssh-Host-Key", "ssh-ed25519 AAAA"), ("X-Arvados-Ssh-Other-Host-Keys", "ecdsa-sha2-nistp256 AAAA")]


def switching(transports: list[asyncio.Transport]) -> Upgrade:
    def start(transport: asyncio.Transport, early: bytes) -> None:
        transports.append(transport)
        transport.write(b"SSH-2.0-x\r\n")

    return Upgrade("ssh", [*KEYS, ("X-Other", "not the client's")], start)


@pytest.mark.parametrize("tls", [True, False])
def test_what_goes_along(tls: bool) -> None:
    """The user's own token, form, address and request id go along; the host keys come back, once, marked as passed."""

    async def scenario() -> None:
        transports: list[asyncio.Transport] = []
        other = Other(switching(transports), tls=tls)
        passed = await other.ask()
        (seen,) = other.seen
        assert seen.path == f"/arvados/v1/containers/{UUID}/ssh" and seen.token() == "v2/token/secret"
        assert seen.form() == {"login_username": "crunch", "detach_keys": "", "no_forward": "true"}
        assert seen.headers["x-forwarded-for"] == "203.0.113.9" and seen.request_id == REQUEST.request_id
        assert forward_session.headers_for_client(passed) == KEYS
        for transport in (passed.transport, *transports):
            transport.abort()
        await asyncio.sleep(0)

    run(scenario())


def test_never_twice() -> None:
    """A request that was passed on once is not passed on again."""
    again = Request(
        "POST", "", "", REQUEST.headers, REQUEST.body + b"&no_forward=true", REQUEST.peer, REQUEST.request_id
    )
    other = Other(Forbidden("never asked"))
    with pytest.raises(Unavailable, match="now has its tunnel at another controller"):
        run(other.ask(again))
    assert other.seen == []


def test_its_refusal() -> None:
    """The other controller's refusal is the client's answer, status and sentence."""
    with pytest.raises(Forbidden, match="not your container"):
        run(Other(Forbidden("not your container")).ask())


def test_an_untrusted_one() -> None:
    """A controller whose certificate is not trusted gets no token."""
    other = Other(Forbidden("never asked"))
    with pytest.raises(BadGateway, match="cannot be trusted .*self.signed"):
        run(other.ask(insecure=False))
    assert other.seen == []


def test_none_there() -> None:
    """A controller that is down is named."""

    async def scenario() -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            url = f"https://127.0.0.1:{probe.getsockname()[1]}"
            with pytest.raises(Unavailable, match=f"{url} cannot be reached"):
                await forward_session.pass_on(url, UUID, REQUEST, client_context(insecure=True))

    run(scenario())
