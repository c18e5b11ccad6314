"""Paramiko's transport and channel with the doors a gateway needs, and the only place that opens private ones.

Owns seven departures from paramiko 5.1, each held by a test in ``tests/unit/crunch_sshd/test_transport.py``:

- channel messages go to the channel's own methods (paramiko calls its base class's), so that data can be written to a
  process by the transport thread, without a buffer and a hand-over in between;
- a channel-open message is handed on whole and may be answered later, from another thread: a server that must connect
  somewhere first can then say why it could not (RFC 4254 §5.1); the same for replies to global requests, which keep
  the order of the requests (§4);
- a channel that the server opens has its handler from the start, and nobody has to wait for the client's answer;
- what the transport thread has to send waits for the end of a key exchange, or of another thread's sending, instead
  of blocking the thread that must go on reading;
- a key exchange message that a client sent on a wrong guess is left out (RFC 4253 §7.1);
- the connection can be ended with a reason that the client shows (§11.1);
- the socket is read in large pieces.

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
from typing import Any, Protocol

import paramiko
from paramiko import common
from paramiko.kex_curve25519 import KexCurve25519
from paramiko.message import Message

logger = logging.getLogger(__name__)

WINDOW_SIZE = 2 * 1024 * 1024
"""Bytes a client may send ahead on a channel: what OpenSSH itself uses; 64 MiB made uploads four times slower."""
PACKET_SIZE = 32 * 1024
"""Bytes of data in one packet, as OpenSSH."""
RECEIVE_SIZE = 256 * 1024
MAX_DEFERRED = 1000
"""Answers that wait to be sent; a client that reads never lets more than a few pile up."""
IDLE_TICK = 1.0
"""Seconds between the transport thread's looks at its timers while nothing arrives."""

# RFC 4254 §5.1
OPEN_PROHIBITED = 1
OPEN_CONNECT_FAILED = 2
OPEN_UNKNOWN_TYPE = 3
OPEN_RESOURCE_SHORTAGE = 4

DISCONNECT_BY_APPLICATION = 11
"""RFC 4253 §11.1."""


class ChannelHandler(Protocol):
    """What a channel tells its owner, always on the transport thread: record and signal, never block."""

    def data_received(self, data: bytes) -> None:
        """Take data from the client; call ``channel.consumed`` when the client may send as much again."""

    def eof_received(self) -> None:
        """Note that the client sends no more data."""

    def request(self, kind: str, message: Message) -> bool:
        """Act on a channel request (RFC 4254 §5.4) and say whether it succeeded."""

    def replied(self) -> None:
        """Note that the reply to the last request is sent."""

    def closed(self) -> None:
        """Note that the channel is gone: closed by the client, or the connection lost. May come twice."""


OpenAnswered = Callable[[str], None]
"""Gets a client's answer to a channel that the server opens: "" when it agreed, else why it did not."""


class GatewayChannel(paramiko.Channel):
    """A channel whose input goes straight to its handler."""

    transport: GatewayTransport

    def __init__(self, chanid: int) -> None:
        super().__init__(chanid)
        self.handler: ChannelHandler
        self._may_receive = WINDOW_SIZE

    def consumed(self, size: int) -> None:
        """Let the client send ``size`` more bytes. Any thread."""
        with self.lock:
            self._may_receive += size
        increment = self._check_add_window(size)  # type: ignore[attr-defined]
        if increment:
            message = Message()
            message.add_byte(common.cMSG_CHANNEL_WINDOW_ADJUST)
            message.add_int(self.remote_chanid)
            message.add_int(increment)
            self.transport._send_user_message(message)

    def send_data(self, data: bytes, data_type: int = 0) -> None:
        """Send all of ``data``, waiting for the client's window; ``data_type`` 1 is stderr (RFC 4254 §5.2).

        Raises OSError when the channel is closed. Any thread, but not the transport's.
        """
        rest = memoryview(data)
        kind = common.cMSG_CHANNEL_EXTENDED_DATA if data_type else common.cMSG_CHANNEL_DATA
        head = kind + self.remote_chanid.to_bytes(4, "big") + (data_type.to_bytes(4, "big") if data_type else b"")
        while rest:
            with self.lock:
                size = self._wait_for_send_window(len(rest))  # type: ignore[attr-defined]
            if size == 0:
                raise BrokenPipeError(errno.EPIPE, "the channel is closed")
            self.transport._send_user_message(_Packet(b"".join((head, size.to_bytes(4, "big"), rest[:size]))))
            rest = rest[size:]

    def send_request(self, kind: str, *values: int | str | bytes | bool) -> None:
        """Send a channel request that wants no reply, e.g. ``exit-signal`` (RFC 4254 §6.10). Any thread."""
        message = Message()
        message.add_byte(common.cMSG_CHANNEL_REQUEST)
        message.add_int(self.remote_chanid)
        message.add_string(kind)
        message.add_boolean(False)
        for value in values:
            if isinstance(value, bool):
                message.add_boolean(value)
            elif isinstance(value, int):
                message.add_int(value)
            else:
                message.add_string(value)
        self.transport._send_user_message(message)

    def _feed(self, message: Message) -> None:
        data = message.get_binary()
        with self.lock:
            self._may_receive -= len(data)
            exceeded = self._may_receive < 0
        if exceeded:
            raise paramiko.SSHException("the client sent more than the channel's window allows")
        if not self.closed and not self.eof_received:
            self.handler.data_received(data)

    def _feed_extended(self, message: Message) -> None:
        # A client has no use for extended data (RFC 4254 §5.2 defines only stderr), but it uses up the window.
        message.get_int()
        size = len(message.get_binary())
        with self.lock:
            self._may_receive -= size
        self.consumed(size)

    def _handle_eof(self, message: Message) -> None:
        super()._handle_eof(message)  # type: ignore[misc]
        self.handler.eof_received()

    def _handle_close(self, message: Message) -> None:
        super()._handle_close(message)  # type: ignore[misc]
        self.handler.closed()

    def _unlink(self) -> None:
        super()._unlink()  # type: ignore[misc]
        self.handler.closed()

    def _handle_request(self, message: Message) -> None:
        kind = message.get_binary().decode("utf-8", "replace")
        want_reply = message.get_boolean()
        succeeded = self.handler.request(kind, message)
        if want_reply:
            reply = Message()
            reply.add_byte(common.cMSG_CHANNEL_SUCCESS if succeeded else common.cMSG_CHANNEL_FAILURE)
            reply.add_int(self.remote_chanid)
            self.transport._send_user_message(reply)
        self.handler.replied()


class _Packet:
    """A message that is complete already; paramiko's ``Message`` would copy it twice."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def asbytes(self) -> bytes:
        return self._content


class ChannelOpen:
    """A client's wish for a channel, answered once, by any thread; ``message`` stands at the type's own fields."""

    def __init__(self, transport: GatewayTransport, message: Message) -> None:
        self.kind = message.get_binary().decode("utf-8", "replace")
        self._transport = transport
        self._remote_id = message.get_int()
        self._window = message.get_int()
        self._packet = message.get_int()
        self.message = message

    def accept(self, make_handler: Callable[[GatewayChannel], ChannelHandler]) -> GatewayChannel:
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


class _Replies:
    """The replies to global requests, sent in the order of the requests (RFC 4254 §4) whichever is ready first."""

    def __init__(self, send: Callable[[Message], None]) -> None:
        self._send = send
        self._lock = threading.Lock()
        self._slots: deque[list[Message]] = deque()
        self._sending = False

    def expect(self) -> Callable[[Message], None]:
        """Take the next place; return what sends the reply for it, from any thread."""
        slot: list[Message] = []
        with self._lock:
            self._slots.append(slot)

        def ready(message: Message) -> None:
            slot.append(message)
            while (first := self._next()) is not None:
                self._send(first)  # when it raises, the connection is over, and no other reply is sent either
                self._sending = False

        return ready

    def _next(self) -> Message | None:
        """Return what may be sent now; None while nothing is, or another thread is about to send.

        The lock is not held while sending: a key exchange may stop the sender, and must not stop the transport thread.
        """
        with self._lock:
            if self._sending or not self._slots or not self._slots[0]:
                return None
            self._sending = True
            return self._slots.popleft()[0]


class GatewayServer(paramiko.ServerInterface):
    """The questions a :class:`GatewayTransport` asks beyond paramiko's own, with the answer no."""

    def client_identified(self, version: str) -> None:
        """Note the client's identification line (RFC 4253 §4.2); what is offered can still be changed."""

    def open_channel(self, wish: ChannelOpen) -> None:
        """Answer ``wish`` now or later, without blocking."""
        wish.refuse(OPEN_UNKNOWN_TYPE, f"the channel type {wish.kind} is not known")

    def global_request(self, kind: str, message: Message, reply: Callable[[bool, tuple[int, ...]], None]) -> None:
        """Answer a global request (RFC 4254 §4) by calling ``reply`` with success and its integers, now or later."""
        reply(False, ())

    def transport_ended(self) -> None:
        """Note that the connection is over and the transport thread is about to end."""


class GatewayTransport(paramiko.Transport):
    """The server's end of one SSH connection on a plain socket."""

    _channel_handler_table = {
        common.MSG_CHANNEL_SUCCESS: lambda channel, message: channel._request_success(message),
        common.MSG_CHANNEL_FAILURE: lambda channel, message: channel._request_failed(message),
        common.MSG_CHANNEL_DATA: lambda channel, message: channel._feed(message),
        common.MSG_CHANNEL_EXTENDED_DATA: lambda channel, message: channel._feed_extended(message),
        common.MSG_CHANNEL_WINDOW_ADJUST: lambda channel, message: channel._window_adjust(message),
        common.MSG_CHANNEL_REQUEST: lambda channel, message: channel._handle_request(message),
        common.MSG_CHANNEL_EOF: lambda channel, message: channel._handle_eof(message),
        common.MSG_CHANNEL_CLOSE: lambda channel, message: channel._handle_close(message),
    }

    # Paramiko knows this exchange by its first name only; RFC 8731 gave it this one.
    _kex_info = {**paramiko.Transport._kex_info, "curve25519-sha256": KexCurve25519}  # type: ignore[attr-defined]

    def __init__(self, sock: socket.socket) -> None:
        adapter: Any = BufferedSocket(sock)
        super().__init__(adapter, default_window_size=WINDOW_SIZE, default_max_packet_size=PACKET_SIZE)
        self._deferred: deque[Message | _Packet] = deque()
        self._replies = _Replies(self._send_user_message)
        self._opening: dict[int, tuple[GatewayChannel, OpenAnswered]] = {}
        self.server_object: GatewayServer

    def run(self) -> None:
        try:
            super().run()
        finally:
            self.server_object.transport_ended()

    def disconnect(self, text: str) -> None:
        """Tell the client why (RFC 4253 §11.1), after what is being sent, and close.

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
            logger.debug("the client was gone before it could be told: %s", error)
        self.close()

    def _send_user_message(self, data: Message | _Packet) -> None:
        """Send, after a key exchange if one is under way and after what was to be sent before.

        The transport thread never waits for its turn: it must go on reading, or two peers that both have a thread
        blocked in sending wait for each other for ever. Raises OSError when the connection is gone.
        """
        if threading.current_thread() is self:
            self._deferred.append(data)
            if len(self._deferred) > MAX_DEFERRED:
                raise paramiko.SSHException("the client asks more than it reads answers")
            self._send_deferred()
            return
        if not self._take_turn():
            return  # the connection is over; its channels learn that by themselves
        try:
            while self._deferred:
                self._send_message(self._deferred.popleft())  # type: ignore[attr-defined]
            self._send_message(data)  # type: ignore[attr-defined]
        except EOFError as error:  # paramiko's word for a connection that is gone
            raise BrokenPipeError(errno.EPIPE, "the connection is closed") from error
        finally:
            self.clear_to_send_lock.release()
        if self._deferred:
            self._send_deferred()

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
        """Have the exchange that begins now leave out its first message, the wrong guess."""
        engine: Any = self.kex_engine
        parse_next = engine.parse_next

        def skip(kind: int, message: Message) -> None:
            engine.parse_next = parse_next
            self._expect_packet(kind)  # type: ignore[attr-defined]

        engine.parse_next = skip

    def _take_turn(self) -> bool:
        """Hold the lock of senders while no key exchange is under way; False when the connection is over."""
        deadline = time.monotonic() + self.clear_to_send_timeout
        while self.active:  # type: ignore[attr-defined]
            self.clear_to_send.wait(0.1)
            self.clear_to_send_lock.acquire()
            if self.clear_to_send.is_set():
                return True
            self.clear_to_send_lock.release()
            if time.monotonic() > deadline:
                raise TimeoutError("the key exchange took too long")
        return False

    def _send_deferred(self) -> None:
        """Send what waits, unless a key exchange or a sender is in the way: each of these calls this when done."""
        while self._deferred and self.clear_to_send.is_set() and self.clear_to_send_lock.acquire(blocking=False):
            try:
                while self._deferred and self.clear_to_send.is_set():
                    self._send_message(self._deferred.popleft())  # type: ignore[attr-defined]
            except EOFError:
                return  # the connection is gone, and with it who waited for the answer
            finally:
                self.clear_to_send_lock.release()

    def _parse_newkeys(self, message: Message) -> None:
        super()._parse_newkeys(message)  # type: ignore[misc]
        self._send_deferred()

    def _parse_channel_open(self, message: Message) -> None:
        self.server_object.open_channel(ChannelOpen(self, message))

    def _parse_global_request(self, message: Message) -> None:
        kind = message.get_binary().decode("utf-8", "replace")
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

        self.server_object.global_request(kind, message, reply)

    def _accept_channel(
        self, remote_id: int, window: int, packet: int, make_handler: Callable[[GatewayChannel], ChannelHandler]
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

    def _new_channel(self, make_handler: Callable[[GatewayChannel], ChannelHandler]) -> GatewayChannel:
        """Return a channel with the next free number. Holds the lock."""
        channel = GatewayChannel(self._next_channel())  # type: ignore[attr-defined]
        self._channels.put(channel.chanid, channel)  # type: ignore[attr-defined]
        self.channels_seen[channel.chanid] = True
        channel._set_transport(self)  # type: ignore[attr-defined]
        channel._set_window(WINDOW_SIZE, PACKET_SIZE)  # type: ignore[attr-defined]
        channel.handler = make_handler(channel)
        return channel

    def offer_channel(
        self,
        kind: str,
        fields: Sequence[str | bytes | int],
        make_handler: Callable[[GatewayChannel], ChannelHandler],
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


class BufferedSocket:
    """A socket whose ``recv`` of a few bytes costs no system call; the rest is the socket's own."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = memoryview(b"")
        self._storage = bytearray(RECEIVE_SIZE)

    def recv(self, size: int) -> bytes:
        """Return up to ``size`` bytes (one reader thread)."""
        if not self._buffer:
            received = self._sock.recv_into(self._storage)
            self._buffer = memoryview(self._storage)[:received]
        piece = bytes(self._buffer[:size])
        self._buffer = self._buffer[size:]
        return piece

    def settimeout(self, timeout: float | None) -> None:
        """Set the poll interval; paramiko's own of 0.1 s would wake an idle connection ten times a second."""
        self._sock.settimeout(None if timeout is None else max(timeout, IDLE_TICK))

    def close(self) -> None:
        """Close at once: a reader blocked in :meth:`recv` is woken, which closing alone does not do."""
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other end was faster
        self._sock.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)
