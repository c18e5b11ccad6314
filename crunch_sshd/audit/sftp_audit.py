"""The audit of an SFTP session: stands between a channel's input and the server, and looks at the server's answers.

Ensures that, where records are required, no request for an operation on files reaches the server before its record is
on the disk; :class:`crunch_sshd.ssh.channel_input.ChannelInput` does the waiting, on its own thread.
:mod:`crunch_sshd.audit.sftp_operations` reads the packets.
"""

from __future__ import annotations

from concurrent.futures import Future, wait

from arv_ssh.audit.trail import PATIENCE, NotRecorded
from crunch_sshd.audit.channel_audit import ChannelAudit
from crunch_sshd.audit.sftp_operations import Facts, FileOperations
from crunch_sshd.ssh.channel_input import Sink

ASKED = "sftp.request"
"""The event of an operation about to be requested from the server; only where records are required."""
LOOK = 64 * 1024
"""Bytes looked at ahead of the server: two of the longest packets of data that an SSH client sends."""


class SftpAudit:
    """One SFTP session's audit: the :class:`Sink` of the session's input once it is attached to the server."""

    def __init__(self, audit: ChannelAudit) -> None:
        self._audit = audit
        self._operations = FileOperations(self._note)
        self._server: Sink
        self._seen = 0
        self._asked: list[Future[None]] = []
        self._late = False
        self.refusal: NotRecorded | None = None
        """Why the session must end: a record could not be written."""

    def attach(self, server: Sink) -> SftpAudit:
        """Pass the session's input on to ``server``."""
        self._server = server
        return self

    def answers(self, data: bytes | memoryview) -> None:
        """Look at the server's data for the client."""
        self._operations.answers(data)

    def end(self) -> None:
        """Note the files that were left open."""
        self._operations.end()

    def _note(self, operation: str, facts: Facts) -> None:
        self._audit.note(f"sftp.{operation}", **facts)

    # The sink.

    def write(self, data: bytes | memoryview) -> int:
        """Pass on data once it is recorded; take none before, nor while too many requests wait for answers."""
        if not self._seen:
            self._look(data[:LOOK])
        if self._asked and not (self._late or all(future.done() for future in self._asked)):
            return 0
        if self._asked or self._operations.lost:
            self._check()
        taken = self._server.write(data[: self._seen])
        self._seen -= taken
        return taken

    def _look(self, data: bytes | memoryview) -> None:
        self._seen, operations = self._operations.requests(data)
        for operation, facts in operations:
            future = self._audit.commit(ASKED, operation=operation, **facts) if self._audit.required else None
            if future is not None:
                self._asked.append(future)

    def _check(self) -> None:
        """End the session when a record could not be written: the server gets no more requests."""
        asked, self._asked = self._asked, []
        if self._operations.lost:
            self._refuse(f"the transfer cannot be followed: {self._operations.lost}")
        for future in asked:
            future.cancel()  # no effect on one that is done; the record of one that is late may still be written
            error = future.exception() if future.done() and not future.cancelled() else TimeoutError()
            if error is not None:
                self.refusal = self._audit.refusal(error)
                self._server.close_stdin()
                raise BrokenPipeError("the audit record could not be written") from error

    def _refuse(self, reason: str) -> None:
        """End the session: the server would go on with what is not recorded."""
        self.refusal = NotRecorded(reason)
        self._server.close_stdin()
        raise BrokenPipeError(reason)

    def wait_writable(self, timeout: float) -> bool:
        """Wait for the disk, then for the server to take requests, or to answer some of too many."""
        if self._asked:
            self._late = bool(wait(self._asked, PATIENCE).not_done)
            return True
        if not self._seen and self._operations.full:
            return self._operations.wait_room(timeout)
        return self._server.wait_writable(timeout)

    def close_stdin(self) -> None:
        self._server.close_stdin()
