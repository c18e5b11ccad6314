"""What an SSH connection reads and writes when it outlives its TCP connections: a :class:`BufferedSocket` with links.

Owns the joining of :class:`arv_ssh.resume.core.ResumableStream` to one link after the other, and the waits: for a link,
for confirmations, for the other end's signs of life. Knows nothing of who may bring a link.

The thread that reads is the SSH connection's own. A thread that must wait for room to send reads meanwhile if nobody
else does, for the confirmation would otherwise never come; data that it finds waits for the reader.

Locks, in this order: ``_sending`` (who may send: what was numbered first goes first), ``_reading`` (who may take from
the link), ``_state`` (the stream, the link, its engine; never held while a call blocks). ``_changed`` is the condition
of ``_state``; whoever does not wait takes the lock itself, which costs less, for each key of a user.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from arv_ssh.resume.core import LONGEST_KEPT, LOST_AFTER, WINDOW, LinkLost, PeerError, ResumableStream
from crunch_sshd.ssh.buffered_socket import IDLE_TICK, RECEIVE_SIZE, STORAGE, BufferedSocket
from crunch_sshd.ssh.link import Link
from crunch_sshd.ssh.memory import untouched

PENDING = WINDOW + 2 * RECEIVE_SIZE
"""Bytes read for the reader at most: more than the other end sends, which stops at WINDOW and one frame."""


class ResumableSocket(BufferedSocket):
    """The stream of one session, which begins on ``link``.

    ``lost`` is called with the reason whenever a link is gone and the session waits for another one, on any thread and
    with a lock held: it must only take note.
    """

    def __init__(self, link: Link, lost: Callable[[str], Any] = lambda reason: None) -> None:
        self.storage = untouched(STORAGE)
        self.start = self.end = 0
        self._lost = lost
        self._stream = ResumableStream(untouched)
        self._link: Link | None = link
        self._fresh: tuple[Link, int] | None = None  # a link that the reader has not begun to use
        self._state = threading.RLock()
        self._changed = threading.Condition(self._state)
        self._sending = threading.Lock()
        self._reading = threading.Lock()
        self._pending = bytearray()  # not in pieces: a peer that sends single bytes would have an object for each
        self._unsaid = b""  # the last frame without a number, which says what those before it did
        self._waits = 0  # threads in _changed.wait()
        self._closed = False

    # For whoever brings links.

    @property
    def kept(self) -> int:
        """Bytes that the other end has not confirmed, and bytes that the reader has not taken."""
        return self._stream.memory + len(self._pending)

    @property
    def linked(self) -> bool:
        """Say whether there is a connection, or a new one about to be used."""
        return self._link is not None or self._fresh is not None

    def check(self, have: int) -> None:
        """Raise :class:`PeerError` unless the other end, which has ``have`` bytes, can go on. Any thread."""
        with self._state:
            self._stream.check(have)

    def release(self) -> int:
        """Give up the present link, if there is one; return how many bytes have come. They are final. Any thread."""
        with self._state:
            if self._link is not None:
                self._drop(self._link, "another connection takes its place")
            if self._fresh is not None:
                self._fresh[0].cut()
                self._fresh = None
                self._lost("another connection takes its place")  # which may never come
            return self._stream.received

    def attach(self, link: Link, have: int) -> None:
        """Go on with ``link``, to the other end that has ``have`` bytes, after :meth:`release`. Any thread."""
        with self._state:
            if self._closed or self._fresh is not None or self._link is not None:
                link.cut()
                return
            self._fresh = link, have
            self._changed.notify_all()

    # The reader's side.

    def _receive_into(self, room: memoryview) -> int:
        """Return 0 when the session is over; a lost link is no end. Raises BlockingIOError when nothing has come."""
        while True:
            if self._fresh is not None:
                with self._sending:
                    self._adopt()
            if self._pending:
                return self._take_pending(room)
            with self._state:
                if self._pending:
                    continue
                if self._closed or self._stream.peer_ended:
                    return 0
                link = self._link
                if link is None or not self._reading.acquire(blocking=False):
                    self._wait_or_idle()
                    continue
            try:
                if size := self._read(link, room):
                    return size
            finally:
                self._reading.release()

    def _wait_or_idle(self) -> None:
        """Wait for a change; raises BlockingIOError when there was none for a while."""
        if not self._wait():
            raise BlockingIOError(11, "nothing came")

    def _wait(self) -> bool:
        self._waits += 1
        try:
            return self._changed.wait(IDLE_TICK)
        finally:
            self._waits -= 1

    def _take_pending(self, room: memoryview) -> int:
        with self._state:
            size = min(len(self._pending), len(room))
            room[:size] = self._pending[:size]
            del self._pending[:size]
            if self._link is not None:
                self._note(self._stream.due(time.monotonic(), len(self._pending)))
        self._speak()
        return size

    def _read(self, link: Link, room: memoryview) -> int:
        """Read from ``link`` once; return how many bytes of data came, 0 if none or the link is lost.

        The caller holds ``_reading``. Raises BlockingIOError when nothing came for a second.
        """
        try:
            if (self._stream.more or link.eof) and (size := self._take(link, room)):
                return size
            try:
                arrived = link.receive()
            except BlockingIOError:
                self._look(link)
                raise
            return self._take(link, room, arrived)
        except BlockingIOError:
            raise
        except (OSError, PeerError, LinkLost) as error:
            self._lose(link, _reason(error))
            return 0

    def _take(self, link: Link, room: memoryview, arrived: memoryview | None = None) -> int:
        """Take the data out of what has ``arrived`` now and before, and answer; return how many bytes."""
        stream = self._stream
        with self._state:
            if self._link is not link or stream.peer_ended:
                return 0
            if arrived is not None:
                link.store(arrived)
            size = stream.take(link.read_into, room)
            if not size and link.eof and not stream.peer_left:
                raise PeerError("it ended without a goodbye")
            if self._waits:
                self._changed.notify_all()
            answer = stream.answer if arrived else stream.due
            self._note(answer(time.monotonic(), len(self._pending)))
        if self._unsaid:
            self._speak()
        return size

    def _look(self, link: Link) -> None:
        """Ask for a sign of life, if it is time; raises LinkLost."""
        with self._state:
            if self._link is link:
                self._note(self._stream.silent(time.monotonic(), len(self._pending)))
        self._speak()

    def _note(self, frame: bytes) -> None:
        """Have ``frame``, if it is one, said in the place of all that was not: a peer may ask without reading."""
        self._unsaid = frame or self._unsaid

    def _speak(self) -> None:
        """Send the frame that has no number, unless somebody is sending, who then calls this when done."""
        while self._unsaid and self._sending.acquire(blocking=False):
            try:
                self._utter()
            finally:
                self._sending.release()

    def _utter(self) -> None:
        """Send the frame that has no number. The caller holds ``_sending``."""
        with self._state:
            (frame, self._unsaid), link = (self._unsaid, b""), self._link
        if frame and link is not None:
            self._transmit(link, frame)

    # The senders' side.

    def send(self, data: bytes | memoryview) -> int:
        """Send all of ``data``, now or after a resume; return how many bytes.

        Blocks while the other end has too much to confirm; :meth:`close` wakes it. Raises OSError once closed.
        """
        size = len(data)
        if size <= LONGEST_KEPT:
            self._send_frame(data)
        else:
            whole = memoryview(data)
            share = -(-size // -(-size // LONGEST_KEPT))
            for start in range(0, size, share):
                self._send_frame(whole[start : start + share])
        return size

    def _send_frame(self, data: bytes | memoryview) -> None:
        stream = self._stream
        with self._sending:
            if stream.room <= 0:
                self._wait_for_room()
            with self._state:
                if self._closed or stream.peer_left or stream.room <= 0:
                    raise BrokenPipeError(32, "the session is over")
                frame, link = stream.data((data,)), self._link
                sealed = self._seal(link, frame) if link is not None else b""
            if link is not None:
                self._push(link, sealed)
        if self._unsaid:
            self._speak()

    def _wait_for_room(self) -> None:
        """Return once there is room, or no sense in waiting: nobody reads what comes after the other end's END.

        What is read for the reader is not confirmed, so that the other end stops before it is too much, and the
        confirmations that are behind it are read. The caller holds ``_sending``.
        """
        while self._stream.room <= 0 and not self._closed and not self._stream.peer_ended:
            self._adopt()
            self._utter()
            with self._state:
                if self._stream.room > 0:
                    return
                link = self._link
                full = len(self._pending) >= PENDING
                if link is None or full or not self._reading.acquire(blocking=False):
                    self._wait()
                    continue
            try:
                self._read_for_the_reader(link)
            finally:
                self._reading.release()

    def _read_for_the_reader(self, link: Link) -> None:
        room = memoryview(bytearray(RECEIVE_SIZE))
        try:
            size = self._read(link, room)
        except BlockingIOError:
            return
        if size:
            with self._state:
                self._pending += room[:size]
                self._changed.notify_all()

    def _transmit(self, link: Link, frame: bytes | memoryview) -> None:
        """Send one frame, if ``link`` is still in use; a failure loses the link. The caller holds ``_sending``."""
        with self._state:
            sealed = self._seal(link, frame) if self._link is link else b""
        self._push(link, sealed)

    def _seal(self, link: Link, frame: bytes | memoryview) -> bytes:
        """Return what to :meth:`_push` for one frame; a failure loses the link. The caller holds ``_state``."""
        try:
            return link.seal(frame)
        except OSError as error:
            self._drop(link, _reason(error))
            return b""

    def _push(self, link: Link, sealed: bytes) -> None:
        """Send all of ``sealed``; a failure loses the link. The caller holds ``_sending``."""
        left, stuck_since = memoryview(sealed), None
        while left:
            try:
                left = left[link.send(left) :]
                stuck_since = None
            except BlockingIOError:  # SO_SNDTIMEO; half a record cannot be left unsent
                stuck_since = stuck_since or time.monotonic() - IDLE_TICK
                if self._link is link and time.monotonic() - stuck_since < LOST_AFTER:
                    continue
                self._lose(link, "it takes nothing")
                return
            except OSError as error:
                self._lose(link, _reason(error))
                return

    def _adopt(self) -> None:
        """Begin to use a new link: first, send what the other end lacks. The caller holds ``_sending``."""
        with self._state:
            if self._fresh is None:
                return
            (link, have), self._fresh = self._fresh, None
            try:
                frames = self._stream.resume(have)
            except PeerError as error:  # it was checked before
                link.cut()
                self._lost(str(error))
                return
            self._link = link
        for frame in frames:
            self._transmit(link, frame)

    # The end of a link, and of the session.

    def _lose(self, link: Link, reason: str) -> None:
        with self._state:
            if self._link is link:
                self._drop(link, reason)

    def _drop(self, link: Link, reason: str) -> None:
        self._link, self._unsaid = None, b""
        link.cut()
        self._changed.notify_all()
        if not self._closed:
            self._lost(reason)

    def settimeout(self, timeout: float | None) -> None:
        """Do nothing: each link has the interval of :data:`IDLE_TICK`."""

    def close(self) -> None:
        """End the session, with a goodbye unless another thread is in the middle of sending. Wakes all who wait."""
        with self._state:
            link, self._closed = self._link, True
            if self._fresh is not None:
                self._fresh[0].cut()
                self._fresh = None
            self._changed.notify_all()
        if link is None:
            return
        if self._sending.acquire(blocking=False):
            try:
                with self._state:
                    if self._link is link:
                        link.say_goodbye(self._stream.end() + self._stream.goodbye())
            finally:
                self._sending.release()
        with self._state:
            self._link = None
            link.end()
            self._changed.notify_all()

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)  # there is no one socket to pass it on to


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).lower()
