"""One end of a yamux connection as a state machine: bytes in, events out, frames to send back (spec.md).

Owns streams, their windows both ways, half-close and reset, pings, and whose fault a breach is. Pure, in the manner of
h11: :meth:`Core.receive_data` only stores, :meth:`Core.next_event` answers, :meth:`Core.data_to_send` is asked when the
network has room. Memory is bounded: bytes that have arrived count against the window until :meth:`Core.consumed` is
called; the caller must bound the bytes waiting to be sent, by :meth:`Core.unsent`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from arv_ssh.yamux.frames import (
    Bytes,
    Flag,
    FrameReader,
    GoAway,
    Header,
    LocalProtocolError,
    RemoteProtocolError,
    Type,
)

INITIAL_WINDOW = 256 * 1024
"""Bytes that either side may send on a stream before the first update (spec.md, "Flow Control")."""
WINDOW = 2 * 1024 * 1024
"""Bytes that this side lets a peer have in flight on a stream: what OpenSSH itself allows on a channel."""
LARGEST_WINDOW = 0xFFFFFFFF
"""The most that the length field can grant."""
LARGEST_FRAME = 128 * 1024
"""Bytes of payload sent in one frame: large enough for few headers, yet another stream's turn comes within a
millisecond."""
MAX_STREAMS = 256
"""Streams that the peer may have open: the accept backlog of stock yamux."""
MAX_CONTROL_FRAMES = 4096
"""Answers that may wait to be sent; only a peer that asks and never reads reaches this limit."""


@dataclass(frozen=True)
class StreamOpened:
    """The peer opened a stream, and it was accepted."""

    stream_id: int


@dataclass(frozen=True)
class StreamAccepted:
    """The peer accepted a stream of ours."""

    stream_id: int


@dataclass(frozen=True)
class DataReceived:
    """Bytes of a stream. They count against its window until :meth:`Core.consumed`."""

    stream_id: int
    data: bytes


@dataclass(frozen=True)
class EofReceived:
    """The peer will send no more on a stream; this direction may go on."""

    stream_id: int


@dataclass(frozen=True)
class StreamReset:
    """The peer ended a stream at once, or refused it."""

    stream_id: int


@dataclass(frozen=True)
class PingAnswered:
    """The peer answered the ping of that value."""

    value: int


@dataclass(frozen=True)
class GoneAway:
    """The peer will open and accept no more streams; with any code but NORMAL it has given up the session."""

    code: int


Event = StreamOpened | StreamAccepted | DataReceived | EofReceived | StreamReset | PingAnswered | GoneAway


@dataclass
class _Stream:
    """One stream, from its SYN until both directions have ended or one side reset it."""

    send_window: int = INITIAL_WINDOW
    receive_window: int = INITIAL_WINDOW
    consumed: int = 0  # bytes taken, and not yet granted again
    unsent: deque[memoryview] = field(default_factory=deque)
    unsent_size: int = 0
    accepted: bool = False  # by the peer
    eof_asked: bool = False
    eof_sent: bool = False
    eof_received: bool = False


class Core:
    """One end of a connection. ``client`` says which: it decides whose stream ids are odd.

    ``max_streams`` is how many streams the peer may have open at once (0: none); any beyond are reset. ``window`` is
    how many bytes each of them may have in flight towards us.
    """

    def __init__(self, *, client: bool, max_streams: int = MAX_STREAMS, window: int = WINDOW) -> None:
        if not INITIAL_WINDOW <= window <= LARGEST_WINDOW:
            raise LocalProtocolError(f"a window of {window} bytes; yamux begins with {INITIAL_WINDOW}")
        self._window = window
        self._max_streams = max_streams
        self._reader = FrameReader()
        self._streams: dict[int, _Stream] = {}
        self._next_id = 1 if client else 2
        self._control: deque[Header] = deque()
        self._turns: dict[int, None] = {}  # streams that may have something to send, the next in turn first
        self._events: deque[Event] = deque()
        self._payload_of = 0  # the stream of the current frame's payload; 0 when it is discarded
        self._eof_after_payload = False
        self._ping = 0
        self._failed = False
        self._going_away = False
        self._peer_gone = False

    # Incoming.

    def receive_data(self, data: Bytes) -> None:
        """Store what arrived; ``data`` must stay as it is until :meth:`next_event` has returned None."""
        self._reader.receive(data)

    @property
    def inside_frame(self) -> bool:
        """Say whether the connection, if it ended now, would cut a frame."""
        return self._reader.inside_frame

    def next_event(self) -> Event | None:
        """Return the next event, None when there are no more for now.

        Raises :class:`RemoteProtocolError` when the peer broke the protocol: a GO_AWAY that says so then waits in
        :meth:`data_to_send`, and there are no more events.
        """
        if self._failed:
            return None
        try:
            while not self._events:
                part = self._reader.read()
                if part is None:
                    return None
                if isinstance(part, Header):
                    self._frame(part)
                else:
                    self._payload(part)
        except RemoteProtocolError:
            self._failed = True
            self._control.append(Header(Type.GO_AWAY, 0, 0, GoAway.PROTOCOL_ERROR))
            raise
        return self._events.popleft()

    def _frame(self, header: Header) -> None:
        if header.type is Type.PING:
            self._ping_frame(header)
        elif header.type is Type.GO_AWAY:
            self._peer_gone = True
            self._events.append(GoneAway(header.length))
        else:
            self._stream_frame(header)

    def _ping_frame(self, header: Header) -> None:
        if header.flags & Flag.SYN:
            self._answer(Header(Type.PING, Flag.ACK, 0, header.length))
        elif header.flags & Flag.ACK:
            self._events.append(PingAnswered(header.length))

    def _stream_frame(self, header: Header) -> None:
        number, flags = header.stream_id, header.flags
        if flags & Flag.SYN:
            self._open_frame(number)
        stream = self._streams.get(number)
        self._payload_of = 0
        self._eof_after_payload = False
        if stream is None:
            return  # of a stream that was reset or refused: its frames may still be on their way
        if flags & Flag.ACK and not stream.accepted:
            stream.accepted = True
            self._events.append(StreamAccepted(number))
        if flags & Flag.RST:
            self._forget(number)
            self._events.append(StreamReset(number))
            return
        if header.type is Type.WINDOW_UPDATE:
            self._grant(number, stream, header.length)
        elif header.length:
            self._expect_payload(number, stream, header)
        if flags & Flag.FIN:
            if stream.eof_received:
                raise RemoteProtocolError(f"stream {number} ended twice")
            self._eof_after_payload = bool(self._payload_of)
            if not self._payload_of:
                self._ended(number, stream)

    def _open_frame(self, number: int) -> None:
        if number % 2 == self._next_id % 2:
            raise RemoteProtocolError(f"the peer opened stream {number}, a number that is this side's")
        if number in self._streams:
            raise RemoteProtocolError(f"the peer opened stream {number}, which is open")
        theirs = sum(1 for other in self._streams if other % 2 == number % 2)
        if self._going_away or theirs >= self._max_streams:
            self._answer(Header(Type.WINDOW_UPDATE, Flag.RST, number, 0))
            return
        self._streams[number] = _Stream(receive_window=self._window, accepted=True)
        self._answer(Header(Type.WINDOW_UPDATE, Flag.ACK, number, self._window - INITIAL_WINDOW))
        self._events.append(StreamOpened(number))

    def _grant(self, number: int, stream: _Stream, size: int) -> None:
        stream.send_window += size
        if stream.send_window > LARGEST_WINDOW:
            raise RemoteProtocolError(f"the window of stream {number} was raised over {LARGEST_WINDOW} bytes")
        if size and stream.unsent:
            self._turns[number] = None

    def _expect_payload(self, number: int, stream: _Stream, header: Header) -> None:
        if stream.eof_received:
            raise RemoteProtocolError(f"stream {number} has data after its end")
        if header.length > stream.receive_window:
            raise RemoteProtocolError(
                f"stream {number} was sent {header.length} bytes with {stream.receive_window} left of its window"
            )
        stream.receive_window -= header.length
        self._payload_of = number

    def _payload(self, piece: memoryview) -> None:
        number = self._payload_of
        stream = self._streams.get(number)
        if stream is None:
            return
        self._events.append(DataReceived(number, bytes(piece)))
        if self._eof_after_payload and not self._reader.payload_left:
            self._eof_after_payload = False
            self._ended(number, stream)

    def _ended(self, number: int, stream: _Stream) -> None:
        stream.eof_received = True
        self._events.append(EofReceived(number))
        self._forget_if_ended(number, stream)

    def _answer(self, header: Header) -> None:
        if len(self._control) >= MAX_CONTROL_FRAMES:
            raise RemoteProtocolError("the peer asks for answers and does not read them")
        self._control.append(header)

    # Commands.

    def open(self) -> int:
        """Begin a stream and return its number; data may be sent at once, the peer's refusal comes as a reset."""
        if self._peer_gone or self._failed or self._going_away:
            raise LocalProtocolError("the session takes no more streams")
        if self._next_id > LARGEST_WINDOW:
            raise LocalProtocolError("the session has no more stream numbers")
        number, self._next_id = self._next_id, self._next_id + 2
        self._streams[number] = _Stream(receive_window=self._window)
        self._control.append(Header(Type.WINDOW_UPDATE, Flag.SYN, number, self._window - INITIAL_WINDOW))
        return number

    def send(self, number: int, data: Bytes) -> None:
        """Queue ``data`` on a stream; it goes as the peer's window allows. Dropped when the stream has ended."""
        stream = self._streams.get(number)
        if stream is None or not data:
            return
        if stream.eof_asked:
            raise LocalProtocolError(f"stream {number} was ended; nothing can be sent after that")
        stream.unsent.append(memoryview(data))
        stream.unsent_size += len(data)
        self._turns[number] = None

    def send_eof(self, number: int) -> None:
        """End this direction of a stream, after the queued data."""
        stream = self._streams.get(number)
        if stream is not None and not stream.eof_asked:
            stream.eof_asked = True
            self._turns[number] = None

    def reset(self, number: int) -> None:
        """End a stream at once, both ways, and drop everything queued on it."""
        if number in self._streams:
            self._forget(number)
            self._control.append(Header(Type.WINDOW_UPDATE, Flag.RST, number, 0))

    def consumed(self, number: int, size: int) -> None:
        """Mark ``size`` bytes of a stream as used up, so that the peer may send as many more."""
        stream = self._streams.get(number)
        if stream is None or stream.eof_received:
            return
        stream.consumed += size
        if stream.consumed >= self._window // 2:
            self._control.append(Header(Type.WINDOW_UPDATE, 0, number, stream.consumed))
            stream.receive_window += stream.consumed
            stream.consumed = 0

    def ping(self) -> int:
        """Ask for a sign of life; return the value that :class:`PingAnswered` will have."""
        self._ping = (self._ping + 1) & LARGEST_WINDOW
        self._control.append(Header(Type.PING, Flag.SYN, 0, self._ping))
        return self._ping

    def go_away(self, code: GoAway = GoAway.NORMAL) -> None:
        """Tell the peer to open no more streams; the open ones go on."""
        if not self._going_away:
            self._going_away = True
            self._control.append(Header(Type.GO_AWAY, 0, 0, code))

    # Outgoing.

    def unsent(self, number: int) -> int:
        """Return the bytes queued on a stream that have not gone out; 0 when it has ended."""
        stream = self._streams.get(number)
        return stream.unsent_size if stream else 0

    def is_open(self, number: int) -> bool:
        """Say whether anything may still happen on a stream."""
        return number in self._streams

    def eof_sent(self, number: int) -> bool:
        """Say whether everything on a stream, its end included, has gone out."""
        stream = self._streams.get(number)
        return stream is None or stream.eof_sent

    def data_to_send(self) -> bytes:
        """Return the next bytes for the network: answers first, then one frame of each stream in turn; b"" if none."""
        if self._control:
            frames = b"".join(header.encode() for header in self._control)
            self._control.clear()
            return frames
        while self._turns and not self._failed:
            number = next(iter(self._turns))
            del self._turns[number]
            stream = self._streams.get(number)
            if stream is not None and (frame := self._next_frame(number, stream)):
                return frame
        return b""

    def _next_frame(self, number: int, stream: _Stream) -> bytes:
        if not stream.unsent_size:
            return self._eof_frame(number, stream) if stream.eof_asked and not stream.eof_sent else b""
        size = min(stream.send_window, stream.unsent_size, LARGEST_FRAME)
        if not size:
            return b""  # the peer's next window update brings the stream's turn
        stream.unsent_size -= size
        stream.send_window -= size
        self._turns[number] = None
        return b"".join((Header(Type.DATA, 0, number, size).encode(), *_take(stream.unsent, size)))

    def _eof_frame(self, number: int, stream: _Stream) -> bytes:
        # A frame of its own: stock yamux notes the end before it has stored the same frame's payload, so that a
        # reader could miss that.
        stream.eof_sent = True
        self._forget_if_ended(number, stream)
        return Header(Type.WINDOW_UPDATE, Flag.FIN, number, 0).encode()

    def _forget_if_ended(self, number: int, stream: _Stream) -> None:
        if stream.eof_sent and stream.eof_received:
            self._forget(number)

    def _forget(self, number: int) -> None:
        del self._streams[number]


def _take(queue: deque[memoryview], size: int) -> list[Bytes]:
    """Remove the first ``size`` bytes from ``queue``."""
    taken: list[Bytes] = []
    while size:
        piece = queue.popleft()
        if len(piece) > size:
            queue.appendleft(piece[size:])
            piece = piece[:size]
        taken.append(piece)
        size -= len(piece)
    return taken
