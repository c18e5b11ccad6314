"""Which watchers a session has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from crunch_sshd.audit.recording import Recordings
from crunch_sshd.runtimes import Output, Terminal
from crunch_sshd.session.watch import SessionWatch
from crunch_sshd.ssh.memory import Room

TERMINAL = Terminal("xterm", 80, 24)


def filled(data: bytes) -> tuple[Room, int]:
    """Return a room with ``data``, and how much that is."""
    room = Room(3, 1, 3)
    return room, room.fill(data)


def test_without_anything() -> None:
    """A session that is not watched hands its data straight to the process, and counts it."""
    watch = SessionWatch()
    process = cast(Any, object())
    watch.asked("subsystem", b"sftp", None, False)
    watch.begin()
    watch.output(Output.STDOUT, *filled(b"12345"))
    assert watch.sink(process) is process
    watch.check()
    watch.end()
    assert watch.audit.sent == 5


def test_terminal(tmp_path: Path) -> None:
    """A session on a terminal is recorded: its output and its sizes, those before its start as well."""
    recordings = Recordings(tmp_path)
    watch = SessionWatch(recordings=recordings)
    watch.asked("shell", b"", TERMINAL, False)
    watch.resized(Terminal("xterm", 90, 30))
    watch.begin()
    watch.output(Output.STDOUT, *filled(b"hello"))
    watch.resized(Terminal("xterm", 100, 40))
    watch.end()
    recordings.close()
    (file,) = tmp_path.iterdir()
    header, *events = [json.loads(line) for line in file.read_text().splitlines()]
    assert (header["width"], header["height"]) == (90, 30)
    assert [event[1:] for event in events] == [["o", "hello"], ["r", "100x40"]]
    assert watch.audit.outcome == {"recording_lost": 0}


def test_no_terminal(tmp_path: Path) -> None:
    """A session without a terminal is not recorded."""
    recordings = Recordings(tmp_path)
    watch = SessionWatch(recordings=recordings)
    watch.asked("exec", b"true", None, False)
    watch.begin()
    watch.output(Output.STDOUT, *filled(b"hello"))
    watch.end()
    recordings.close()
    assert not list(tmp_path.iterdir())
