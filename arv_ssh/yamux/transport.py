"""yamux in an event loop: a protocol over one connection, which carries many streams.

Owns the joining of :class:`arv_ssh.yamux.core.Core` to the connection below: reading and writing there, the keepalive
that finds a dead peer, and the end of every stream when the connection is lost. A stream's side towards its protocol
belongs to :mod:`arv_ssh.yamux.stream`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from arv_ssh.net.relay import plain
from arv_ssh.yamux import core
from arv_ssh.yamux.core import Core
from arv_ssh.yamux.frames import GoAway, LocalProtocolError, RemoteProtocolError
from arv_ssh.yamux.stream import Stream

KEEPALIVE = 15.0
"""Seconds of silence after which the peer is asked for a sign of life."""
DEAD_AFTER = 45.0
"""Seconds of silence after which the peer is considered dead, after three unanswered questions."""
LINGER = 10.0
"""Seconds that the peer has to end its direction after a stream was closed here; then the stream is reset."""

Accept = Callable[[], asyncio.BaseProtocol]


class YamuxSession(asyncio.Protocol):
    """One yamux connection. ``client`` says which end; ``accept`` makes the protocol of each stream the peer opens.

    Without ``accept`` the peer cannot open streams. ``closed`` is called once, with the reason, or None after
    :meth:`close`, when every stream has already been notified. ``dismissed`` is called when the peer opens and takes no
    more streams, but lets the open ones go on.
    """

    def __init__(
        self,
        *,
        client: bool,
        accept: Accept | None = None,
        closed: Callable[[YamuxSession, Exception | None], Any] | None = None,
        dismissed: Callable[[], Any] | None = None,
        max_streams: int = core.MAX_STREAMS,
    ) -> None:
        self._core = Core(client=client, max_streams=max_streams if accept else 0)
        self._accept = accept
        self._closed = closed
        self._dismissed = dismissed
        self._streams: dict[int, Stream] = {}
        self._waiting: set[Stream] = set()  # streams that wait for bytes to go out: full, or closed and not all sent
        self._lower: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._heard = self._loop.time()
        self._lower_full = False
        self._busy = False
        self._over = False
        self._error: Exception | None = None

    def take(self, transport: asyncio.Transport, early: bytes = b"") -> None:
        """Begin on an open, paused transport; ``early`` are bytes already read from it."""
        transport.set_protocol(self)
        self.connection_made(transport)
        if early:
            self.data_received(early)
        if not self._over:
            transport.resume_reading()

    def connect(self, protocol: asyncio.BaseProtocol) -> Stream:
        """Open a stream and give it to ``protocol``; raises :class:`ConnectionError` when the session takes no more.

        The stream may be written at once. A refusal by the peer comes as a lost connection.
        """
        if self._over:
            raise ConnectionResetError("the tunnel was lost")
        try:
            number = self._core.open()
        except LocalProtocolError as error:
            raise ConnectionRefusedError(f"the tunnel takes no more connections ({error})") from error
        stream = self._add(number, protocol)
        self.flush()
        return stream

    @property
    def over(self) -> bool:
        """Say whether the session has ended."""
        return self._over

    def go_away(self) -> None:
        """Tell the peer to open no more streams here and to look for another session; the open streams go on."""
        if not self._over:
            self._core.go_away()
            self.flush()

    def close(self) -> None:
        """End every stream, and the session once all written bytes are sent."""
        if self._lower is not None and not self._over:
            self._core.go_away()
            self.flush()
            self._lower.close()
            self._drop_streams(ConnectionResetError("the tunnel was closed"))

    # The protocol's side: called by the transport below.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._lower = plain(transport)
        self._timer = self._loop.call_later(KEEPALIVE, self._look_after)

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        self._heard = self._loop.time()
        self._core.receive_data(data)
        self._busy = True
        try:
            while not self._over and (event := self._core.next_event()) is not None:
                _HANDLERS[type(event)](self, event)
        except RemoteProtocolError as error:
            self._fail(ConnectionAbortedError(f"the other end of the tunnel broke the protocol: {error}"))
        finally:
            self._busy = False
        self.flush()

    def eof_received(self) -> bool:
        self._fail(ConnectionResetError("the other end of the tunnel closed it"))
        return False

    def pause_writing(self) -> None:
        self._lower_full = True

    def resume_writing(self) -> None:
        self._lower_full = False
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lower = None
        if self._over:
            self._tell_closed(None)
            return
        reason = exc or ConnectionResetError("the connection below it was closed")
        self._end(ConnectionResetError(f"the tunnel was lost: {reason}"))

    # Events from the core.

    def _opened(self, event: core.StreamOpened) -> None:
        assert self._accept is not None  # noqa: S101 - for mypy: without it the core refuses streams
        self._add(event.stream_id, self._accept())

    def _accepted(self, event: core.StreamAccepted) -> None:
        """Do nothing: a stream may be written before this."""

    def _data(self, event: core.DataReceived) -> None:
        if stream := self._streams.get(event.stream_id):
            stream.received(event.data)

    def _eof(self, event: core.EofReceived) -> None:
        if stream := self._streams.get(event.stream_id):
            stream.ended()

    def _reset(self, event: core.StreamReset) -> None:
        if stream := self._streams.get(event.stream_id):
            stream.lost(ConnectionResetError("the other end of the tunnel reset the connection"))

    def _pong(self, event: core.PingAnswered) -> None:
        """Do nothing: any bytes that arrive already count as a sign of life."""

    def _gone_away(self, event: core.GoneAway) -> None:
        if event.code != GoAway.NORMAL:
            self._fail(ConnectionAbortedError(f"the other end of the tunnel gave up on it (yamux code {event.code})"))
        elif self._dismissed is not None:
            self._dismissed()

    # Sending.

    def flush(self) -> None:
        """Send what the core has, as far as the connection below takes it."""
        if self._busy or self._over or self._lower is None:
            return
        self._busy = True
        try:
            while not self._lower_full and (data := self._core.data_to_send()):
                self._lower.write(data)
        finally:
            self._busy = False
        for stream in list(self._waiting):
            stream.sent()

    def watch(self, stream: Stream) -> None:
        """Call the stream's :meth:`Stream.sent` after each :meth:`flush`, until :meth:`unwatch`."""
        self._waiting.add(stream)

    def unwatch(self, stream: Stream) -> None:
        """Undo :meth:`watch`."""
        self._waiting.discard(stream)

    def _look_after(self) -> None:
        silence = self._loop.time() - self._heard
        if silence >= DEAD_AFTER:
            self._fail(TimeoutError(f"the other end of the tunnel was silent for {silence:.0f} s"))
            return
        if silence >= KEEPALIVE:
            self._core.ping()
            self.flush()
        self._timer = self._loop.call_later(KEEPALIVE, self._look_after)

    # Streams and the end.

    def _add(self, number: int, protocol: asyncio.BaseProtocol) -> Stream:
        stream = Stream(self, self._core, number, self._lower)
        self._streams[number] = stream
        stream.begin(protocol)
        return stream

    def forget(self, number: int) -> None:
        """Let go of a stream whose protocol will get no more calls."""
        self._streams.pop(number, None)
        if self._core.is_open(number) and not self._over:
            self._loop.call_later(LINGER, self._reset_lingering, number)

    def _reset_lingering(self, number: int) -> None:
        if not self._over:
            self._core.reset(number)
            self.flush()

    def _fail(self, error: Exception) -> None:
        """End a session that cannot go on; the core's last words go out first."""
        self._busy = False
        self._lower_full = False
        self.flush()
        if self._lower is not None:
            self._lower.close() if not isinstance(error, TimeoutError) else self._lower.abort()
        self._end(error)

    def _end(self, error: Exception) -> None:
        if not self._over:
            self._drop_streams(error)
            self._tell_closed(error)

    def _drop_streams(self, error: Exception) -> None:
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        for stream in list(self._streams.values()):
            stream.lost(error)

    def _tell_closed(self, error: Exception | None) -> None:
        closed, self._closed = self._closed, None
        if closed is not None:
            closed(self, error)


_HANDLERS: dict[type[core.Event], Callable[[YamuxSession, Any], None]] = {
    core.StreamOpened: YamuxSession._opened,
    core.StreamAccepted: YamuxSession._accepted,
    core.DataReceived: YamuxSession._data,
    core.EofReceived: YamuxSession._eof,
    core.StreamReset: YamuxSession._reset,
    core.PingAnswered: YamuxSession._pong,
    core.GoneAway: YamuxSession._gone_away,
}
