"""HTTP to the ports of the container, for those who reach them through a controller rather than by ``ssh -L``.

Owns the connections: made by a broker inside the container, as its default user would make them, so that they need no
network of the container; how many there may be; and which headers are meant for the gateway alone. Knows nothing of who
may ask.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from arv_ssh.errors import BadGateway, BadRequest, GatewayTimeout, Unavailable
from arv_ssh.net.http_client import ClientConnection
from arv_ssh.net.http_messages import Answer, Request, origin_form
from arv_ssh.net.http_relay import pass_on, protocol_of, request_headers
from arv_ssh.net.relay import Relay
from crunch_sshd.audit.channel_audit import ChannelAudit, GatewayAudit
from crunch_sshd.forwarding.broker import BrokerClient, BrokerError
from crunch_sshd.inside.broker import resolv_conf
from crunch_sshd.runtimes import Runtime
from crunch_sshd.runtimes.host_container import HostContainer
from crunch_sshd.ssh import descriptors
from crunch_sshd.ssh.limits import ADDRESS_LENGTH, PORT_CONNECTIONS

CONNECT_TIMEOUT = 10.0
"""Seconds for a connection inside the container. Only a program that accepts none although it listens takes longer."""
STALL_TIMEOUT = 3600.0
"""Seconds that an exchange may go without a byte: some pages wait that long for a computation. One whose client leaves
ends at once. A WebSocket has no limit."""
THREADS = 16
"""Connections being made at once."""
IDLE = 60.0
"""Seconds without a connection after which the broker leaves the container; the next request starts another, which
takes 80 ms."""
LOOPBACK = ["127.0.0.1", "::1"]
MAX_ADDRESSES = 4
"""Addresses of the container that are tried: engines give it one or two."""
OURS = b"x-arvados-"
"""How the names of the headers begin that controllers add for gateways: proofs among them."""


class Ports:
    """The ports of ``runtime``'s container. For one event loop. ``check`` raises when there is no room in memory."""

    def __init__(
        self, container_uuid: str, runtime: Runtime, audit: GatewayAudit, check: Callable[[], None] = lambda: None
    ) -> None:
        self._uuid = container_uuid
        self._runtime = runtime
        self._audit = audit
        self._check = check
        self._taken = 0
        self._open: set[ClientConnection] = set()
        self._broker: BrokerClient | None = None
        self._lock = threading.Lock()  # over the broker
        self._idle: asyncio.TimerHandle | None = None
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="ports")

    def close(self) -> None:
        """Cut all connections, and end the broker."""
        for connection in list(self._open):
            connection.abort()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._stop_broker()

    async def handle(self, request: Request, port: int) -> Answer:
        """Pass a request on to ``port`` and return the answer; a WebSocket is joined to it.

        Raises :class:`BadGateway` (nothing listens there, or speaks HTTP), :class:`GatewayTimeout`,
        :class:`Unavailable` (no room, or the container cannot be entered).
        """
        target = origin_form(request.target.decode("latin-1"))
        if not target.startswith("/") and target != "*":
            raise BadRequest("the request's target is neither a path nor an http or https URL")
        audit = self._channel(request, port)
        self._take_place()
        try:
            connection = await self._connect(request, port, audit)
        except BaseException:
            self._leave_place()
            raise
        self._open.add(connection)
        protocol, relays = connection.protocol, list[Relay]()
        ours = {name for name, _ in request.raw_headers if name.startswith(OURS)}
        return await pass_on(
            connection, request, target, request_headers(request, ours, protocol), stall=STALL_TIMEOUT,
            joined=relays.append, done=partial(self._done, connection, audit, relays),
        )  # fmt: skip

    def _channel(self, request: Request, port: int) -> ChannelAudit:
        client = request.headers.get("x-forwarded-for", "")[:ADDRESS_LENGTH]
        facts = {"container_uuid": self._uuid, "request_id": request.request_id, "client": client}
        return self._audit.connection(**facts).channel("port", target=f"port {port}")

    def _take_place(self) -> None:
        if self._taken >= PORT_CONNECTIONS:
            raise Unavailable(
                f"{PORT_CONNECTIONS} connections to ports of container {self._uuid} are open, the most there may be; "
                "close some pages, then try again"
            )
        self._check()
        self._taken += 1
        if self._idle is not None:
            self._idle.cancel()

    def _leave_place(self) -> None:
        self._taken -= 1
        if not self._taken:
            self._idle = asyncio.get_running_loop().call_later(IDLE, self._stop_broker)

    def _done(self, connection: ClientConnection, audit: ChannelAudit, relays: list[Relay]) -> None:
        self._open.discard(connection)
        audit.received, audit.sent = connection.sent, connection.received
        for relay in relays:
            audit.received += relay.a.received
            audit.sent += relay.b.received
        audit.end()
        self._leave_place()

    async def _connect(self, request: Request, port: int, audit: ChannelAudit) -> ClientConnection:
        connection = ClientConnection(f"port {port} of container {self._uuid}", protocol_of(request), STALL_TIMEOUT)
        sock = await self._socket(port, audit)
        try:
            await asyncio.get_running_loop().create_connection(lambda: connection, sock=sock)
        except BaseException:
            sock.close()
            audit.end()
            raise
        sock.detach()  # the transport has the descriptor; see Gateway._join
        return connection

    async def _socket(self, port: int, audit: ChannelAudit) -> socket.socket:
        future = self._threads.submit(self._dial, port, audit)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                return await asyncio.wrap_future(future)
        except BaseException as error:
            future.add_done_callback(partial(_let_go, audit))
            if isinstance(error, TimeoutError):
                raise GatewayTimeout(f"port {port} of container {self._uuid} accepts no connections") from error
            raise

    # The threads.

    def _dial(self, port: int, audit: ChannelAudit) -> socket.socket:
        try:
            place = descriptors.reserve()
        except OSError as error:
            raise Unavailable("the gateway has no room for another connection; close some pages") from error
        try:
            audit.begin()
            return descriptors.fill(place, self._reach(port))
        except BaseException as error:
            os.close(place)
            audit.reason = str(error)
            audit.end()
            raise

    def _reach(self, port: int) -> socket.socket:
        """Connect to the loopback, or else to the container's own address: some servers listen on no other."""
        container = self._runtime.host()
        if container is None:
            raise Unavailable(
                f"the ports of container {self._uuid} cannot be reached: its gateway may not enter it, since it does "
                "not run as root"
            )
        try:
            broker = self._ready(container)
            try:
                return broker.connect(LOOPBACK, port)
            except BrokerError as error:
                # A text address needs no name server, which would keep a refusal waiting.
                found = [one for address in _addresses(container) for one in broker.resolve(address)]
                if own := [one.address for one in found if one.own]:
                    return broker.connect(own, port)
                raise error
        except BrokerError as error:
            raise BadGateway(
                f"nothing answers on port {port} of container {self._uuid} ({error}); start the program that is to "
                "listen there, then try again"
            ) from error

    def _ready(self, container: HostContainer) -> BrokerClient:
        account = self._runtime.account("")
        with self._lock:
            if self._broker is None or self._broker.spent:
                self._broker = BrokerClient(container, account)
            return self._broker

    def _stop_broker(self) -> None:
        with self._lock:
            broker, self._broker = self._broker, None
        if broker is not None:
            broker.close()


def _addresses(container: HostContainer) -> list[str]:
    """Return what the container's /etc/hosts has for its own name. Its user chooses the text."""
    name = container.read_text("/etc/hostname").strip()
    return resolv_conf.hosts(container.read_text("/etc/hosts"), name)[:MAX_ADDRESSES]


def _let_go(audit: ChannelAudit, future: Future[socket.socket]) -> None:
    """Close a connection that came after its request had gone."""
    if not future.cancelled() and future.exception() is None:
        future.result().close()
        audit.end()
