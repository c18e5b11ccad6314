"""Agent forwarding: a session's SSH_AUTH_SOCK inside the container, whose other end is the client's agent.

Owns that socket's lifetime: from just before the session's program starts until the session is over. Each connection
to it becomes a separate channel (``auth-agent@openssh.com``), so any number of programs may use it at once.
"""

from __future__ import annotations

from crunch_sshd.audit.channel_audit import ConnectionAudit
from crunch_sshd.forwarding.broker import BrokerClient
from crunch_sshd.forwarding.channel_relay import Relays
from crunch_sshd.forwarding.listener import Listener
from crunch_sshd.ssh.transport import GatewayTransport

VARIABLE = "SSH_AUTH_SOCK"
CHANNEL_TYPE = "auth-agent@openssh.com"


class Agent:
    """One session's agent. The methods block for a moment; do not call them on the transport thread."""

    def __init__(
        self, transport: GatewayTransport, relays: Relays, broker: BrokerClient, audit: ConnectionAudit
    ) -> None:
        self._transport = transport
        self._relays = relays
        self._broker = broker
        self._audit = audit
        self._listener: Listener | None = None

    def open(self) -> dict[str, str]:
        """Make the socket; return the environment that names it.

        Raises :class:`BrokerError` when there is no place for it, OSError when this host has no room for a thread.
        """
        listening = self._broker.listen_agent()
        self._listener = Listener(
            self._transport, self._relays, self._broker, listening, CHANNEL_TYPE, lambda _: (), self._audit
        )
        self._listener.start()
        self._listener.open()
        return {VARIABLE: listening.path}

    def close(self) -> None:
        """Remove the socket, if it was made. May come twice."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
