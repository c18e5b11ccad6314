"""The gateway of one container: its listening socket, its event loop's thread, its open connections.

Owns handing a proven session's connection from the event loop to an SSH connection in a thread of its own: the TCP
socket with its TLS, or one end of a socketpair for a stream of a tunnel, whose bytes keep passing through the loop.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvloop

from arv_ssh.audit.options import Auditing
from arv_ssh.audit.trail import Trail
from arv_ssh.config.session_options import SessionOptions
from arv_ssh.log import event
from arv_ssh.net import dead_peers
from arv_ssh.net.dead_peers import DeadPeerWatch
from arv_ssh.net.http_connections import Connections as HttpConnections
from arv_ssh.net.http_messages import Request
from arv_ssh.net.http_server import HttpConnection
from arv_ssh.net.listen import bind
from arv_ssh.net.relay import Relay
from arv_ssh.net.tls_transport import TlsLayer
from arv_ssh.net.unproven import Place, Unproven
from arv_ssh.resume.negotiation import Asked
from arv_ssh.trust.session_claim import SessionClaim
from arv_ssh.webdav.server import DavServer
from crunch_sshd.audit.channel_audit import GatewayAudit
from crunch_sshd.audit.recording import Recordings
from crunch_sshd.audit.refusals import Refusals
from crunch_sshd.forwarding.policy import DEFAULT_POLICY, Policy
from crunch_sshd.gateway import algorithms, certificate
from crunch_sshd.gateway.connection import Connection, Login
from crunch_sshd.gateway.connections import Connections
from crunch_sshd.gateway.endpoint import Endpoint, Identity
from crunch_sshd.gateway.held_sessions import HeldSession, HeldSessions
from crunch_sshd.gateway.memory_limit import MemoryLimit
from crunch_sshd.gateway.ports import Ports
from crunch_sshd.gateway.served import Served
from crunch_sshd.gateway.services import Services
from crunch_sshd.gateway.tunnel import Tunnel, Uplink
from crunch_sshd.runtimes import Runtime
from crunch_sshd.ssh import memory
from crunch_sshd.ssh.buffered_socket import BufferedSocket
from crunch_sshd.ssh.limits import UNPROVEN_CONNECTIONS
from crunch_sshd.ssh.link import Link, PlainEngine
from crunch_sshd.ssh.tls_socket import TlsSocket

logger = logging.getLogger(__name__)

LOGIN_GRACE = 30.0
"""Seconds for the SSH handshake and login after the 101; the controller's proof does not justify waiting longer."""
TIDY_AFTER = 1.0
"""Seconds without a connection after which memory is given back."""
FIRST_TUNNEL = 10.0
"""Seconds to wait for a tunnel before the container is announced without the gateway's address, which then follows."""
GOODBYE = 2.0
"""Seconds for clients to read what they were sent when the gateway stops."""
SOCKET_BUFFER = 1024 * 1024
"""Bytes of kernel buffer on each end of the socketpair: it decouples the event loop from the SSH thread."""


class Gateway:
    """Serves SSH sessions into one container until :meth:`stop`.

    ``port`` 0 takes a free one, and ``listener`` is a bound socket to use instead. ``advertise`` is the host to record
    where it differs from the one bound (0.0.0.0). With ``uplink`` there is no listening socket: controllers come
    through a tunnel, and whenever one stands ``moved`` is called, in the event loop, with the address to record.
    ``counted`` is called with the number of connections when one is opened or ends, by any thread, in order. With
    ``memory`` (bytes) no session is opened while this process has nearly that much. The container's ports are served,
    and its logs where a ``log_directory`` has them; ``services`` may put others in the place of these.
    """

    def __init__(
        self,
        *,
        container_uuid: str,
        secret: str,
        runtime: Runtime,
        host: str = "127.0.0.1",
        port: int = 0,
        listener: socket.socket | None = None,
        advertise: str | None = None,
        accept_unsigned_sessions: bool = False,
        policy: Policy = DEFAULT_POLICY,
        options: SessionOptions | None = None,
        auditing: Auditing = Auditing(),  # noqa: B008 - frozen
        uplink: Uplink | None = None,
        moved: Callable[[str], Any] | None = None,
        counted: Callable[[int], Any] = lambda count: None,
        memory: int = 0,
        log_directory: Path | None = None,
        services: Callable[[Services], Services] = lambda served: served,
    ) -> None:
        self._container_uuid = container_uuid
        self._secret = secret
        self._runtime = runtime
        self._listen_on = (host, port)
        self._listener = listener
        self._memory = MemoryLimit(memory, container_uuid)
        self._advertise = advertise or host
        self._accept_unsigned = accept_unsigned_sessions
        self._policy = policy
        self._options = options or SessionOptions()
        self._audit = GatewayAudit(
            Trail(auditing.audit, auditing.audit_directory, f"gateway-{container_uuid}"),
            Recordings(None if auditing.recording == "off" else auditing.recording_directory),
        )
        served = Served(
            Ports(container_uuid, runtime, self._audit, self._memory.check_forward),
            None if log_directory is None else DavServer(log_directory),
        )
        self._services = services(served)
        self._refusals = Refusals(self._audit, container_uuid)
        self._uplink = uplink
        self._tell_moved = moved
        self._tunnel: Tunnel | None = None
        self._tunnel_stood = threading.Event()
        self._address = ""
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gateway", daemon=True)
        self._connections = Connections(lambda: self._loop.call_soon_threadsafe(self._tidy_later), counted)
        self._held = HeldSessions(self._loop, self._options.resume_for, self._audit.trail.note, memory)
        self._relays: set[Relay] = set()  # the event loop's own, as the next
        self._stopping = False  # the event loop's own
        self._tidying: asyncio.TimerHandle | None = None
        self._server: asyncio.AbstractServer | None = None

    def start(self) -> str:
        """Begin to serve; return the address to record: "host:port", or "tunnel URL" ("" while no tunnel stands).

        Raises :class:`ConfigError` when it cannot bind.
        """
        listener = None if self._uplink else self._listener or bind(*self._listen_on)
        if listener is not None:
            host = f"[{self._advertise}]" if ":" in self._advertise else self._advertise
            self._address = f"{host}:{listener.getsockname()[1]}"
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._serve(listener), self._loop).result()
        if listener is None:
            self._tunnel_stood.wait(FIRST_TUNNEL)
        address = self._address
        event(logger, "gateway is listening", container_uuid=self._container_uuid, gateway_address=address)
        return address

    async def _serve(self, listener: socket.socket | None) -> None:
        context, der = certificate.fresh()
        identity = Identity(self._container_uuid, self._secret, der, self._address)
        endpoint = Endpoint(
            identity,
            self._runtime,
            accept_unsigned=self._accept_unsigned,
            opened=self._opened,
            end=self._end_session,
            refused=self._refusals.record,
            check=self._memory.check_session,
            host_keys=algorithms.offered(self._options.algorithms).host_keys,
            services=self._services,
            held=self._held,
            resumed=self._resumed,
        )

        unproven = Unproven(lambda: UNPROVEN_CONNECTIONS, self._tidy_later)
        once = HttpConnections()
        once.drain()  # a connection has one request: one that goes on after a refusal would be nobody's to count

        def accept() -> TlsLayer:
            place = Place(unproven)

            def streams(request: Request) -> bool:
                if is_streamed := endpoint.streams(request):
                    place.leave()  # its head has proven who sends it, and its body may take hours
                return is_streamed

            http = HttpConnection(endpoint.handle, streams, connections=once, asked=place.leave)
            return TlsLayer(context, http, server_side=True, place=place)

        def accept_stream() -> TlsLayer:
            """Serve a stream of a tunnel, which a controller proved itself to open."""
            return TlsLayer(context, HttpConnection(endpoint.handle, endpoint.streams), server_side=True)

        def moved(address: str) -> None:
            endpoint.moved(address)
            self._address = address
            self._tunnel_stood.set()
            if self._tell_moved is not None:
                self._tell_moved(address)

        if listener is not None:
            self._server = await self._loop.create_server(accept, sock=listener)
        elif self._uplink is not None:
            self._tunnel = Tunnel(self._uplink, self._container_uuid, self._secret, accept_stream, moved)
            self._tunnel.start()

    def _opened(self, transport: asyncio.Transport, early: bytes, login: Login) -> None:
        """Give a proven session's connection to an SSH server of its own. Event loop."""
        asyncio.get_running_loop().run_in_executor(None, self._runtime.get_ready)  # while the handshake goes on
        if login.grant is not None:
            self._loop.create_task(self._begin_held(transport, early, login))
        elif isinstance(transport, TlsLayer) and transport.get_extra_info("socket") is not None:
            self._loop.create_task(self._hand_over(transport, early, login))
        else:
            self._relay(transport, early, login)

    def _resumed(self, transport: asyncio.Transport, early: bytes, held: HeldSession, asked: Asked) -> None:
        self._loop.create_task(self._resume(transport, early, held, asked))

    async def _begin_held(self, transport: asyncio.Transport, early: bytes, login: Login) -> None:
        """Start the SSH connection of a session that outlives ``transport``."""
        if (link := await self._link(transport, early, login)) is None:
            return
        held = self._held.begin(login, link)

        def closed() -> None:
            self._from_elsewhere(lambda: self._held.ended(held))
            self._log_closed(login, None)

        held.connection = self._start(held.socket, login, closed)
        if held.connection is None:
            self._held.ended(held)

    async def _resume(self, transport: asyncio.Transport, early: bytes, held: HeldSession, asked: Asked) -> None:
        """Have a session go on on ``transport``."""
        if (link := await self._link(transport, early, held.login)) is not None:
            self._held.attach(held, link, asked)

    async def _link(self, transport: asyncio.Transport, early: bytes, login: Login) -> Link | None:
        """Return the connection as a resumable session uses it; None when it is lost already."""
        if not isinstance(transport, TlsLayer) or transport.get_extra_info("socket") is None:
            sock, relay = self._through_loop(transport, early, lambda error: None)
            return Link(sock, PlainEngine(), abort=lambda: self._from_elsewhere(relay.abort))
        try:
            return Link(*await transport.detach(), early)
        except OSError as error:
            event(logger, "connection not used", **self._fields(login), error=f"the controller has left: {error}")
            return None

    async def _hand_over(self, transport: TlsLayer, early: bytes, login: Login) -> None:
        """Have the SSH connection's thread read and write the TCP socket itself, and end TLS."""
        try:
            sock = TlsSocket(*await transport.detach(), early)
        except OSError as error:
            event(logger, "session not opened", **self._fields(login), error=f"the controller has left: {error}")
            return
        watch = DeadPeerWatch(sock, lambda: sock.cut(TimeoutError(dead_peers.SILENCE)))

        def closed() -> None:
            self._loop.call_soon_threadsafe(watch.close)
            self._log_closed(login, sock.failure)

        self._start(sock, login, closed)

    def _relay(self, transport: asyncio.Transport, early: bytes, login: Login) -> None:
        """Start the SSH connection of a session whose stream cannot leave the event loop."""
        inside, _ = self._through_loop(transport, early, lambda error: self._log_closed(login, error))
        self._start(inside, login, lambda: None)

    def _through_loop(
        self, transport: asyncio.Transport, early: bytes, ended: Callable[[Exception | None], Any]
    ) -> tuple[socket.socket, Relay]:
        """Join a stream that cannot leave the event loop to a socketpair; return the other end of that."""
        outside, inside = socket.socketpair()
        for end in (outside, inside):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)

        def done(relay: Relay, error: Exception | None) -> None:
            self._relays.discard(relay)
            if self._stopping and not self._relays:
                self._leave()
            ended(error)

        relay = Relay(transport, early_a=early, done=done)
        self._relays.add(relay)
        self._loop.create_task(self._join(relay, outside))
        return inside, relay

    def _from_elsewhere(self, call: Callable[[], Any]) -> None:
        with suppress(RuntimeError):  # the loop is closed: the gateway has stopped
            self._loop.call_soon_threadsafe(call)

    def _fields(self, login: Login) -> dict[str, Any]:
        return {
            "container_uuid": self._container_uuid,
            "request_id": login.request_id,
            "user_uuid": login.user_uuid,
            "login_username": login.login_username,
        }

    def _log_closed(self, login: Login, error: Exception | None) -> None:
        event(logger, "session closed", **self._fields(login), error=str(error) if error else None)

    def _start(
        self, sock: socket.socket | BufferedSocket, login: Login, closed: Callable[[], None]
    ) -> Connection | None:
        """Start an SSH connection, unless all are being ended; ``closed`` is called on its thread, at its end."""

        def ended(connection: Connection) -> None:
            closed()
            self._connections.ended(connection)

        connection = Connection(
            sock,
            self._secret,
            login,
            self._runtime,
            ended,
            self._policy,
            self._options,
            self._container_ended,
            self._audit.connection(**self._fields(login), client=login.client),
            self._memory,
        )
        if not self._connections.add(connection):
            sock.close()
            return None
        connection.start()
        event(logger, "session opened", **self._fields(login))
        self._loop.call_later(LOGIN_GRACE, _check_login, weakref.ref(connection))
        return connection

    async def _join(self, relay: Relay, outside: socket.socket) -> None:
        await self._loop.create_connection(lambda: relay.b, sock=outside)
        # The transport owns the descriptor now. If the client left meanwhile, the descriptor is already closed, and
        # uvloop 0.23 would have left the socket to close that number a second time, whoever owns it by then.
        outside.detach()

    def _tidy_later(self) -> None:
        """Give memory back once there has been no connection for a moment. Event loop."""
        if self._tidying is not None:
            self._tidying.cancel()
        self._tidying = self._loop.call_later(TIDY_AFTER, self._tidy)

    def _tidy(self) -> None:
        if not len(self._connections):
            memory.give_back()

    def _end_session(self, session: SessionClaim, reason: str) -> int:
        """End the connections of a session; return how many. Event loop."""
        ended = self._connections.end_session(session, reason)
        event(logger, "session ended by a controller", container_uuid=self._container_uuid,
              request_id=session.request_id, reason=reason, connections=ended)  # fmt: skip
        return ended

    def _container_ended(self) -> bool:
        """Say whether a session's program was killed because the container ended; if so, tell its connection.

        Whoever runs the container knows how it ended, and says so with :meth:`stop`; otherwise only the bare fact is
        sent.
        """
        if not self._runtime.has_ended():
            return False
        if not self._connections.wait_for_reason():
            self._connections.end_all(f"container {self._container_uuid} has ended")
        return True

    def stop(self, reason: str = "") -> None:
        """Stop serving and end every session with its programs; clients show ``reason``. May be called twice."""
        if not self._thread.is_alive():
            return
        self._connections.close(reason or f"the gateway of container {self._container_uuid} is stopping")
        self._loop.call_soon_threadsafe(self._stop)
        self._thread.join()
        self._loop.close()
        self._refusals.close()
        self._audit.close()

    def _stop(self) -> None:
        """Close open connections, so that clients see an end and not a cut, then stop the loop."""
        if self._server is not None:
            self._server.close()
        self._services.close()
        self._stopping = True
        if not self._relays:
            self._leave()
        for relay in list(self._relays):
            relay.close()
        self._loop.call_later(GOODBYE, self._loop.stop)

    def _leave(self) -> None:
        """Stop the loop, once it has released the relays' sockets and the tunnel has sent everything it was given."""
        if self._tunnel is None:
            self._loop.call_soon(self._loop.stop)
        else:
            self._tunnel.close(lambda: self._loop.call_soon(self._loop.stop))


def _check_login(connection: weakref.ref[Connection]) -> None:
    """Close a connection that has not logged in; this does not keep alive one that has ended meanwhile."""
    found = connection()
    if found is not None and not found.authenticated:
        found.close()
