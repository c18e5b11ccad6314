"""Remote forwarding (RFC 4254 §7.1, OpenSSH's PROTOCOL §2.4): listening inside the container for the client.

Owns the table of listeners, keyed by the words with which the client will cancel them. A separate thread handles the
requests one after the other, so that a cancellation never overtakes the request it cancels.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue

from paramiko import SSHException
from paramiko.message import Message

from arv_ssh.audit.trail import NotRecorded, text
from arv_ssh.config.destination import MAX_PORT
from arv_ssh.log import event
from crunch_sshd.audit.channel_audit import ChannelAudit, ConnectionAudit
from crunch_sshd.forwarding.broker import BrokerClient, BrokerError, Listening
from crunch_sshd.forwarding.channel_relay import Relays
from crunch_sshd.forwarding.listener import Fields, Listener
from crunch_sshd.ssh import threads
from crunch_sshd.ssh.limits import MAX_LISTENERS, NAME_LENGTH, PATH_LENGTH, WAITING_FORWARDS
from crunch_sshd.ssh.transport import GatewayTransport

logger = logging.getLogger(__name__)

Reply = Callable[[bool, tuple[int, ...]], None]
Key = tuple[str, int]
"""An address and a port, or a path and -1."""
NO_PORT = -1


class RemoteForwards:
    """The places at which the container listens for one connection's client."""

    KINDS = {
        "tcpip-forward": "remote",
        "cancel-tcpip-forward": "remote",
        "streamlocal-forward@openssh.com": "unix",
        "cancel-streamlocal-forward@openssh.com": "unix",
    }
    """The global requests, each with its kind in the policy."""

    def __init__(
        self, transport: GatewayTransport, relays: Relays, broker: BrokerClient, audit: ConnectionAudit
    ) -> None:
        self._audit = audit
        self._transport = transport
        self._relays = relays
        self._broker = broker
        self._lock = threading.Lock()
        self._listeners: dict[Key, tuple[Listener, ChannelAudit]] = {}
        self._closed = False
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def request(self, kind: str, message: Message, reply: Reply) -> None:
        """Answer one of :data:`KINDS` later. Transport thread."""
        key: Key
        if self.KINDS[kind] == "unix":
            key = message.get_binary().decode("utf-8", "surrogateescape"), NO_PORT
        else:
            key = message.get_binary().decode("utf-8", "replace"), message.get_int()
        refusal = self._no_room_for(key)
        if refusal:
            self._audit.channel(kind).refuse(refusal)
            reply(False, ())
            return
        step = self._cancel if kind.startswith("cancel-") else self._listen
        self._work.put(lambda: step(key, reply))

    def _no_room_for(self, key: Key) -> str:
        """Return why a request cannot wait for its turn, "" when it can."""
        longest = PATH_LENGTH if key[1] == NO_PORT else NAME_LENGTH
        if len(key[0]) > longest:
            return f"the name of the place has {len(key[0])} characters; {longest} is the most"
        if self._work.qsize() >= WAITING_FORWARDS:
            return f"{WAITING_FORWARDS} requests of this connection wait already"
        try:
            self._thread = self._thread or threads.start(self._serve, "remote-forward")
        except OSError as error:
            return f"the gateway has no room for a thread: {error.strerror}"
        return ""

    def close(self) -> None:
        """Stop listening everywhere. Does not block."""
        with self._lock:
            self._closed = True
        self._work.put(None)

    # The thread of the requests.

    def _serve(self) -> None:
        while (step := self._work.get()) is not None:
            with suppress(OSError, SSHException):  # the connection is gone, and close() follows
                step()
        with self._lock:
            listeners, self._listeners = list(self._listeners.values()), {}
        for listener, audit in listeners:
            listener.close()
            audit.end()

    def _listen(self, key: Key, reply: Reply) -> None:
        host, port = key
        if port == NO_PORT:
            audit = self._audit.channel("streamlocal-forward@openssh.com", target=text(host))
        else:
            audit = self._audit.channel("tcpip-forward", target=text(f"{host} port {port}"))
        try:
            audit.begin()
            listener = self._listener(host, port)
        except (BrokerError, NotRecorded, OSError) as error:
            facts = self._audit.facts
            event(logger, "cannot listen for a client", **facts, host=host, port=port, error=str(error))
            audit.reason = str(error)
            audit.end()
            reply(False, ())
            return
        allocated = listener.listening.port
        with self._lock:
            self._listeners[host, allocated or NO_PORT] = listener, audit
        reply(True, (allocated,) if port == 0 else ())
        listener.open()  # only now: the client cannot match a connection to a port that it does not know yet

    def _listener(self, host: str, port: int) -> Listener:
        if len(self._listeners) >= MAX_LISTENERS:
            raise BrokerError(f"the connection listens at {MAX_LISTENERS} places, its limit")
        if port == NO_PORT:
            return self._made(self._broker.listen_unix(host), "forwarded-streamlocal@openssh.com", lambda _: (host, ""))
        if port > MAX_PORT:
            raise BrokerError("the port is out of range")
        listening = self._broker.listen(host, port)
        bound = listening.port
        return self._made(listening, "forwarded-tcpip", lambda peer: (host, bound, peer[0], peer[1]))

    def _made(self, listening: Listening, kind: str, fields: Fields) -> Listener:
        listener = Listener(self._transport, self._relays, self._broker, listening, kind, fields, self._audit)
        listener.start()
        return listener

    def _cancel(self, key: Key, reply: Reply) -> None:
        with self._lock:
            found = self._listeners.pop(key, None)
        if found is not None:
            listener, audit = found
            listener.close()
            audit.end()
        reply(found is not None, ())
