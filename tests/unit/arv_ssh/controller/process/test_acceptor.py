"""How the controller's sockets stop accepting."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path

import pytest
import uvloop

from arv_ssh.cli import certificates
from arv_ssh.controller.process.acceptor import Acceptor
from arv_ssh.net import tls
from arv_ssh.net.http_server import Request, Response
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
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with context.wrap_socket(connection) as encrypted:
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
