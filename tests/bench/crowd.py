"""Thousands of idle sessions on one controller, without thousands of programs: both of their ends are in this process.

The gateway's end is the real front, TLS and proofs included, with an echo where the SSH server would be. The client's
end asks as ssh-proxy does. Every session says something now and then, as stock ssh's ServerAliveInterval has it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, cast

import uvloop

from arv_ssh.net.http_server import HttpConnection
from arv_ssh.net.tls_transport import TlsLayer
from arv_ssh.trust import credentials
from crunch_sshd.gateway import certificate
from crunch_sshd.gateway.connection import Login
from crunch_sshd.gateway.endpoint import Endpoint, Identity
from crunch_sshd.runtimes import Account, Runtime
from tests.bench.target import Failed
from tests.integration.controllers import Controller

OPENING = 8
"""Sessions that are being opened at once."""
ALIVE_INTERVAL = 30.0
"""Seconds between two signs of life of a session: what our ssh_config says."""
KEEPALIVE = bytes(68)
"""As long as an encrypted keepalive request."""


class EchoGateway:
    """A gateway's front for the container ``uuid``, with an echo behind it, on an event loop in a thread of its own."""

    def __init__(self, uuid: str, root_token: str, stack: ExitStack) -> None:
        self._uuid = uuid
        self._secret = credentials.container_secret(root_token, uuid)
        self._loop = uvloop.new_event_loop()
        thread = threading.Thread(target=self._loop.run_forever, name="gateway", daemon=True)
        thread.start()
        stack.callback(self._loop.call_soon_threadsafe, self._loop.stop)
        self.address = asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result()

    def account(self, login_username: str) -> Account:
        """Answer as the container's runtime would."""
        return Account("root", 0, 0, "/root", "/bin/sh", "")

    async def _serve(self) -> str:
        context, der = certificate.fresh()
        front: list[Endpoint] = []
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        await self._loop.create_server(
            lambda: TlsLayer(context, HttpConnection(front[0].handle), server_side=True), sock=listener, backlog=1024
        )
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        identity = Identity(self._uuid, self._secret, der, address)
        front.append(
            Endpoint(identity, cast(Runtime, self), accept_unsigned=False, opened=self._opened, end=lambda *words: 0)
        )
        return address

    def _opened(self, transport: asyncio.Transport, early: bytes, login: Login) -> None:
        transport.set_protocol(_Echo(transport))
        transport.write(early)
        transport.resume_reading()


class _Echo(asyncio.Protocol):
    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


class Crowd:
    """Sessions on ``controller`` in the container ``uuid``, opened by :meth:`grow` and closed with ``stack``."""

    def __init__(self, controller: Controller, uuid: str, token: str, stack: ExitStack) -> None:
        self._controller = controller
        self._uuid = uuid
        self._token = token
        self._open: list[ssl.SSLSocket] = []
        self._over = threading.Event()
        talking = threading.Thread(target=self._stay_alive, name="keepalive")
        talking.start()
        stack.callback(self._close, talking)

    def __len__(self) -> int:
        return len(self._open)

    def open_one(self) -> float:
        """Open one more session; return the milliseconds to the 101."""
        start = time.perf_counter()
        answer, connection = self._controller.ask_for_session(self._uuid, self._token)
        if answer.status != 101:
            raise Failed(f"session {len(self) + 1} was refused with {answer.status}: {answer.body!r}")
        took = (time.perf_counter() - start) * 1000
        connection.sendall(KEEPALIVE)
        self._open.append(connection)
        return took

    def grow(self, size: int) -> None:
        """Open sessions until there are ``size``."""
        with ThreadPoolExecutor(OPENING) as pool:
            wanted: Any = range(size - len(self))
            list(pool.map(lambda _: self.open_one(), wanted))

    def _stay_alive(self) -> None:
        while not self._over.wait(1.0):
            now = list(self._open)
            share = max(1, round(len(now) / ALIVE_INTERVAL))
            for connection in now[:share]:
                connection.sendall(KEEPALIVE)
                connection.recv(4096)  # the echo of this time or of the last
            self._open = now[share:] + now[:share] + self._open[len(now) :]

    def _close(self, talking: threading.Thread) -> None:
        self._over.set()
        talking.join()
        for connection in self._open:
            connection.close()
