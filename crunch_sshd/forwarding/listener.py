"""A place inside the container whose connections become channels to the client.

Owns accepting them, for remote forwarding and for the agent alike, and the clean-up: sockets closed, files removed.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from paramiko import SSHException

from arv_ssh.audit.trail import NotRecorded, text
from arv_ssh.errors import Unavailable
from arv_ssh.log import event
from crunch_sshd.audit.channel_audit import ChannelAudit, ConnectionAudit
from crunch_sshd.forwarding.broker import BrokerClient, BrokerError, Listening
from crunch_sshd.forwarding.channel_relay import ChannelRelay, Relays, shut_down
from crunch_sshd.ssh import threads
from crunch_sshd.ssh.transport import GatewayChannel, GatewayTransport

logger = logging.getLogger(__name__)

SHORTAGE_PAUSE = 1.0
"""Seconds before accepting again after a failure, e.g. for lack of file descriptors; the backlog keeps connections."""

Fields = Callable[[Any], Sequence[str | int]]
"""Maps the address of a connection's peer to the fields specific to the channel's type."""


class Listener:
    """Offers the client a channel of the type ``kind`` for each connection to ``listening``."""

    def __init__(
        self,
        transport: GatewayTransport,
        relays: Relays,
        broker: BrokerClient,
        listening: Listening,
        kind: str,
        fields: Fields,
        audit: ConnectionAudit,
    ) -> None:
        self._audit = audit
        self._transport = transport
        self._relays = relays
        self._broker = broker
        self._listening = listening
        self._kind = kind
        self._fields = fields
        self._closed = threading.Event()
        self._opened = threading.Event()

    @property
    def listening(self) -> Listening:
        """The sockets, and where they are."""
        return self._listening

    def start(self) -> None:
        """Start the threads that will accept, from :meth:`open` on. Always call this, once.

        Raises OSError when this host has no room for them: then everything is closed.
        """
        for number, sock in enumerate(self._listening.sockets):
            try:
                threads.start(partial(self._accept, sock), "listener")
            except OSError:
                for unused in self._listening.sockets[number:]:
                    unused.close()
                self.close()
                raise

    def open(self) -> None:
        """Begin to accept, unless :meth:`close` came first."""
        self._opened.set()

    def close(self) -> None:
        """Stop accepting and remove the socket's files; connections made so far go on. Blocks for a moment."""
        self._closed.set()
        self._opened.set()
        for sock in self._listening.sockets:
            shut_down(sock, socket.SHUT_RDWR)  # wakes the thread in accept, which closes it
        if self._listening.path:
            try:
                self._broker.remove(self._listening)
            except BrokerError:
                logger.debug("the connection has ended, and the broker removes its files itself")

    def _accept(self, sock: socket.socket) -> None:
        with sock:
            self._opened.wait()
            while not self._closed.is_set():
                try:
                    connection, peer = sock.accept()
                except OSError as error:
                    if not self._closed.is_set():
                        self._event("cannot accept a connection", logging.WARNING, error.strerror)
                        self._closed.wait(SHORTAGE_PAUSE)
                    continue
                self._accepted(connection, peer)

    def _accepted(self, connection: socket.socket, peer: Any) -> None:
        fields = self._fields(peer)
        audit = self._audit.channel(self._kind, target=text(" ".join(map(str, fields))))
        try:
            self._relays.reserve()
        except Unavailable as error:
            self._event("a connection cannot be relayed", logging.WARNING, str(error))
            connection.close()
            audit.refuse(str(error))
            return
        try:
            audit.begin()
        except NotRecorded as error:
            self._relays.release()
            connection.close()
            audit.refuse(str(error))
            return
        self._offer(connection, fields, audit)

    def _offer(self, connection: socket.socket, fields: Sequence[str | int], audit: ChannelAudit) -> None:
        relays: list[ChannelRelay] = []

        def join(channel: GatewayChannel) -> ChannelRelay:
            relays.append(self._relays.join(channel, connection, audit))
            return relays[0]

        def answered(refusal: str) -> None:
            if refusal:
                self._event("the client refused a channel", logging.INFO, refusal)
                audit.reason = f"the client refused it: {refusal}"
                relays[0].end()
                return
            try:
                relays[0].start()
            except OSError as error:
                self._event("a connection cannot be relayed", logging.WARNING, error.strerror)
                audit.reason = f"the gateway has no room for it: {error.strerror}"
                relays[0].end()

        try:
            self._transport.offer_channel(self._kind, fields, join, answered)
        except (OSError, SSHException) as error:
            self._event("the connection is gone", logging.DEBUG, str(error))
            relays[0].end()

    def _event(self, message: str, level: int, error: str | None) -> None:
        event(logger, message, level=level, **self._audit.facts, type=self._kind, error=error)
