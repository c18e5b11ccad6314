"""Forwarding (RFC 4254 §7 and OpenSSH's PROTOCOL §2.4): connections into and out of the container.

Owns its channel types and global requests, where each asks the policy, and the words of a failure, which are sshd's.
The sockets come from the broker; the data goes through :mod:`crunch_sshd.forwarding.channel_relay`.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from functools import partial

from paramiko.message import Message

from arv_ssh.audit.trail import NotRecorded, text
from arv_ssh.config.destination import MAX_PORT
from arv_ssh.errors import Unavailable
from arv_ssh.log import event
from crunch_sshd.audit.channel_audit import ChannelAudit, ConnectionAudit
from crunch_sshd.forwarding.agent import CHANNEL_TYPE, Agent
from crunch_sshd.forwarding.broker import BrokerClient, BrokerError
from crunch_sshd.forwarding.channel_relay import ChannelRelay, Relays
from crunch_sshd.forwarding.policy import Policy
from crunch_sshd.forwarding.remote_forward import RemoteForwards, Reply
from crunch_sshd.runtimes import Account
from crunch_sshd.runtimes.host_container import HostContainer
from crunch_sshd.ssh import threads
from crunch_sshd.ssh.limits import NAME_LENGTH, PATH_LENGTH
from crunch_sshd.ssh.transport import (
    OPEN_CONNECT_FAILED,
    OPEN_PROHIBITED,
    OPEN_RESOURCE_SHORTAGE,
    ChannelOpen,
    GatewayChannel,
    GatewayTransport,
)

logger = logging.getLogger(__name__)

NO_PRIVILEGE = (
    "this gateway may not enter the container's network namespace; forwarding needs crunch-run to run as root "
    "on the container's host"
)


class Prohibited(Exception):
    """The policy does not allow a destination; the text says so."""


class Forwarding:
    """All forwarding of one SSH connection. ``container`` None means that the gateway may not enter it."""

    def __init__(
        self,
        transport: GatewayTransport,
        container: HostContainer | None,
        account: Account,
        policy: Policy,
        audit: ConnectionAudit | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._audit = audit or ConnectionAudit()
        self._transport = transport
        self._policy = policy
        self._broker = BrokerClient(container, account) if container is not None else None
        self._relays = Relays(check)
        self._remote = (
            RemoteForwards(transport, self._relays, self._broker, self._audit) if self._broker is not None else None
        )
        self.openers: dict[str, Callable[[ChannelOpen], None]] = {
            "direct-tcpip": self._direct_tcpip,
            "direct-streamlocal@openssh.com": self._direct_streamlocal,
        }
        """The methods that answer a CHANNEL_OPEN, now or later, by the channel's type. Transport thread."""

    # The transport thread calls these.

    def global_request(self, kind: str, message: Message, reply: Reply) -> bool:
        """Answer a global request, now or later; False when it is not a forwarding request."""
        if kind not in RemoteForwards.KINDS:
            return False
        refusal = self._refusal(RemoteForwards.KINDS[kind])
        if refusal or self._remote is None:
            # The reply has no place for the reason.
            event(logger, "forwarding is refused", **self._audit.facts, request=kind, reason=refusal)
            self._audit.channel(kind).refuse(refusal)
            reply(False, ())
        else:
            self._remote.request(kind, message, reply)
        return True

    def agent(self) -> Agent | None:
        """Return an agent for a session, to be opened later; None when it is not allowed or not possible."""
        refusal = self._refusal("agent")
        if refusal or self._broker is None:
            event(logger, "forwarding is refused", **self._audit.facts, request=CHANNEL_TYPE, reason=refusal)
            self._audit.channel(CHANNEL_TYPE).refuse(refusal)
            return None
        return Agent(self._transport, self._relays, self._broker, self._audit)

    def close(self) -> None:
        """End everything; the connection is over. Does not block."""
        if self._broker is not None:
            self._broker.close()
        if self._remote is not None:
            self._remote.close()
        self._relays.close()

    def _refusal(self, kind: str) -> str:
        return self._policy.refusal(kind) or ("" if self._broker is not None else NO_PRIVILEGE)

    # Channels that the client opens.

    def _direct_tcpip(self, opening: ChannelOpen) -> None:
        host, port = _text(opening.message), opening.message.get_int()
        if len(host) > NAME_LENGTH:
            self._too_long(opening, f"the host's name has {len(host)} characters; {NAME_LENGTH} is the most")
        else:
            self._open(opening, "local", f"{host} port {port}", lambda broker: self._connect(broker, host, port))

    def _direct_streamlocal(self, opening: ChannelOpen) -> None:
        path = opening.message.get_binary().decode("utf-8", "surrogateescape")
        if len(path) > PATH_LENGTH:
            self._too_long(opening, f"the socket's path has {len(path)} characters; {PATH_LENGTH} is the most")
        else:
            self._open(opening, "unix", path, lambda broker: broker.connect_unix(path))

    def _too_long(self, opening: ChannelOpen, sentence: str) -> None:
        self._audit.channel(opening.kind).refuse(sentence)
        opening.refuse(OPEN_CONNECT_FAILED, sentence)

    def _open(
        self, opening: ChannelOpen, kind: str, name: str, connect: Callable[[BrokerClient], socket.socket]
    ) -> None:
        refusal = self._refusal(kind)
        audit = self._audit.channel(opening.kind, target=text(name))
        if refusal or self._broker is None:
            audit.refuse(refusal)
            opening.refuse(OPEN_PROHIBITED, refusal)
            return
        try:
            self._start(partial(self._relay, opening, name, partial(connect, self._broker), audit))
        except Unavailable as error:
            audit.refuse(str(error))
            opening.refuse(OPEN_RESOURCE_SHORTAGE, str(error))

    def _start(self, work: Callable[[], None]) -> None:
        """Run ``work``, which relays one connection, in a thread. Raises :class:`Unavailable` when there is no room."""
        self._relays.reserve()
        try:
            threads.start(work, "forward")
        except OSError as error:
            self._relays.release()
            raise Unavailable(f"the gateway has no room for another connection: {error.strerror}") from error

    def _connect(self, broker: BrokerClient, host: str, port: int) -> socket.socket:
        if not 0 < port <= MAX_PORT:
            raise BrokerError("Servname not supported for ai_socktype")  # what getaddrinfo tells sshd
        found = [(one.address, one.own) for one in broker.resolve(host)]
        allowed = self._policy.reachable(host, found, port)
        if not allowed:
            raise Prohibited(f"forwarding to {host} port {port} is not allowed by this cluster's configuration")
        return broker.connect(allowed, port)

    def _relay(
        self, opening: ChannelOpen, name: str, connect: Callable[[], socket.socket], audit: ChannelAudit
    ) -> None:
        """Connect, answer the opening, and relay the connection in this thread."""
        try:
            audit.begin()
            sock = connect()
        except (BrokerError, Prohibited, NotRecorded, OSError) as error:
            self._relays.release()
            audit.reason = str(error)
            audit.end()
            if isinstance(error, Prohibited):
                opening.refuse(OPEN_PROHIBITED, str(error))
            elif isinstance(error, NotRecorded):
                opening.refuse(OPEN_RESOURCE_SHORTAGE, str(error))
            else:
                opening.refuse(OPEN_CONNECT_FAILED, f"connect to {_printable(name)}: {error}")
            return

        relays: list[ChannelRelay] = []

        def join(channel: GatewayChannel) -> ChannelRelay:
            relays.append(self._relays.join(channel, sock, audit))
            return relays[0]

        opening.accept(join)
        relays[0].run()


def _text(message: Message) -> str:
    return message.get_binary().decode("utf-8", "replace")


def _printable(name: str) -> str:
    return name.encode("utf-8", "replace").decode()
