"""Connections of a client that proves nothing: ``python -m tests.hostile.flood HOST PORT SOURCE KIND PARALLEL``.

Each stays until the server ends it, and another one comes in its place. Prints a line for each :data:`REPORT` of them.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from contextlib import suppress

from arv_ssh.net.tls import TlsEngine, client_context

REPORT = 150


def _hello() -> bytes:
    engine = TlsEngine(client_context(insecure=True), server_side=False)
    engine.handshake()
    return engine.outgoing()


KINDS = {"record": b"\x16\x03\x01\x00", "hello": _hello()}
"""What a connection sends: the head of a TLS record, or a whole ClientHello."""
OVER_TLS = {
    "body": b"POST /ssh HTTP/1.1\r\nHost: x\r\nContent-Length: 65536\r\n\r\n" + bytes(65000),
    "asked": b"GET /arvados/v1/config HTTP/1.1\r\nHost: x\r\n\r\n",
}
"""What it sends over TLS: a request without its end, or a whole one, whose answer leaves it open for another."""


class Flood:
    """One source of connections."""

    def __init__(self, host: str, port: int, source: str, kind: str, parallel: int) -> None:
        self._to, self._source, self._kind, self._parallel = (host, port), (source, 0), kind, parallel
        self._count = 0

    async def run(self) -> None:
        """Keep all the connections open, for ever."""
        await asyncio.gather(*(self._keep() for _ in range(self._parallel)))

    async def _keep(self) -> None:
        while True:
            with suppress(OSError):
                await (self._begun(KINDS[self._kind]) if self._kind in KINDS else self._over_tls(OVER_TLS[self._kind]))
            self._note()

    def _note(self) -> None:
        """Count a connection that has ended, or been answered."""
        self._count += 1
        if not self._count % REPORT:
            print(self._count, flush=True)

    async def _begun(self, sent: bytes) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket() as sock:
            sock.setblocking(False)
            sock.bind(self._source)
            await loop.sock_connect(sock, self._to)
            await loop.sock_sendall(sock, sent)
            while await loop.sock_recv(sock, 65536):
                pass

    async def _over_tls(self, sent: bytes) -> None:
        reader, writer = await asyncio.open_connection(
            *self._to, ssl=client_context(insecure=True), local_addr=self._source
        )
        try:
            writer.write(sent)
            while await reader.read(65536):
                self._note()
        finally:
            writer.transport.abort()


if __name__ == "__main__":
    to, port, source, kind, parallel = sys.argv[1:]
    asyncio.run(Flood(to, int(port), source, kind, int(parallel)).run())
