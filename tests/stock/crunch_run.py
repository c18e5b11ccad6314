"""A double of stock crunch-run's tunnel: the request as stock sends it, and the client's end of yamux by its own hand.

It opens no stream, and joins each that the controller opens to a TCP connection to the gateway's loopback address. It
keeps to the first window of 256 KiB and, as stock does, grants it anew when half of it is taken.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WINDOW = 256 * 1024
DATA, UPDATE, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8


class Stream:
    """One stream: a TCP connection to the gateway, and how much may still be sent to the controller."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.gateway = socket.create_connection(address)
        self.window = WINDOW
        self.opened = threading.Condition()
        self.incoming: queue.SimpleQueue[bytes] = queue.SimpleQueue()


class StockTunnel:
    """A tunnel to the controller at ``host:port`` over ``connection``, for a gateway at ``address``."""

    def __init__(self, connection: ssl.SSLSocket, early: bytes, address: tuple[str, int], answer: str) -> None:
        self.answer = answer
        self.streams = 0
        self._connection = connection
        self._early = early
        self._address = address
        self._open: dict[int, Stream] = {}
        self._outgoing: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def serve(self) -> None:
        """Read and write frames until the connection ends; one thread does both, as TLS demands."""
        self._connection.settimeout(0.01)
        buffer = bytearray(self._early)
        with contextlib.suppress(OSError):
            while True:
                while not self._outgoing.empty():
                    self._connection.settimeout(None)
                    self._connection.sendall(self._outgoing.get())
                    self._connection.settimeout(0.01)
                with contextlib.suppress(TimeoutError):
                    data = self._connection.recv(65536)
                    if not data:
                        return
                    buffer += data
                while (size := self._frame(buffer)) > 0:
                    del buffer[:size]

    def _frame(self, buffer: bytearray) -> int:
        """Take one whole frame from the beginning of ``buffer``; return its size, 0 when it is not whole."""
        if len(buffer) < 12:
            return 0
        version, kind, flags, number, length = struct.unpack(">BBHII", buffer[:12])
        assert version == 0
        size = 12 + (length if kind == DATA else 0)
        if len(buffer) < size:
            return 0
        if kind == PING and flags & SYN:
            self._send(PING, ACK, 0, length)
        elif kind in (DATA, UPDATE):
            self._stream_frame(kind, flags, number, length, bytes(buffer[12:size]))
        return size

    def _stream_frame(self, kind: int, flags: int, number: int, length: int, payload: bytes) -> None:
        if flags & SYN:
            assert number % 2 == 0, "the server's streams have even numbers"
            self.streams += 1
            stream = self._open[number] = Stream(self._address)
            self._send(UPDATE, ACK, number, 0)
            threading.Thread(target=self._to_gateway, args=(number, stream), daemon=True).start()
            threading.Thread(target=self._from_gateway, args=(number, stream), daemon=True).start()
        if (known := self._open.get(number)) is None:
            return
        if kind == UPDATE:
            with known.opened:
                known.window += length
                known.opened.notify()
        elif payload:
            known.incoming.put(payload)
        if flags & (FIN | RST):
            known.incoming.put(b"")

    def _to_gateway(self, number: int, stream: Stream) -> None:
        taken = 0
        while payload := stream.incoming.get():
            with contextlib.suppress(OSError):
                stream.gateway.sendall(payload)
            taken += len(payload)
            if taken >= WINDOW // 2:
                self._send(UPDATE, 0, number, taken)
                taken = 0
        with contextlib.suppress(OSError):
            stream.gateway.shutdown(socket.SHUT_WR)

    def _from_gateway(self, number: int, stream: Stream) -> None:
        with contextlib.suppress(OSError), stream.gateway:
            while True:
                with stream.opened:
                    stream.opened.wait_for(lambda: stream.window > 0)
                    allowed = stream.window
                if not (data := stream.gateway.recv(min(allowed, 65536))):
                    break
                with stream.opened:
                    stream.window -= len(data)
                self._send(DATA, 0, number, len(data), data)
        self._send(UPDATE, FIN, number, 0)

    def _send(self, kind: int, flags: int, number: int, length: int, payload: bytes = b"") -> None:
        self._outgoing.put(struct.pack(">BBHII", 0, kind, flags, number, length) + payload)


@contextmanager
def stock_tunnel(controller: str, ca: Path, uuid: str, secret: str, gateway: str) -> Iterator[StockTunnel]:
    """Open a tunnel to ``controller`` ("host:port") for the gateway at that address until the end of the block."""
    host, _, port = controller.rpartition(":")
    context = ssl.create_default_context(cafile=str(ca))
    body = f"auth_secret={secret}"
    with context.wrap_socket(socket.create_connection((host, int(port))), server_hostname=host) as connection:
        connection.sendall(
            f"POST https://{controller}/arvados/v1/containers/{uuid}/gateway_tunnel HTTP/1.1\r\n"
            f"Authorization: Bearer v2/a/container/token\r\nHost: {controller}\r\nUpgrade: tunnel\r\n"
            "Content-Type: application/x-www-form-urlencoded\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += connection.recv(65536)
        head, _, early = answer.partition(b"\r\n\r\n")
        address, _, gateway_port = gateway.rpartition(":")
        tunnel = StockTunnel(connection, early, (address, int(gateway_port)), head.decode())
        thread = threading.Thread(target=tunnel.serve)
        thread.start()
        try:
            yield tunnel
        finally:
            connection.shutdown(socket.SHUT_RDWR)
            thread.join()
