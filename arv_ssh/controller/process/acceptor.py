"""The controller's open ends: listening sockets, TLS, and the connections that still speak HTTP.

Owns accepting and how it ends, so that a connection which the kernel has already taken in is not lost. Knows nothing of
what requests mean, nor of the sessions that connections become.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence

from arv_ssh.net.http_connections import Connections
from arv_ssh.net.http_server import Condition, Handler, HttpConnection, never
from arv_ssh.net.tls_transport import TlsLayer
from arv_ssh.net.unproven import Place, Unproven

BACKLOG = 1024
"""Connections the kernel holds until they are accepted; a burst of logins comes all at once."""
MAX_UNPROVEN = 2000
"""Connections that may be without a whole request at once: twice the kernel's queue, so that no burst of logins meets
it. Beyond it the oldest go; each takes some 60 KB."""


class Acceptor:
    """Serves ``handler`` over TLS with ``context``, and ``private_handler`` without TLS on the private socket.

    ``streams`` says which requests' bodies ``handler`` takes as they come, ``records`` which may be long.
    """

    def __init__(
        self,
        handler: Handler,
        private_handler: Handler,
        context: ssl.SSLContext,
        streams: Condition = never,
        records: Condition = never,
    ) -> None:
        self._handler = handler
        self._streams = streams
        self._records = records
        self._private_handler = private_handler
        self.context = context
        self._connections = Connections()
        self._unproven = Unproven(MAX_UNPROVEN)
        self._listeners: list[tuple[socket.socket, asyncio.Server]] = []
        self._private: asyncio.Server | None = None

    async def start(self, listeners: Sequence[socket.socket], private: socket.socket) -> None:
        """Serve on bound sockets."""
        loop = asyncio.get_running_loop()
        self._private = await loop.create_unix_server(lambda: HttpConnection(self._private_handler), sock=private)
        for listener in listeners:
            server = await loop.create_server(self._public, sock=listener, backlog=BACKLOG)
            self._listeners.append((listener, server))

    def _public(self) -> TlsLayer:
        # The context is looked up for each connection, so that a renewed certificate needs no restart.
        place = Place(self._unproven)
        http = HttpConnection(
            self._handler, self._streams, records=self._records, connections=self._connections, asked=place.leave
        )
        return TlsLayer(self.context, http, server_side=True, place=place)

    async def stop_accepting(self) -> None:
        """Accept the connections queued at the listening sockets, close these, and close connections between requests.

        Closing resets the connections that the kernel has queued there and no other process shares, so the queue is
        emptied first: a connection whose handshake completes in the microseconds between is lost, unless
        net.ipv4.tcp_migrate_req is 1.
        """
        waiting: list[socket.socket] = []
        for listener, server in self._listeners:
            waiting += _queued(listener)
            server.close()
        self._listeners = []
        self._connections.drain()
        loop = asyncio.get_running_loop()
        for connection in waiting:
            await loop.connect_accepted_socket(self._public, connection)

    async def answered(self) -> None:
        """Wait until no connection speaks HTTP any more, not counting those of the private socket."""
        await self._connections.ended()

    def close(self) -> None:
        """Stop accepting at once, the private socket included."""
        for _, server in self._listeners:
            server.close()
        if self._private is not None:
            self._private.close()


def _queued(listener: socket.socket) -> list[socket.socket]:
    """Accept all connections that wait in the queue of a non-blocking socket."""
    accepted: list[socket.socket] = []
    while True:
        try:
            connection, _ = listener.accept()
        except ConnectionAbortedError:  # it was reset while it waited
            continue
        except OSError:  # no more are left, or file descriptors are short
            return accepted
        connection.setblocking(False)
        accepted.append(connection)
