"""How the controller's sockets stop accepting, and how many that say nothing they take."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import uvloop

from arv_ssh.cli import certificates
from arv_ssh.controller.process import acceptor
from arv_ssh.controller.process.acceptor import Acceptor
from arv_ssh.net import tls
from arv_ssh.net.http_messages import Request, Response
from arv_ssh.net.listen import bind
from tests.timing import DEADLINE


async def ok(request: Request) -> Response:
    return Response(200, b"served\n")


def server_context(directory: Path) -> ssl.SSLContext:
    issued = certificates.issue("zzzzz")
    (directory / "cert").write_bytes(issued.server)
    (directory / "key").write_bytes(issued.server_key)
    return tls.server_context(str(directory / "cert"), str(directory / "key"))


def ask(connection: socket.socket) -> bytes:
    """Ask on an established TCP connection; return the answer's status line."""
    with encrypt(connection) as encrypted:
        return ask_once(encrypted)


def encrypt(connection: socket.socket) -> ssl.SSLSocket:
    return tls.client_context(insecure=True).wrap_socket(connection)


def ask_once(encrypted: ssl.SSLSocket) -> bytes:
    encrypted.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    return encrypted.recv(4096).partition(b"\r\n")[0]


def test_queued_connections(tmp_path: Path) -> None:
    """Connections that the kernel had queued when accepting ended are served; later ones are refused."""

    async def scenario(private: socket.socket) -> None:
        front = Acceptor(ok, ok, server_context(tmp_path))
        listener = bind("127.0.0.1", 0)
        address = listener.getsockname()
        await front.start([listener], private)
        try:
            # The loop is not running while these come, so they wait in the kernel.
            connections = [socket.create_connection(address, DEADLINE) for _ in range(5)]
            await front.stop_accepting()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address, DEADLINE)
            for connection in connections:
                assert await asyncio.to_thread(ask, connection) == b"HTTP/1.1 200 OK"
            await front.answered()
        finally:
            front.close()

    with socket.socket(socket.AF_UNIX) as private, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        private.bind(str(tmp_path / "sock"))
        runner.run(asyncio.wait_for(scenario(private), DEADLINE))


def test_silent_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that send no request only the newest are kept; kept-alive ones that have sent one stay."""
    monkeypatch.setattr(acceptor, "MAX_UNPROVEN", 3)

    def attack(address: tuple[str, int]) -> None:
        with ExitStack() as stack:
            kept = stack.enter_context(encrypt(socket.create_connection(address, DEADLINE)))
            assert ask_once(kept) == b"HTTP/1.1 200 OK"
            silent = [stack.enter_context(socket.create_connection(address, DEADLINE)) for _ in range(10)]
            for lost in silent[:7]:
                with suppress(ConnectionResetError):
                    assert lost.recv(1) == b""
            assert ask(socket.create_connection(address, DEADLINE)) == ask_once(kept) == b"HTTP/1.1 200 OK"

    async def scenario(private: socket.socket) -> None:
        front = Acceptor(ok, ok, server_context(tmp_path))
        listener = bind("127.0.0.1", 0)
        await front.start([listener], private)
        try:
            await asyncio.to_thread(attack, listener.getsockname())
        finally:
            front.close()

    with socket.socket(socket.AF_UNIX) as private, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        private.bind(str(tmp_path / "sock"))
        runner.run(asyncio.wait_for(scenario(private), DEADLINE))
