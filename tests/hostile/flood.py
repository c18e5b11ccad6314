"""Connections of a client that proves nothing, 400 at a time: ``python -m tests.hostile.flood HOST PORT SOURCE KIND``.

Each stays until the gateway ends it, and another one comes in its place. Prints a line for each :data:`REPORT` of them.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from contextlib import suppress

from arv_ssh.net.tls import TlsEngine, client_context

PARALLEL = 400
REPORT = 500


def _hello() -> bytes:
    engine = TlsEngine(client_context(insecure=True), server_side=False)
    engine.handshake()
    return engine.outgoing()


KINDS = {"record": b"\x16\x03\x01\x00", "hello": _hello(), "body": b""}
"""What a connection sends: the head of a TLS record, a whole ClientHello, or over TLS a request without its end."""
BODY = b"POST /ssh HTTP/1.1\r\nHost: x\r\nContent-Length: 65536\r\n\r\n" + bytes(65000)


class Flood:
    """One source of connections."""

    def __init__(self, host: str, port: int, source: str, begin: bytes) -> None:
        self._to, self._source, self._begin = (host, port), (source, 0), begin
        self._ended = 0

    async def run(self) -> None:
        """Keep all the connections open, for ever."""
        await asyncio.gather(*(self._keep() for _ in range(PARALLEL)))

    async def _keep(self) -> None:
        while True:
            with suppress(OSError):
                await (self._begun() if self._begin else self._with_a_body())
            self._ended += 1
            if not self._ended % REPORT:
                print(self._ended, flush=True)

    async def _begun(self) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket() as sock:
            sock.setblocking(False)
            sock.bind(self._source)
            await loop.sock_connect(sock, self._to)
            await loop.sock_sendall(sock, self._begin)
            while await loop.sock_recv(sock, 65536):
                pass

    async def _with_a_body(self) -> None:
        reader, writer = await asyncio.open_connection(
            *self._to, ssl=client_context(insecure=True), local_addr=self._source
        )
        try:
            writer.write(BODY)
            await reader.read()
        finally:
            writer.transport.abort()


if __name__ == "__main__":
    asyncio.run(Flood(sys.argv[1], int(sys.argv[2]), sys.argv[3], KINDS[sys.argv[4]]).run())
