"""The audit of one SSH connection's channels: the beginning and end of each, or why it was refused.

Owns the events and their fields. The :class:`Trail` decides whether and when they are written.
"""

from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import Future
from typing import Any, Protocol

from arv_ssh.audit.chain_file import timestamp
from arv_ssh.audit.trail import OFF, NotRecorded, Trail, text
from crunch_sshd.audit import recording
from crunch_sshd.audit.recording import Recordings

BEGIN = "channel.begin"
END = "channel.end"
REFUSED = "channel.refused"
CONNECTION_REFUSED = "connection.refused"
LAST_ENDS = 2.0
"""Seconds for channels to end by themselves once their connections are closed."""


class OpenChannels:
    """The channels of one gateway that have begun and not ended. Any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open: set[ChannelAudit] = set()

    def add(self, channel: ChannelAudit) -> None:
        """Note that ``channel`` has begun."""
        with self._changed:
            self._open.add(channel)

    def remove(self, channel: ChannelAudit) -> None:
        """Note that ``channel`` has ended."""
        with self._changed:
            self._open.discard(channel)
            self._changed.notify_all()

    def wait(self, timeout: float) -> list[ChannelAudit]:
        """Block until all have ended; after ``timeout`` seconds, return those that have not."""
        with self._changed:
            self._changed.wait_for(lambda: not self._open, timeout)
            return list(self._open)


class Counter(Protocol):
    """What counts the bytes from the client: an SSH channel must do it anyway, for each packet."""

    @property
    def received(self) -> int: ...


class ChannelAudit:
    """One channel, or one place that a client listens at. Each of its records contains ``facts``.

    ``received`` and ``sent`` are bytes from and to the client, counted by the code that moves them, ``received`` by
    ``counter`` if there is one; ``reason`` is why the channel ended, if it did not end by itself; only the last record
    contains ``outcome``.
    """

    def __init__(self, connection: ConnectionAudit, facts: dict[str, Any]) -> None:
        self.connection = connection
        self._trail, self._channels = connection.trail, connection.channels
        self._facts = facts
        self._lock = threading.Lock()
        self._started: float | None = None
        self.counter: Counter | None = None
        self.received = 0
        self.sent = 0
        self.reason = ""
        self.outcome: dict[str, Any] = {}

    @property
    def on(self) -> bool:
        """Say whether the channel is recorded at all."""
        return self._trail.on

    @property
    def name(self) -> str:
        """Return a name unique among the container's channels: the request's id and the channel's number."""
        return f"{self._facts.get('container_uuid', '')}-{self._facts.get('request_id', '')}-{self._facts['channel']}"

    @property
    def required(self) -> bool:
        """Say whether everything must be recorded before it may happen."""
        return self._trail.required

    def add(self, **facts: Any) -> None:
        """Add ``facts`` to all records from now on."""
        self._facts |= facts

    def lost(self) -> None:
        """Note that the channel ends with its connection, or because the client closed it. Any thread."""
        self.reason = self.reason or self.connection.reason or "the client left"

    def begin(self) -> None:
        """Record the beginning; where records are required, return only when it is on the disk.

        Raises :class:`arv_ssh.audit.trail.NotRecorded`. Not for the transport thread.
        """
        self._trail.begin(BEGIN, **self._facts)
        self._started = time.time()
        self._channels.add(self)

    def end(self) -> None:
        """Record the end, if the beginning was recorded. May come twice. Any thread."""
        with self._lock:
            started, self._started = self._started, None
        if started is not None:
            self._trail.note(
                END,
                **self._facts,
                started=timestamp(started),
                seconds=round(time.time() - started, 3),
                bytes_from_client=(self.counter or self).received,
                bytes_to_client=self.sent,
                **self.outcome,
                reason=self.reason,
            )
            self._channels.remove(self)

    def refuse(self, reason: str) -> None:
        """Record that the channel was refused. Any thread."""
        self._trail.note(REFUSED, **self._facts, reason=reason)

    def note(self, name: str, **fields: Any) -> None:
        """Record something that happened on the channel. Any thread."""
        self._trail.note(name, **self._facts, **fields)

    def commit(self, name: str, **fields: Any) -> Future[None] | None:
        """Do as :meth:`Trail.commit`."""
        return self._trail.commit(name, **self._facts, **fields)

    def refusal(self, error: BaseException) -> NotRecorded:
        """Do as :meth:`Trail.refusal`."""
        return self._trail.refusal(error)


class ConnectionAudit:
    """One SSH connection; every record of its channels contains ``facts``."""

    def __init__(
        self,
        trail: Trail = OFF,
        channels: OpenChannels | None = None,
        recordings: Recordings = recording.OFF,
        **facts: Any,
    ) -> None:
        self.trail = trail
        self.recordings = recordings
        self.channels = channels or OpenChannels()
        self.reason = ""
        """Why the gateway ends the connection."""
        self.facts = facts
        """Who, where from, which container and which request; the log's lines of a connection say these, too."""
        self._numbers = itertools.count()

    def refuse(self, reason: str) -> None:
        """Record that the connection was refused. Any thread."""
        self.trail.note(CONNECTION_REFUSED, **self.facts, reason=text(reason))

    def channel(self, kind: str, **facts: Any) -> ChannelAudit:
        """Return the audit of a channel of the type ``kind``. Any thread."""
        numbered = {**self.facts, "channel": next(self._numbers), "type": text(kind), **facts}
        return ChannelAudit(self, numbered)


class GatewayAudit:
    """The audit of one gateway and its recordings, to be closed after its connections."""

    def __init__(self, trail: Trail = OFF, recordings: Recordings = recording.OFF) -> None:
        self.trail = self._trail = trail
        self._recordings = recordings
        self._channels = OpenChannels()

    def connection(self, **facts: Any) -> ConnectionAudit:
        """Return the audit of a connection."""
        return ConnectionAudit(self._trail, self._channels, self._recordings, **facts)

    def close(self) -> None:
        """Write all waiting records, including the ends of all channels. Blocks for some seconds at most."""
        for channel in self._channels.wait(LAST_ENDS):
            channel.reason = channel.reason or "the gateway stopped"
            channel.end()
        self._recordings.close()
        self._trail.close()
