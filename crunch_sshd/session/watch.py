"""What watches a session channel: its audit, the audit of its file transfer, the recording of its terminal.

Owns which of them a session has, so that the session itself reports to one object. All of it stays out of the data's
way: unwatched data costs a count, and so does most watched data.
"""

from __future__ import annotations

from arv_ssh.audit.trail import text
from crunch_sshd.audit import recording
from crunch_sshd.audit.channel_audit import ChannelAudit, ConnectionAudit
from crunch_sshd.audit.recording import Recording, Recordings
from crunch_sshd.audit.sftp_audit import SftpAudit
from crunch_sshd.runtimes import Output, Process, Terminal
from crunch_sshd.ssh.channel_input import Sink
from crunch_sshd.ssh.memory import Room

SFTP = b"sftp"
"""The subsystem whose packets are read."""


class SessionWatch:
    """Watches one session channel. Its methods say on which of the session's two threads they are called."""

    def __init__(self, audit: ChannelAudit | None = None, recordings: Recordings = recording.OFF) -> None:
        self.audit = audit or ConnectionAudit().channel("session")
        self._recordings = recordings
        self._terminal: Terminal | None = None
        self._recording: Recording | None = None
        self._sftp: SftpAudit | None = None

    def asked(self, request: str, argument: bytes, terminal: Terminal | None, agent: bool) -> None:
        """Note the request for the channel's program: "shell", "exec" or "subsystem". Transport thread."""
        named = {"exec": "command", "subsystem": "subsystem"}.get(request)
        facts = {named: text(argument)} if named else {}
        self.audit.add(request=request, **facts, terminal=text(terminal.term) if terminal else None, agent=agent)
        self._terminal = terminal
        if self.audit.on and request == "subsystem" and argument == SFTP:
            self._sftp = SftpAudit(self.audit)

    def resized(self, terminal: Terminal) -> None:
        """Note the terminal's new size. Transport thread."""
        self._terminal = terminal
        if self._recording is not None:
            self._recording.resize(terminal)

    # The program's thread.

    def begin(self) -> None:
        """Record that the program is about to start; raises :class:`arv_ssh.audit.trail.NotRecorded`."""
        if self._terminal is not None:
            self._recording = self._recordings.begin(self.audit.name, self._terminal)
            if self._recording is not None:
                self.audit.add(recording=self._recording.name)
        self.audit.begin()

    def sink(self, process: Process) -> Sink:
        """Return what takes the client's data for ``process``."""
        return self._sftp.attach(process) if self._sftp is not None else process

    def output(self, stream: Output, room: Room, size: int) -> None:
        """Look at the first ``size`` bytes in ``room``, the program's output before it is sent; keep none of it."""
        self.audit.sent += size
        if self._recording is not None:
            self._recording.output(b"".join(room.pieces(size)))
        if self._sftp is not None and stream is Output.STDOUT:
            for piece in room.pieces(size):
                self._sftp.answers(piece)

    def check(self) -> None:
        """Raise :class:`arv_ssh.audit.trail.NotRecorded` when the program was ended for lack of a record."""
        if self._sftp is not None and self._sftp.refusal is not None:
            raise self._sftp.refusal

    def end(self) -> None:
        """Record the end, whatever caused it."""
        if self._sftp is not None:
            self._sftp.end()
        if self._recording is not None:
            self._recording.end()
            self.audit.outcome["recording_lost"] = self._recording.lost
        self.audit.end()
