"""What a client asks for and gets later: a channel (RFC 4254 §5.1), and the reply to a global request (§4).

Ensures that each is answered once, by any thread, and that replies keep the order of the requests. Does not know what
the client asks.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from paramiko import SSHException, common
from paramiko.message import Message

from crunch_sshd.ssh.channel import ChannelHandler, GatewayChannel
from crunch_sshd.ssh.limits import KIND_LENGTH, REPLIES_WAITING

OPEN_PROHIBITED = 1
OPEN_CONNECT_FAILED = 2
OPEN_UNKNOWN_TYPE = 3
OPEN_RESOURCE_SHORTAGE = 4
"""Why a channel is not opened (RFC 4254 §5.1)."""

MakeHandler = Callable[[GatewayChannel], ChannelHandler]
OpenAnswered = Callable[[str], None]
"""Gets a client's answer to a channel that the server opens: "" when it agreed, else why it did not."""


class Acceptor(Protocol):
    """What an answer to a client needs from its transport, :class:`crunch_sshd.ssh.transport.GatewayTransport`."""

    def _send_user_message(self, data: Message) -> None: ...

    def _accept_channel(
        self, remote_id: int, window: int, packet: int, make_handler: MakeHandler
    ) -> GatewayChannel: ...


class ChannelOpen:
    """A client's CHANNEL_OPEN (RFC 4254 §5.1), answered once, by any thread.

    ``message`` is positioned at the type's own fields.
    """

    def __init__(self, transport: Acceptor, message: Message) -> None:
        self.kind = kind_of(message)
        self._transport = transport
        self._remote_id = message.get_int()
        self._window = message.get_int()
        self._packet = message.get_int()
        self.message = message

    def accept(self, make_handler: MakeHandler) -> GatewayChannel:
        """Open the channel with the handler made for it."""
        return self._transport._accept_channel(self._remote_id, self._window, self._packet, make_handler)

    def refuse(self, reason: int, text: str) -> None:
        """Answer with a reason code (RFC 4254 §5.1) and a sentence."""
        reply = Message()
        reply.add_byte(common.cMSG_CHANNEL_OPEN_FAILURE)
        reply.add_int(self._remote_id)
        reply.add_int(reason)
        reply.add_string(text)
        reply.add_string("en")
        self._transport._send_user_message(reply)


class Replies:
    """The replies to global requests, sent in the order of the requests (RFC 4254 §4) whichever is ready first."""

    def __init__(self, send: Callable[[Message], None]) -> None:
        self._send = send
        self._lock = threading.Lock()
        self._slots: deque[list[Message]] = deque()
        self._sending = False

    def expect(self) -> Callable[[Message], None]:
        """Take the next place; return the function that sends its reply, from any thread.

        Raises SSHException, which ends the connection, when too many replies wait.
        """
        slot: list[Message] = []
        with self._lock:
            if len(self._slots) >= REPLIES_WAITING:
                raise SSHException("the client asks more than can be answered")
            self._slots.append(slot)

        def ready(message: Message) -> None:
            slot.append(message)
            while (first := self._next()) is not None:
                self._send(first)  # when it raises, the connection is over, and no other reply is sent either
                self._sending = False

        return ready

    def _next(self) -> Message | None:
        """Return the reply to send now; None while it is not ready, or another thread is about to send.

        The lock is not held while sending: a key exchange may stop the sender, but must not stop the transport thread.
        """
        with self._lock:
            if self._sending or not self._slots or not self._slots[0]:
                return None
            self._sending = True
            return self._slots.popleft()[0]


def kind_of(message: Message) -> str:
    """Return the next name in ``message``, of a channel's type or a request; only the beginning of a long one.

    A name that is cut never matches a known one, and a refusal that repeats it is no longer than the cut name.
    """
    return message.get_binary()[: KIND_LENGTH + 1].decode("utf-8", "replace")
