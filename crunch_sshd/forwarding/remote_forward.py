"""Remote forwarding (RFC 4254 §7.1, OpenSSH's PROTOCOL §2.4): listening inside the container for the client.

Owns the table of what listens, by the words the client will cancel it with. The requests are worked on one after the
other in a thread of their own, so that a cancellation never overtakes what it cancels.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue

from paramiko.message import Message

from arv_ssh.audit.trail import NotRecorded, text
from arv_ssh.log import event
from crunch_sshd.audit.channel_audit import ChannelAudit, ConnectionAudit
from crunch_sshd.forwarding.broker import BrokerClient, BrokerError, Listening
from crunch_sshd.forwarding.channel_relay import Relays
from crunch_sshd.forwarding.listener import Fields, Listener
from crunch_sshd.ssh.transport import GatewayTransport

logger = logging.getLogger(__name__)

MAX_LISTENERS = 100
"""Places to listen at on one connection."""
MAX_PORT = 65535

Reply = Callable[[bool, tuple[int, ...]], None]
Key = tuple[str, int]
"""An address and a port, or a path and -1."""
NO_PORT = -1


class RemoteForwards:
    """What one connection's client has the container listen at."""

    KINDS = {
        "tcpip-forward": "remote",
        "cancel-tcpip-forward": "remote",
        "streamlocal-forward@openssh.com": "unix",
        "cancel-streamlocal-forward@openssh.com": "unix",
    }
    """The global requests, and the policy's kind that each belongs to."""

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
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="remote-forward", daemon=True)
            self._thread.start()
        step = self._cancel if kind.startswith("cancel-") else self._listen
        self._work.put(lambda: step(key, reply))

    def close(self) -> None:
        """Stop listening everywhere. Does not block."""
        with self._lock:
            self._closed = True
        self._work.put(None)

    # The thread of the requests.

    def _serve(self) -> None:
        while (step := self._work.get()) is not None:
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
        except (BrokerError, NotRecorded) as error:
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
        listener.start()  # only now: the client cannot place a connection for a port that it does not know yet

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
        return Listener(self._transport, self._relays, self._broker, listening, kind, fields, self._audit)

    def _cancel(self, key: Key, reply: Reply) -> None:
        with self._lock:
            found = self._listeners.pop(key, None)
        if found is not None:
            listener, audit = found
            listener.close()
            audit.end()
        reply(found is not None, ())
