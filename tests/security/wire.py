"""What an attacker on the network has: connections of their own, and a place between two others."""

from __future__ import annotations

import socket
import ssl
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from arv_ssh.cli import certificates
from arv_ssh.net import upgrade
from tests.timing import DEADLINE


def any_peer() -> ssl.SSLContext:
    """Return a client's context that trusts everybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def connect(address: str) -> ssl.SSLSocket:
    """Return a TLS connection to whoever answers at "host:port"."""
    host, _, port = address.rpartition(":")
    return any_peer().wrap_socket(socket.create_connection((host, int(port)), DEADLINE))


def send(address: str, request: bytes) -> upgrade.UpgradeAnswer:
    """Send a request over a connection of its own; return the answer."""
    answer = upgrade.UpgradeAnswer("the gateway")
    with connect(address) as connection:
        connection.sendall(request)
        while not answer.receive(connection.recv(65536)):
            pass
    return answer


class Interceptor:
    """Somebody between two parties, with a certificate of their own authority.

    Whatever arrives inside TLS is noted, and passed on to ``target`` ("host:port"; "" for nowhere) in TLS of its own.
    """

    def __init__(self, target: str = "") -> None:
        self.target = target
        self.received = bytearray()
        self.tried = 0
        """How many have connected."""
        self._context = _context()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    @contextmanager
    def listening(self) -> Iterator[Interceptor]:
        """Intercept until the end of the block."""
        self._threads[0].start()
        try:
            yield self
        finally:
            self._listener.shutdown(socket.SHUT_RDWR)
            for thread in self._threads:
                thread.join(DEADLINE)
            self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(DEADLINE)
        with connection, suppress(OSError):
            near = self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            with near:
                self.tried += 1
                near.do_handshake()
                first = near.recv(65536)  # of TLS 1.3 a client's refusal of the certificate comes here
                self.received += first
                if self.target:
                    with connect(self.target) as far:
                        far.sendall(first)
                        near.sendall(far.recv(65536))


def _context() -> ssl.SSLContext:
    made = certificates.issue("evil0")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "pem"
        path.write_bytes(made.server + made.server_key)
        context.load_cert_chain(path)
    return context
