"""Paramiko's transport with the doors a gateway needs.

With ``channel.py`` and ``packetizer.py``, the only place that opens paramiko's private doors. Owns these departures
from paramiko 5.1, each held by a test in ``tests/unit/crunch_sshd/ssh/test_transport.py``:

- channel messages go to the channel's own methods (paramiko calls its base class's), so that data can be written to a
  process by the transport thread, without a buffer and a hand-over in between;
- a channel-open message is handed on whole and may be answered later, from another thread: a server that must connect
  somewhere first can then say why it could not (RFC 4254 §5.1); the same for replies to global requests, which keep
  the order of the requests (§4);
- a channel that the server opens has its handler from the start, and no thread has to wait for the client's answer;
- messages that the transport thread sends wait for a key exchange, or another thread's sending, to finish, instead of
  blocking the thread that must go on reading;
- a key exchange message that a client sent on a wrong guess is skipped (RFC 4253 §7.1);
- the connection can be ended with a reason that the client shows (§11.1);
- packets are read and written by :class:`GatewayPacketizer`;
- what ended the connection is one sentence, not a traceback in the log, which any client can bring about.

Knows SSH messages; knows nothing of containers.
"""

from __future__ import annotations

import errno
import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import paramiko
from paramiko import common
from paramiko.kex_curve25519 import KexCurve25519
from paramiko.message import Message

from crunch_sshd.ssh.buffered_socket import BufferedSocket
from crunch_sshd.ssh.channel import PACKET_SIZE, ChannelHandler, GatewayChannel, Values
from crunch_sshd.ssh.diffie_hellman import Group14, Group16
from crunch_sshd.ssh.limits import REPLIES_WAITING, REQUEST_SIZE, WINDOW_SIZE
from crunch_sshd.ssh.open_channels import ChannelNumbers, finder, no_channel
from crunch_sshd.ssh.packetizer import GatewayPacketizer, Packet
from crunch_sshd.ssh.replies import (
    OPEN_CONNECT_FAILED,
    OPEN_PROHIBITED,
    OPEN_RESOURCE_SHORTAGE,
    OPEN_UNKNOWN_TYPE,
    ChannelOpen,
    MakeHandler,
    OpenAnswered,
    Replies,
    kind_of,
)

__all__ = [
    "OPEN_CONNECT_FAILED", "OPEN_PROHIBITED", "OPEN_RESOURCE_SHORTAGE", "OPEN_UNKNOWN_TYPE", "ChannelHandler",
    "ChannelOpen", "GatewayChannel", "GatewayServer", "GatewayTransport", "OpenAnswered",
]  # fmt: skip
"""What a server needs, in one place."""

logger = logging.getLogger(__name__)

DISCONNECT_BY_APPLICATION = 11
"""RFC 4253 §11.1."""
FAILURE_LENGTH = 300
"""Characters of a failure that are shown: it may quote what the client sent."""


class GatewayServer(paramiko.ServerInterface):
    """The questions a :class:`GatewayTransport` asks beyond paramiko's own; each default answer is to refuse."""

    def client_identified(self, version: str) -> None:
        """Note the client's identification line (RFC 4253 §4.2); the server's offers can still be changed."""

    def open_channel(self, opening: ChannelOpen) -> None:
        """Answer ``opening`` now or later, without blocking."""
        opening.refuse(OPEN_UNKNOWN_TYPE, f"the channel type {opening.kind} is not known")

    def global_request(self, kind: str, message: Message, reply: Callable[[bool, tuple[int, ...]], None]) -> None:
        """Answer a global request (RFC 4254 §4) by calling ``reply`` with success and its integers, now or later."""
        reply(False, ())

    def transport_ended(self) -> None:
        """Note that the connection is over and the transport thread is about to end."""


class GatewayTransport(paramiko.Transport):
    """The server's end of one SSH connection, on a plain socket or on one that has its own buffer."""

    _channel_handler_table = {
        common.MSG_CHANNEL_SUCCESS: lambda channel, message: channel._request_success(message),
        common.MSG_CHANNEL_FAILURE: lambda channel, message: channel._request_failed(message),
        common.MSG_CHANNEL_DATA: lambda channel, message: channel.feed(message.get_binary()),
        common.MSG_CHANNEL_EXTENDED_DATA: lambda channel, message: channel._feed_extended(message),
        common.MSG_CHANNEL_WINDOW_ADJUST: lambda channel, message: channel._window_adjust(message),
        common.MSG_CHANNEL_REQUEST: lambda channel, message: channel._handle_request(message),
        common.MSG_CHANNEL_EOF: lambda channel, message: channel._handle_eof(message),
        common.MSG_CHANNEL_CLOSE: lambda channel, message: channel._handle_close(message),
    }

    _kex_info = {
        **paramiko.Transport._kex_info,  # type: ignore[attr-defined]
        "curve25519-sha256": KexCurve25519,  # paramiko knows only its original name; RFC 8731 gave it this one
        Group14.name: Group14,
        Group16.name: Group16,
    }

    def __init__(self, sock: socket.socket | BufferedSocket) -> None:
        adapter: Any = sock if isinstance(sock, BufferedSocket) else BufferedSocket(sock)
        packetizer: Any = partial(GatewayPacketizer, sink=self._data_received, adjust=self._window_adjusted)
        super().__init__(
            adapter,
            default_window_size=WINDOW_SIZE,
            default_max_packet_size=PACKET_SIZE,
            packetizer_class=packetizer,
        )
        self.packetizer: GatewayPacketizer
        self.clear_to_send_timeout += adapter.patience  # a key exchange may have to wait for a connection
        self._deferred: deque[Message | Packet] = deque()
        self._replies = Replies(self._send_user_message)
        self._opening: dict[int, tuple[GatewayChannel, OpenAnswered]] = {}
        self.server_object: GatewayServer
        self.channels_seen = ChannelNumbers()
        self._find_channel = finder(self._channels)  # type: ignore[attr-defined]

    def run(self) -> None:
        try:
            super().run()
        finally:
            self.server_object.transport_ended()

    def _log(self, level: int, msg: str | list[str], *args: object) -> None:
        if isinstance(msg, str):  # else the lines of a traceback; :attr:`failure` says what it was
            super()._log(level, msg, *args)  # type: ignore[misc]

    @property
    def failure(self) -> str:
        """What broke the connection, as a text for logs; "" if one of both sides has just left. Once it has ended."""
        error: BaseException | None = self.saved_exception
        if error is None or isinstance(error, EOFError):
            return ""
        sentence = str(error) if isinstance(error, paramiko.SSHException) else f"{type(error).__name__}: {error}"
        return "".join(char if " " <= char <= "~" else "?" for char in sentence[:FAILURE_LENGTH])

    def send_banner(self, text: str) -> None:
        """Send a text for the client to show before the login succeeds (RFC 4252 §5.4). Transport thread."""
        message = Message()
        message.add_byte(common.cMSG_USERAUTH_BANNER)
        message.add_string(text)
        message.add_string("en")
        self._send_user_message(message)

    def disconnect(self, text: str) -> None:
        """Tell the client why (RFC 4253 §11.1), after anything already being sent, and close.

        Any thread but the transport's. Blocks while the client takes nothing; :meth:`close` wakes it.
        """
        message = Message()
        message.add_byte(common.cMSG_DISCONNECT)
        message.add_int(DISCONNECT_BY_APPLICATION)
        message.add_string(text)
        message.add_string("en")
        try:
            self._send_user_message(message)
        except (OSError, paramiko.SSHException) as error:
            logger.debug("the client left before it could be notified: %s", error)
        self.close()

    def debug(self, text: str) -> None:
        """Send a text that the client shows only if its user asked for debug messages (RFC 4253 §11.3). Any thread."""
        message = Message()
        message.add_byte(common.cMSG_DEBUG)
        message.add_boolean(False)
        message.add_string(text)
        message.add_string("en")
        self._send_user_message(message)

    def _send_user_message(self, data: Message | Packet) -> None:
        """Send after any key exchange that is under way and after earlier messages.

        The transport thread never waits for its turn: it must go on reading, or two peers that both have a thread
        blocked in sending would wait for each other forever. Raises OSError when the connection is gone.
        """
        if threading.current_thread() is self:
            self._deferred.append(data)
            if len(self._deferred) > REPLIES_WAITING:
                raise paramiko.SSHException("the client asks more than it reads answers")
            self._send_deferred()
            return
        self.send_on(None, self.packetizer.send_message, data)

    def send_on(self, channel: GatewayChannel | None, send: Callable[[*Values], None], *values: *Values) -> None:
        """Call ``send``, which sends on ``channel``, when its turn comes, unless the channel is closed by then.

        A client that closes a channel gets our close from the transport thread, and stock ssh ends the connection if
        anything arrives for the channel after that. So the check happens within the turn, which our close waits for.
        Any thread but the transport's. Raises OSError when the connection is gone.
        """
        if not self._take_turn():
            return  # the connection is over; its channels learn that by themselves
        try:
            while self._deferred:
                self.packetizer.send_message(self._deferred.popleft())
            if channel is None or not channel.closed:
                send(*values)
        except EOFError as error:  # paramiko's word for a connection that is gone
            raise BrokenPipeError(errno.EPIPE, "the connection is closed") from error
        finally:
            self.clear_to_send_lock.release()
        if self._deferred:
            self._send_deferred()

    def _data_received(self, number: int, data: memoryview) -> bool:
        """Pass a channel's data on; False if :meth:`run` must judge the message: out of order, or for no channel."""
        channel = None if self._expected_packet else self._find_channel(number, no_channel)()  # type: ignore[attr-defined]
        if channel is None:
            return False
        channel.feed(data)
        return True

    def _window_adjusted(self, number: int, size: int) -> bool:
        """Make a channel's window larger; False as for :meth:`_data_received`."""
        channel = None if self._expected_packet else self._find_channel(number, no_channel)()  # type: ignore[attr-defined]
        if channel is None:
            return False
        channel.window_adjusted(size)
        return True

    def _check_banner(self) -> None:
        super()._check_banner()  # type: ignore[misc]
        self.server_object.client_identified(self.remote_version)

    def _parse_kex_init(self, message: Message) -> None:
        offered = self._really_parse_kex_init(message)  # type: ignore[attr-defined]
        message.rewind()
        super()._parse_kex_init(message)  # type: ignore[misc]
        if offered["kex_follows"] and not self._guessed(offered):
            self._skip_guess()

    def _guessed(self, offered: dict[str, Any]) -> bool:
        """Say whether both sides' first algorithms are the same, so that a client's guess was right (RFC 4253 §7.1)."""
        key_type = next(name for name in self.preferred_keys if name in self.server_key_dict)
        ours = self.preferred_kex[0], key_type
        return ours == (offered["kex_algo_list"][0], offered["server_key_algo_list"][0])

    def _skip_guess(self) -> None:
        """Have the exchange that begins now skip its first message, the wrong guess."""
        engine: Any = self.kex_engine
        parse_next = engine.parse_next

        def skip(kind: int, message: Message) -> None:
            engine.parse_next = parse_next
            self._expect_packet(kind)  # type: ignore[attr-defined]

        engine.parse_next = skip

    def _take_turn(self) -> bool:
        """Acquire the senders' lock once no key exchange is under way; return False when the connection is over."""
        deadline = 0.0  # none until a key exchange is in the way
        while self.active:  # type: ignore[attr-defined]
            self.clear_to_send_lock.acquire()
            if self.clear_to_send.is_set():
                return True
            self.clear_to_send_lock.release()
            deadline = deadline or time.monotonic() + self.clear_to_send_timeout
            if time.monotonic() > deadline:
                raise TimeoutError("the key exchange took too long")
            self.clear_to_send.wait(0.1)
        return False

    def _send_deferred(self) -> None:
        """Send waiting messages, unless a key exchange or a sender is in the way: each calls this when done."""
        while self._deferred and self.clear_to_send.is_set() and self.clear_to_send_lock.acquire(blocking=False):
            try:
                while self._deferred and self.clear_to_send.is_set():
                    self.packetizer.send_message(self._deferred.popleft())
            except EOFError:
                return  # the connection is gone, and so is the client that waited for the answer
            finally:
                self.clear_to_send_lock.release()

    def _parse_newkeys(self, message: Message) -> None:
        super()._parse_newkeys(message)  # type: ignore[misc]
        self._send_deferred()

    def _parse_debug(self, message: Message) -> None:
        """Drop a client's SSH_MSG_DEBUG: paramiko would spend half a minute on a long one, for a log that is off."""

    def _parse_channel_open(self, message: Message) -> None:
        opening = ChannelOpen(self, message)
        if len(message.asbytes()) > REQUEST_SIZE:
            opening.refuse(OPEN_RESOURCE_SHORTAGE, f"the request has more than {REQUEST_SIZE} bytes")
        else:
            self.server_object.open_channel(opening)

    def _parse_global_request(self, message: Message) -> None:
        kind = kind_of(message)
        want_reply = message.get_boolean()
        ready = self._replies.expect() if want_reply else None

        def reply(succeeded: bool, values: tuple[int, ...]) -> None:
            if ready is None:
                return
            answer = Message()
            answer.add_byte(common.cMSG_REQUEST_SUCCESS if succeeded else common.cMSG_REQUEST_FAILURE)
            for value in values:
                answer.add_int(value)
            ready(answer)

        if len(message.asbytes()) > REQUEST_SIZE:
            reply(False, ())
        else:
            self.server_object.global_request(kind, message, reply)

    def _accept_channel(
        self, remote_id: int, window: int, packet: int, make_handler: MakeHandler
    ) -> GatewayChannel:
        with self.lock:
            channel = self._new_channel(make_handler)
            channel._set_remote_channel(remote_id, window, packet)  # type: ignore[attr-defined]
        reply = Message()
        reply.add_byte(common.cMSG_CHANNEL_OPEN_SUCCESS)
        for value in (remote_id, channel.chanid, WINDOW_SIZE, PACKET_SIZE):
            reply.add_int(value)
        self._send_user_message(reply)
        return channel

    def _new_channel(self, make_handler: MakeHandler) -> GatewayChannel:
        """Return a channel with the next free number. The caller holds the lock."""
        channel = GatewayChannel(self._next_channel())  # type: ignore[attr-defined]
        channel._set_transport(self)  # type: ignore[attr-defined]
        channel._set_window(WINDOW_SIZE, PACKET_SIZE)  # type: ignore[attr-defined]
        channel.handler = make_handler(channel)
        # Last: ending the connection notifies the handlers of all channels in here, without our lock.
        self._channels.put(channel.chanid, channel)  # type: ignore[attr-defined]
        self.channels_seen[channel.chanid] = True
        return channel

    def offer_channel(
        self,
        kind: str,
        fields: Sequence[str | bytes | int],
        make_handler: MakeHandler,
        answered: OpenAnswered,
    ) -> None:
        """Ask the client to open a channel of the type ``kind`` with the type's own ``fields``; does not wait.

        ``answered`` gets "" or the client's refusal, on the transport thread and before any data. When the connection
        ends first, only the handler's ``closed`` is called. Any thread.
        """
        with self.lock:
            channel = self._new_channel(make_handler)
            self._opening[channel.chanid] = channel, answered  # held here: paramiko itself holds channels weakly
        message = Message()
        message.add_byte(common.cMSG_CHANNEL_OPEN)
        message.add_string(kind)
        for number in (channel.chanid, WINDOW_SIZE, PACKET_SIZE):
            message.add_int(number)
        for field in fields:
            if isinstance(field, int):
                message.add_int(field)
            else:
                message.add_string(field)
        self._send_user_message(message)

    def _parse_channel_open_success(self, message: Message) -> None:
        number, remote_id, window, packet = (message.get_int() for _ in range(4))
        channel, answered = self._take_opening(number)
        channel._set_remote_channel(remote_id, window, packet)  # type: ignore[attr-defined]
        answered("")

    def _parse_channel_open_failure(self, message: Message) -> None:
        number, reason = message.get_int(), message.get_int()
        text = message.get_binary().decode("utf-8", "replace")
        channel, answered = self._take_opening(number)
        self._unlink_channel(channel.chanid)  # type: ignore[attr-defined]
        answered(text or f"reason {reason}")

    def _take_opening(self, number: int) -> tuple[GatewayChannel, OpenAnswered]:
        with self.lock:
            found = self._opening.pop(number, None)
        if found is None:
            raise paramiko.SSHException(f"the client answered for channel {number}, which was not being opened")
        return found
