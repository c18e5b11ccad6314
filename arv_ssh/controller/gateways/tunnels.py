"""The tunnels that gateways keep open to this process, and the ways through those of other controllers.

Owns the endpoint ``POST /arvados/v1/containers/{uuid}/gateway_tunnel``, the registry of live tunnels, and the dial of a
gateway address: direct, through a tunnel of this process, through one of another process of this host. Knows nothing of
users, nor of the requests to a gateway.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from functools import partial

from arv_ssh import uuids
from arv_ssh.config.cluster_config import ClusterConfig
from arv_ssh.controller.gateways.dial import Made, TcpDialer, host_of
from arv_ssh.controller.peers.peers import Peers
from arv_ssh.errors import BadRequest, HttpError, NotFound, Unauthorized, Unavailable
from arv_ssh.log import event
from arv_ssh.net.http_client import Address
from arv_ssh.net.http_messages import Request, Upgrade
from arv_ssh.net.relay import Relay
from arv_ssh.net.upgraded import Upgraded, UpgradeRequest, open_upgraded
from arv_ssh.trust import credentials
from arv_ssh.yamux.transport import YamuxSession

logger = logging.getLogger(__name__)

PATH = re.compile(r"/arvados/v1/(?:containers/([^/]+)/gateway_tunnel|connect/([^/]+)/gateway_tunnel)")
"""The endpoint's two names; older crunch-runs ask for the second."""
STREAM_PATH = re.compile(r"/gateway_tunnels/([^/]+)/stream")
"""On a process's private socket only: a connection to the gateway at the other end of a tunnel."""
STREAM = "gateway-stream"
"""The protocol that a request for :data:`STREAM_PATH` switches to: the bytes of that connection."""
PREFIX = "tunnel "
"""The prefix of a gateway address whose rest is the URL of the controller that has the tunnel."""
SIBLING_TIMEOUT = 5.0
"""Seconds for another process of this host to answer; it looks into a table."""


class Tunnels:
    """The gateway tunnels of one controller process; a :class:`dial.Dialer`. Event loop only.

    ``config`` may be replaced.
    """

    def __init__(self, config: ClusterConfig, peers: Peers) -> None:
        self.config = config
        self._peers = peers
        self._tcp = TcpDialer()
        self._open: dict[str, YamuxSession] = {}
        self._all: set[YamuxSession] = set()  # including those replaced by a newer one of the same container
        self._lent: set[Relay] = set()  # streams that other processes of this host use
        self._returned = asyncio.Event()

    def __len__(self) -> int:
        return len(self._all)

    # The endpoint.

    def handle(self, uuid: str, request: Request) -> Upgrade:
        """Answer a gateway that wants to open a tunnel for container ``uuid``."""
        if request.method != "POST":
            raise BadRequest("use POST to open a gateway tunnel")
        if request.headers.get("upgrade", "").lower() != "tunnel":
            raise BadRequest("a gateway tunnel needs the header Upgrade: tunnel; it is for crunch-run")
        if not uuids.is_container(uuid):
            raise NotFound(f"container {uuid[:40]!r} was not found: that is not a container's UUID")
        expected = credentials.container_secret(self.config.system_root_token, uuid)
        if not credentials.matches(request.form().get("auth_secret", ""), expected):
            event(logger, "gateway tunnel refused", level=logging.WARNING, container_uuid=uuid, peer=request.peer)
            raise Unauthorized(f"the auth_secret is not that of container {uuid}; did this cluster start it?")
        limit = self.config.max_gateway_tunnels
        if limit and len(self._all) >= limit:
            raise Unavailable(f"this controller is at its limit of gateway tunnels (API.MaxGatewayTunnels: {limit})")
        # With a slash at its end, as stock Arvados writes and compares its URLs.
        url = [("X-Arvados-Internal-Url", f"{self._peers.own_url}/")] if self._peers.own_url else []
        return Upgrade("tunnel", url, partial(self._start, uuid, request.peer))

    def _start(self, uuid: str, peer: str, transport: asyncio.Transport, early: bytes) -> None:
        """Begin a tunnel; it replaces an older one, which goes on until its gateway leaves it."""
        started = time.monotonic()

        def closed(session: YamuxSession, error: Exception | None) -> None:
            self._all.discard(session)
            if self._open.get(uuid) is session:
                del self._open[uuid]
            event(logger, "gateway tunnel closed", container_uuid=uuid, peer=peer, error=str(error) if error else None,
                  seconds=round(time.monotonic() - started, 3))  # fmt: skip

        session = YamuxSession(client=False, closed=closed)
        self._all.add(session)
        self._open[uuid] = session
        event(logger, "gateway tunnel opened", container_uuid=uuid, peer=peer)
        session.take(transport, early)

    # The way to a gateway.

    def elsewhere(self, uuid: str, address: str) -> str:
        """Return the internal URL of the other controller that has the tunnel of ``address``, "" if it is one of ours.

        Raises :class:`Unavailable` when that URL is not one of the cluster's controllers.
        """
        url = address.removeprefix(PREFIX).rstrip("/")
        if not address.startswith(PREFIX) or uuid in self._open or url == self._peers.own_url:
            return ""
        if self._peers.is_controller(url):
            return url
        if url and (not self._peers.internal_urls or url == self.config.controller_url):
            return ""  # a gateway that never learnt an internal URL names the one it knows
        raise Unavailable(
            f"the gateway of container {uuid} has its tunnel at {url[:200]}, which is not one of this cluster's "
            "Services.Controller.InternalURLs; tell your administrator"
        )

    async def dial(self, uuid: str, address: str, protocol: Made) -> None:
        """Connect ``protocol`` to the gateway of container ``uuid`` (:class:`dial.Dialer`)."""
        is_tunnel = address.startswith(PREFIX)
        session = self._open.get(uuid)
        # A stock crunch-run records its loopback address while it knows no URL for its tunnel.
        if session is not None and (is_tunnel or host_of(address) == "127.0.0.1"):
            session.connect(protocol)
        elif not is_tunnel:
            await self._tcp.dial(uuid, address, protocol)
        elif (stream := await self._through_sibling(uuid)) is not None:
            _hand_over(stream, protocol)
        else:
            raise Unavailable(
                f"the tunnel of container {uuid}'s gateway to this controller is down; it reopens within "
                "seconds if the node is up; try again"
            )

    async def _through_sibling(self, uuid: str) -> Upgraded | None:
        """Return a stream through the tunnel that another process of this host has, or None."""
        ask = UpgradeRequest(f"/gateway_tunnels/{uuid}/stream", "localhost", protocol=STREAM)
        for path in self._peers.siblings():
            sibling = Address(f"the controller process at {path}", path=path)
            try:
                return await open_upgraded(sibling, ask, answer_timeout=SIBLING_TIMEOUT)
            except NotFound:
                continue  # it has no such tunnel
            except HttpError as error:
                event(logger, "a controller process does not answer", level=logging.WARNING, error=str(error))
        return None

    def handle_stream(self, uuid: str) -> Upgrade:
        """Answer another process of this host that wants a stream through a tunnel of this one."""
        session = self._open.get(uuid)
        if session is None:
            raise NotFound(f"this process has no tunnel of container {uuid}")

        def done(relay: Relay, _error: Exception | None) -> None:
            self._lent.discard(relay)
            self._returned.set()

        def start(transport: asyncio.Transport, early: bytes) -> None:
            relay = Relay(transport, early_a=early, done=done)
            self._lent.add(relay)
            try:
                session.connect(relay.b)
            except ConnectionError as error:  # lost since
                event(logger, "no stream through a gateway tunnel", container_uuid=uuid, error=str(error))
                transport.abort()

        return Upgrade(STREAM, [], start)

    # The end.

    def drain(self) -> None:
        """Ask every gateway to open its tunnel anew, which leads to this process's successor; sessions go on.

        A session here that is ended while they do is ended through the successor's tunnel.
        """
        self._open.clear()  # nothing more can be opened in these
        for session in self._all:
            session.go_away()

    async def lent_ended(self) -> None:
        """Wait until no other process of this host uses a tunnel of this one."""
        while self._lent:
            self._returned.clear()
            await self._returned.wait()

    def close(self) -> None:
        """Close every tunnel, and with it all its streams."""
        for session in list(self._all):
            session.close()
        for relay in list(self._lent):
            relay.close()


def _hand_over(stream: Upgraded, protocol: Made) -> None:
    """Give a paused transport to a protocol that did not open it; on such streams the gateway never speaks first."""
    stream.transport.set_protocol(protocol)
    protocol.connection_made(stream.transport)
    stream.transport.resume_reading()
