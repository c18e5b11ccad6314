"""A TLS layer for asyncio whose two directions end one at a time.

Owns the joining of :class:`arv_ssh.net.tls.TlsEngine` to an event loop: it is a protocol to the TCP transport below and
a transport to the protocol above, with the standard's methods on both sides, so that the protocol above works over
plain sockets too. Knows nothing of HTTP or SSH.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import threading
from contextlib import suppress
from typing import Any, cast

from arv_ssh.net import dead_peers
from arv_ssh.net.dead_peers import DeadPeerWatch
from arv_ssh.net.tls import READ_SIZE, TlsEngine
from arv_ssh.net.unproven import Place

RECEIVE_SIZE = READ_SIZE
"""Bytes taken from a socket at a time. One buffer serves all connections of a thread: each read empties it."""

HIGH_WATER = 512 * 1024
"""Unsent bytes above which the writer has to pause."""

HANDSHAKE_TIMEOUT = 20.0
"""Seconds for the TLS handshake; a silent client holds a connection no longer than that."""

LINGER = 30.0
"""Seconds for a peer to take the last bytes when its connection is closed."""

PLAIN_HTTP_ANSWER = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
    b'{"errors": ["this port speaks HTTPS, and the request came without TLS; use https://"]}\n'
)

_buffers = threading.local()


def _receive_buffer() -> memoryview:
    return _buffer("received", RECEIVE_SIZE)


def _buffer(name: str, size: int) -> memoryview:
    """Return this thread's buffer of that name."""
    if not hasattr(_buffers, name):
        setattr(_buffers, name, memoryview(bytearray(size)))
    return cast(memoryview, getattr(_buffers, name))


class TlsLayer(asyncio.Transport, asyncio.BufferedProtocol):
    """TLS between a TCP transport and ``app``, whose ``connection_made`` is called when the handshake is complete.

    A failed handshake calls ``app.connection_lost`` without that. A connection cut without close_notify (RFC 8446
    §6.1) is lost with an error, never taken for an end. While nothing is proven a server's
    connection has its ``place`` among the unproven ones.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        app: asyncio.Protocol,
        *,
        server_side: bool,
        server_hostname: str | None = None,
        place: Place | None = None,
    ) -> None:
        super().__init__()
        self._engine = TlsEngine(
            context, server_side=server_side, server_hostname=server_hostname, buffer=_buffer("plain", READ_SIZE)
        )
        self._server_side = server_side
        self._place = place
        self._app = app
        self._app_made = False
        self._eof_told = False
        self._reading = True
        self._closing = False
        self._lost = False
        self._error: Exception | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._lower: asyncio.Transport
        self._drained: asyncio.Future[None] | None = None

    # The protocol's side: called by the TCP transport below.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._lower = cast(asyncio.Transport, transport)
        self._lower.set_write_buffer_limits(high=HIGH_WATER)
        self._watch = DeadPeerWatch(self._lower.get_extra_info("socket"), self._peer_is_dead)
        self._timer = asyncio.get_running_loop().call_later(HANDSHAKE_TIMEOUT, self.abort)
        if self._place is not None:
            self._place.take(transport.get_extra_info("peername"), self.abort)
        self._run()

    def get_buffer(self, sizehint: int) -> memoryview:
        return _receive_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        self._engine.receive(_receive_buffer()[:nbytes])
        self._run()

    def eof_received(self) -> bool:
        self._engine.receive(b"")
        self._run()
        return not self._closing

    def pause_writing(self) -> None:
        if self._app_made:
            self._app.pause_writing()

    def resume_writing(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        elif self._app_made:
            self._app.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._lost:
            return  # it was given away
        if exc is not None:
            self._take_rest()
        self._lost = True
        self._watch.close()
        self._stop_timer()
        if self._place is not None:
            self._place.leave()
        if self._drained is not None and not self._drained.done():
            self._drained.set_exception(self._error or exc or ConnectionResetError("the peer has gone"))
        self._app.connection_lost(self._error or exc)
        self._let_go()

    def _take_rest(self) -> None:
        """Take what the peer sent before it closed: a write that fails tells of the close before that has been read."""
        sock = self._lower.get_extra_info("socket")
        with suppress(OSError):
            while sock is not None and self._app_made and self._reading and not self._closing:
                if not (size := os.readv(sock.fileno(), [_receive_buffer()])):
                    break
                self.buffer_updated(size)

    def _let_go(self) -> None:
        """Hold nothing that holds this: TLS would keep memory that the garbage collector does not see."""
        self._error = None  # its traceback has our frames
        self._app = asyncio.Protocol()
        self._timer = None

    # The engine's turn: process everything as far as possible, then send the resulting ciphertext.

    def _run(self) -> None:
        if self._lost:
            return
        try:
            if not self._engine.handshake():
                self._greet()
                return
            if not self._app_made:
                self._flush()
                self._app_made = True
                self._stop_timer()
                self._app.connection_made(self)
            self._deliver()
        except ssl.SSLError as error:
            self._fail(error)
        else:
            self._flush()

    def _greet(self) -> None:
        """Send our part of the handshake, once the peer's has come."""
        ciphertext = self._engine.outgoing()
        if ciphertext:
            self._lower.write(ciphertext)
            if self._place is not None:
                self._place.answered = True

    def _deliver(self) -> None:
        while self._reading and not self._closing:
            data = self._engine.read()
            if data:
                self._app.data_received(data)
            elif self._engine.eof and not self._eof_told:
                self._eof_told = True
                if not self._app.eof_received():
                    self.close()
            else:
                return

    def _fail(self, error: ssl.SSLError) -> None:
        self._error = error
        self._closing = True
        if self._server_side and error.reason == "HTTP_REQUEST":
            self._engine.outgoing()
            self._lower.write(PLAIN_HTTP_ANSWER)
        self._flush()
        self._close_lower()

    def _flush(self) -> None:
        ciphertext = self._engine.outgoing()
        if ciphertext:
            self._lower.write(ciphertext)

    # The transport's side: called by the protocol above.

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._app = cast(asyncio.Protocol, protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._app

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "peer_certificate":
            return self._engine.peer_certificate()
        return self._lower.get_extra_info(name, default)

    def is_reading(self) -> bool:
        return self._reading

    def pause_reading(self) -> None:
        if self._reading and not self._closing:
            self._reading = False
            self._lower.pause_reading()

    def resume_reading(self) -> None:
        if not self._reading and not self._closing:
            self._reading = True
            self._lower.resume_reading()
            # Plaintext may wait in the engine, and no further packet may come to push it out.
            asyncio.get_running_loop().call_soon(self._run)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._lost or self._closing or self._engine.close_sent:
            return
        self._engine.write(data)
        self._flush()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if not self._lost and not self._closing:
            self._say_goodbye()

    def is_closing(self) -> bool:
        return self._closing or self._lost

    def close(self) -> None:
        """Send the bytes written so far, then close_notify, then close."""
        if self._closing or self._lost:
            return
        if self._app_made:
            self._say_goodbye()
        self._closing = True
        self._close_lower()

    def _close_lower(self) -> None:
        """Close the transport below once everything is sent, or after :data:`LINGER` if the peer does not take it."""
        self._lower.close()
        self._stop_timer()
        if not self._lost:
            self._timer = asyncio.get_running_loop().call_later(LINGER, self._lower.abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _peer_is_dead(self) -> None:
        self._error = TimeoutError(dead_peers.SILENCE)
        self.abort()

    def _say_goodbye(self) -> None:
        try:
            self._engine.write_eof()
        except ssl.SSLError as error:  # the last bytes from the peer, not read yet, are broken
            self._fail(error)
        else:
            self._flush()

    def abort(self) -> None:
        self._closing = True
        self._lower.abort()

    async def detach(self) -> tuple[socket.socket, TlsEngine]:
        """Give the connection, which must be paused, to another thread once all written bytes have left.

        The caller gets a blocking socket of its own; bytes read and not delivered are in the engine. The protocol above
        receives no more calls. Raises OSError when the connection is lost before that, and ValueError for one without a
        socket.
        """
        sock = self._lower.get_extra_info("socket")
        if sock is None:
            raise ValueError("a stream inside another connection cannot leave its event loop")
        self._check_open()
        self._drained = asyncio.get_running_loop().create_future()
        self._lower.set_write_buffer_limits(high=0)
        if self._lower.get_write_buffer_size():
            await self._drained
            self._check_open()  # the number of a descriptor that is closed may be another's by now
        own = socket.socket(fileno=os.dup(sock.fileno()))
        own.setblocking(True)
        self._lost = True
        self._watch.close()
        self._stop_timer()
        self._lower.abort()
        return own, self._engine

    def _check_open(self) -> None:
        if self._lost or self._closing:
            raise ConnectionResetError("the connection is closed")

    def abort_if_open(self) -> None:
        """Abort a connection that may not exist yet, or be gone already."""
        if hasattr(self, "_lower") and not self._lost:
            self.abort()

    def get_write_buffer_size(self) -> int:
        return self._lower.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._lower.set_write_buffer_limits(high, low)
