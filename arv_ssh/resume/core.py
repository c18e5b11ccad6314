"""One end of a resumable stream: numbered bytes, kept until the other end confirms them. Sans-I/O.

Owns the wire format (docs/architecture.md), the numbering, what is kept, and when something must be confirmed or asked
for. Knows no socket and no clock: the owner says what time it is (seconds that never go back). One thread at a time.

A frame has a header of four bytes, its kind and the length of its content, and then the content. Data has no number of
its own: on a new connection both ends say how much they have, and from there on each byte counts, and an END for one.
"""

from __future__ import annotations

from collections import deque
from struct import Struct

TYPE_CHECKING = False  # type checkers know the names without typing, which takes 4 ms to import
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Allocate = Callable[[int], memoryview]
    """Returns a buffer of that many bytes."""
    Frame = bytes | memoryview
    """A frame of data as it is kept."""
    Source = Callable[[memoryview], int]
    """Puts what has arrived into a buffer; returns how many bytes, fewer than there is room for when that was all."""

WINDOW = 8 * 1024 * 1024
"""Bytes kept for the other end at most: what 250 MB/s need over a connection of 30 ms."""
CONFIRM_BYTES = 1024 * 1024
"""Bytes after which they are confirmed: each confirmation wakes a sender that has better to do."""
CONFIRM_FRAMES = 64
"""Frames after which they are confirmed: a kept key of a user takes more memory than its bytes."""
ASK_AFTER = 5.0
"""Seconds of silence after which the other end is asked for a sign of life, and within which we give one."""
LOST_AFTER = 15.0
"""Seconds of silence after which the connection is given up."""
LONGEST_LOOK = 2.0
"""Seconds between two looks that count as listening: who was stopped for an hour has not listened for an hour."""

BLOCK = 34 * 16 * 1024
"""Bytes of a block in which frames are kept: as much as is read or sent at once, in whole records of TLS. Blocks are
used again: fresh memory for each frame would cost more than all else that is done here."""
LONGEST_KEPT = BLOCK - 4
"""Bytes of data in the longest frame that has room in a block."""

DATA, CONFIRM, ASK, END, GOODBYE = range(5)
"""Kinds of frames. CONFIRM and ASK carry how many bytes have come so far, and ASK wants a CONFIRM; END ends the
sender's direction; after GOODBYE there is nothing to resume."""

SMALL = 1024
"""Bytes of a frame's data up to which it is kept by itself, and read together with what follows: a key of a user."""

FRAME_COST = 256
"""Bytes that a kept frame takes beside its own: without them the keys of a session would take six times WINDOW."""

_HEADER = Struct(">I")
_NUMBER = Struct(">IQ")
_LENGTHS = {CONFIRM: 8, ASK: 8, END: 0, GOODBYE: 0}
LONGEST_DATA = (1 << 24) - 1
"""Bytes of data in one frame: the length has 24 bits."""


class PeerError(Exception):
    """The other end broke the protocol; the message says how."""


class LinkLost(Exception):
    """The connection has been silent for too long."""


class ResumableStream:
    """One end. ``received`` and ``sent`` count bytes of data, and an END as one, since the session began.

    ``allocate`` makes the blocks in which data is kept.
    """

    def __init__(self, allocate: Allocate = lambda size: memoryview(bytearray(size))) -> None:
        self.received = 0
        self.sent = 0
        self.confirmed = 0
        self.peer_ended = False
        """The other end will send no more data: it said END or GOODBYE."""
        self.peer_left = False
        """The other end said GOODBYE: the session is over."""
        self.more = True
        """The source of the last :meth:`take` may have more now; so it is on each new connection."""
        self.ended = False
        """We said END."""
        self._kept: deque[Frame] = deque()
        self._allocate = allocate
        self._block: memoryview | None = None
        self._place = 0  # in the block, from where it is free
        self._full: deque[tuple[int, memoryview]] = deque()  # with the number up to which it must be confirmed
        self._free: list[memoryview] = []
        self._kept_from = 0  # the number of the first byte in there, which may be confirmed already
        self._head = memoryview(bytearray(_NUMBER.size))
        self._last_told = 0.0
        self._told = 0
        self._reset()

    def _reset(self) -> None:
        """Forget the connection: what is left of a frame will come again from its first missing byte."""
        self._head_size = 0
        self._left = 0
        self._large = False
        self.more = True
        self._frames = 0
        self._asked = False
        self._silence = 0.0
        self._looked: float | None = None
        self._next_ask = ASK_AFTER

    # What we send.

    @property
    def kept(self) -> int:
        """Bytes that the other end has not confirmed."""
        return self.sent - self.confirmed

    @property
    def memory(self) -> int:
        """Bytes of memory that what is kept takes, about."""
        return self.kept + FRAME_COST * len(self._kept)

    @property
    def room(self) -> int:
        """Bytes that may be sent before the other end confirms some; below 0 after a piece that was larger."""
        return WINDOW - (self.sent - self.confirmed) - FRAME_COST * len(self._kept)  # asked for each key of a user

    def data(self, pieces: Sequence[bytes | memoryview]) -> Frame:
        """Return the frame of ``pieces``, some bytes but at most LONGEST_DATA, to be sent now or after a resume."""
        size = sum(map(len, pieces))
        if size <= SMALL or size > LONGEST_KEPT:
            return self._keep(b"".join((_HEADER.pack(size), *pieces)), size)
        room, start = self.place(size), 0
        for piece in pieces:
            end = start + len(piece)
            room[start:end] = piece
            start = end
        return self.filled(size)

    def place(self, least: int) -> memoryview:
        """Return room for at least so many bytes of data, up to BLOCK less 4, to be put there and :meth:`filled`."""
        if self.sent == self.confirmed:
            self._place = 0
            self._free += (block for _, block in self._full)
            self._full.clear()
        if self._block is None or self._place + _HEADER.size + least > BLOCK:
            self._block, self._place = self._next_block(), 0
        return self._block[self._place + _HEADER.size :]

    def filled(self, size: int) -> Frame:
        """Return the frame of the first ``size`` bytes of the last :meth:`place`; a large one is kept where it is."""
        assert self._block is not None  # noqa: S101 - for mypy
        frame = self._block[self._place : self._place + _HEADER.size + size]
        _HEADER.pack_into(frame, 0, size)
        if size <= SMALL:
            return self._keep(bytes(frame), size)  # and the next one may have its place
        self._place += len(frame)
        return self._keep(frame, size)

    def _keep(self, frame: Frame, size: int) -> Frame:
        self._kept.append(frame)
        self.sent += size
        return frame

    def _next_block(self) -> memoryview:
        """Put the block aside until all in it is confirmed; return one in which that is so."""
        if self._block is not None:
            self._full.append((self.sent, self._block))
        while self._full and self._full[0][0] <= self.confirmed:
            self._free.append(self._full.popleft()[1])
        return self._free.pop() if self._free else self._allocate(BLOCK)

    def shrink(self) -> None:
        """Give back the blocks that are not needed now, for nothing is under way; one without data was not touched."""
        if not self.kept:
            self._full.clear()
            self._free.clear()
            if self._place:
                self._block = None

    def end(self) -> bytes:
        """Return the frame that ends our direction; nothing the second time."""
        if self.ended:
            return b""
        self.ended = True
        frame = _HEADER.pack(END << 24)
        self._kept.append(frame)
        self.sent += 1
        return frame

    def goodbye(self) -> bytes:
        """Return the frame that ends the session, in both directions."""
        return _HEADER.pack(GOODBYE << 24)

    def answer(self, now: float, undelivered: int = 0) -> bytes:
        """Return what must be said now that something has come, often nothing.

        ``undelivered`` bytes have come but wait for a reader of ours: confirming them would only bring more.
        """
        self._silence, self._looked, self._next_ask = 0.0, now, ASK_AFTER
        return self.due(now, undelivered)

    def due(self, now: float, undelivered: int = 0) -> bytes:
        """Return what must be said, whether or not something has come."""
        have = self.received - undelivered
        due = have - self._told >= CONFIRM_BYTES or self._frames >= CONFIRM_FRAMES
        if self._asked or due or (have != self._told and now - self._last_told >= ASK_AFTER):
            self._asked = False
            return self._tell(CONFIRM, have, now)
        return b""

    def silent(self, now: float, undelivered: int = 0) -> bytes:
        """Return what must be said now that nothing has come; raise :class:`LinkLost` when that was so for too long."""
        if self._looked is not None:
            passed = now - self._looked
            self._silence += min(passed, LONGEST_LOOK)
            if passed > LOST_AFTER:  # we were stopped, or the machine slept: is anybody still there?
                self._silence = max(self._silence, ASK_AFTER)
        self._looked = now
        self.shrink()
        if self._silence >= LOST_AFTER:
            raise LinkLost(f"no sign of life for {LOST_AFTER:g} s")
        have = self.received - undelivered
        if self._silence >= self._next_ask:
            self._next_ask += ASK_AFTER
            return self._tell(ASK, have, now)
        return self.due(now, undelivered)

    def alive(self, now: float, undelivered: int = 0) -> bytes:
        """Return a sign of life, now and then: the owner does not read, so it knows nothing of the other end."""
        self._silence, self._looked = 0.0, now
        return self._tell(CONFIRM, self.received - undelivered, now) if now - self._last_told >= ASK_AFTER else b""

    def _tell(self, kind: int, have: int, now: float) -> bytes:
        self._told, self._last_told, self._frames = have, now, 0
        return _NUMBER.pack(kind << 24 | _LENGTHS[kind], have)

    # What comes.

    def take(self, source: Source, room: memoryview) -> int:
        """Put the data that ``source`` has into ``room`` and heed the frames between; return how many bytes of data.

        Stops when there is no more (:attr:`more` says whether there may be), or no room, or the other end has left.
        Raises :class:`PeerError`, and what ``source`` raises; then nothing counts as received that was not returned.
        """
        before = self.received, self.peer_ended
        size, self.more = 0, True
        try:
            while self.more and size < len(room) and not self.peer_left:
                asked = room[size : size + self._ahead()] if self._large else room[size:]
                got = source(asked)
                self.more = got == len(asked)
                size += self._unframe(asked, got)
        except Exception:
            self.received, self.peer_ended = before
            raise
        return size

    def _ahead(self) -> int:
        """Return how many bytes can stay where the source puts them: large data is not moved."""
        return self._left or self._wanted() - self._head_size

    def _unframe(self, room: memoryview, got: int) -> int:
        """Move the data in the first ``got`` bytes of ``room`` to its beginning; return how many bytes of data."""
        size = place = 0
        while place < got and not self.peer_left:
            if self._left:
                piece = got - place if got - place < self._left else self._left
                if size != place:
                    room[size : size + piece] = room[place : place + piece]
                self._left -= piece
                self.received += piece
                size += piece
            elif got - place >= _HEADER.size and not room[place] and not self._head_size:
                self._begin_data(_HEADER.unpack_from(room, place)[0])  # DATA is 0
                piece = _HEADER.size
            else:
                piece = self._gather(room[place:got])
            place += piece
        return size

    def _gather(self, arrived: memoryview) -> int:
        """Take a header from the beginning of ``arrived``, or a part of it; return how many bytes."""
        wanted = self._wanted()
        piece = min(wanted - self._head_size, len(arrived))
        self._head[self._head_size : self._head_size + piece] = arrived[:piece]
        self._head_size += piece
        if self._head_size == wanted:
            self._heed()
        return piece

    def _wanted(self) -> int:
        """Return how long the header is, together with the number that belongs to it."""
        if self._head_size < _HEADER.size:
            return _HEADER.size
        return _HEADER.size + _LENGTHS[self._head[0]]

    def _heed(self) -> None:
        kind, length = self._head[0], _HEADER.unpack_from(self._head)[0] & LONGEST_DATA
        if kind == DATA:
            self._begin_data(length)
        elif _LENGTHS.get(kind) != length:
            raise PeerError(f"the other end sent a frame of kind {kind} with {length} bytes")
        elif self._head_size < _HEADER.size + length:
            return  # its number is still to come
        elif kind in (CONFIRM, ASK):
            self._asked = self._asked or kind == ASK
            self._confirm(_NUMBER.unpack(self._head)[1])
        else:
            self._finish(kind)
        self._head_size = 0

    def _begin_data(self, length: int) -> None:
        if not length or self.peer_ended:
            raise PeerError("the other end sent data after its end" if length else "the other end sent empty data")
        self._left = length
        self._large = length > SMALL
        self._frames += 1

    def _finish(self, kind: int) -> None:
        if kind == GOODBYE:
            self.peer_left = True
        elif self.peer_ended:
            raise PeerError("the other end ended twice")
        else:
            self.received += 1
        self.peer_ended = True

    def _confirm(self, have: int) -> None:
        """Forget what the other end has. It may say less than before: after a resume it has all, but delivered less."""
        if have > self.sent:
            raise PeerError(f"the other end confirmed {have} bytes, of which only {self.sent} were sent")
        kept, start = self._kept, self._kept_from
        while kept and start + _span(kept[0]) <= have:
            start += _span(kept.popleft())
        self._kept_from = start
        self.confirmed = max(self.confirmed, have)

    # A new connection.

    def check(self, have: int) -> None:
        """Raise :class:`PeerError` unless the other end, which has ``have`` bytes, can go on from there."""
        if not self.confirmed <= have <= self.sent:
            raise PeerError(f"{have} bytes are not between the {self.confirmed} confirmed and the {self.sent} sent")

    def resume(self, have: int) -> list[Frame]:
        """Begin a new connection to the other end, which has ``have`` bytes; return what to send before all else.

        Raises :class:`PeerError`, and then nothing has changed.
        """
        self.check(have)
        self._confirm(have)
        self._reset()
        self._told = self.received
        frames = list(self._kept)
        if have > self._kept_from:
            frames[0] = _rest(frames[0], have - self._kept_from)
        return frames


def _span(frame: Frame) -> int:
    """Return how many numbers a kept frame takes."""
    return len(frame) - _HEADER.size or 1


def _rest(frame: Frame, start: int) -> bytes:
    """Return the frame of the data from ``start`` on."""
    data = memoryview(frame)[_HEADER.size + start :]
    return b"".join((_HEADER.pack(len(data)), data))
