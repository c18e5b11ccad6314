"""Recordings of terminals: their form, characters that come in pieces, a disk that is slow or full."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from arv_ssh.audit.trail import Trail
from crunch_sshd.audit.channel_audit import GatewayAudit
from crunch_sshd.audit.recording import EVENT_COST, Recordings
from crunch_sshd.runtimes import Terminal
from tests.timing import wait_for
from tests.unit.crunch_sshd.conftest import Connect
from tests.unit.crunch_sshd.double import DEADLINE, MemoryRuntime, read_to_end

TERMINAL = Terminal("xterm-256color", 80, 24)
UMLAUT = "ä€😀".encode()


def lines(directory: Path) -> list[Any]:
    """Return the header and events of the one recording in ``directory``."""
    (path,) = directory.glob("*.cast")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_form(tmp_path: Path) -> None:
    """A recording has asciicast's header and its events in order, in a file for its owner alone."""
    recordings = Recordings(tmp_path / "recordings")
    one = recordings.begin("uuid-req-1-0", TERMINAL)
    assert one is not None
    one.output(b"$ ")
    one.resize(Terminal("xterm-256color", 132, 43))
    one.output(b"bye\r\n")
    one.end()
    recordings.close()
    header, *events = lines(tmp_path / "recordings")
    assert header["timestamp"] > 1_700_000_000
    assert {"version": 2, "width": 80, "height": 24, "env": {"TERM": "xterm-256color"}}.items() <= header.items()
    assert [event[1:] for event in events] == [["o", "$ "], ["r", "132x43"], ["o", "bye\r\n"]]
    assert 0 <= events[0][0] <= events[1][0] <= events[2][0] < DEADLINE
    (path,) = (tmp_path / "recordings").iterdir()
    assert path.name == one.name and path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_two_of_one_name(tmp_path: Path) -> None:
    """Two sessions of one second whose client gave them the same request id are both recorded."""
    recordings = Recordings(tmp_path)
    for _ in range(2):
        one = recordings.begin("uuid-req-1-0", TERMINAL)
        assert one is not None
        one.output(b"$ ")
        one.end()
    recordings.close()
    assert len(list(tmp_path.glob("*.cast"))) == 2


@pytest.mark.parametrize("size", [1, 2, 3])
def test_characters_in_pieces(tmp_path: Path, size: int) -> None:
    """A character cut by the border of two outputs is whole; bytes that are none become the replacement character."""
    recordings = Recordings(tmp_path)
    one = recordings.begin("s", TERMINAL)
    assert one is not None
    text = UMLAUT + b"\xff" + UMLAUT[:-1]
    for at in range(0, len(text), size):
        one.output(text[at : at + size])
    one.end()
    recordings.close()
    assert "".join(event[2] for event in lines(tmp_path)[1:]) == "ä€😀�ä€�"


def test_slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the disk hangs nobody waits; what found no room is missing, and a marker says how much and where."""
    written, release = threading.Event(), threading.Event()
    write = os.write

    def slow(descriptor: int, data: Any) -> int:
        written.set()
        assert release.wait(DEADLINE)
        return write(descriptor, data)

    monkeypatch.setattr("os.write", slow)
    recordings = Recordings(tmp_path, limit=2 * EVENT_COST + 10)
    one = recordings.begin("s", TERMINAL)
    assert one is not None
    one.output(b"1234")
    assert written.wait(DEADLINE)
    one.output("€€€".encode()[:5])
    one.output(b"lost")
    one.output(b"lost")
    assert one.lost == 8
    release.set()
    wait_for(lambda: "€" in str(lines(tmp_path)))
    one.output(b"after")
    one.end()
    recordings.close()
    events = [event[1:] for event in lines(tmp_path)[1:]]
    assert events == [
        ["o", "1234"],
        ["o", "€"],
        ["o", "�"],
        ["m", "8 bytes of output are missing here: the disk was too slow"],
        ["o", "after"],
    ]


def test_small_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits is counted as the memory that it takes: single bytes fill it long before they are as many."""
    release = threading.Event()
    write = os.write
    monkeypatch.setattr("os.write", lambda descriptor, data: write(descriptor, data) if release.wait(DEADLINE) else 0)
    recordings = Recordings(tmp_path, limit=100 * EVENT_COST)
    one = recordings.begin("s", TERMINAL)
    assert one is not None
    for _ in range(1000):
        one.output(b"x")
        one.resize(TERMINAL)
    assert len(recordings._waiting) <= 100
    assert one.lost >= 900
    release.set()
    recordings.close()


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A recording that cannot be written any more ends with a whole line, and the log says so once."""
    recordings = Recordings(tmp_path)
    one = recordings.begin("s", TERMINAL)
    assert one is not None
    one.output(b"first")
    wait_for(lambda: list(tmp_path.iterdir()) and len(lines(tmp_path)) == 2)
    write, calls = os.write, []

    def half(descriptor: int, data: Any) -> int:
        calls.append(data)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return write(descriptor, data[: len(data) // 2])

    monkeypatch.setattr("os.write", half)
    one.output(b"second")
    one.output(b"third")
    one.end()
    recordings.close()
    assert [event[2] for event in lines(tmp_path)[1:]] == ["first"]
    assert caplog.text.count("a recording cannot be written") == 1


def test_session_on_a_terminal(connect: Connect, runtime: MemoryRuntime, tmp_path: Path) -> None:
    """A session with a terminal is recorded, its input never; the audit names the file. One without is not."""
    audit = GatewayAudit(Trail("on", tmp_path / "audit", "gateway"), Recordings(tmp_path / "recordings"))
    link = connect(audit=audit.connection(container_uuid="uuid", request_id="../req"))
    link.client.auth_none("_")
    channel = link.open()
    channel.get_pty("vt100", 90, 30)
    channel.exec_command("sh")
    process = runtime.next()
    channel.sendall(b"secret")
    process.until(lambda: process.stdin == b"secret")
    channel.resize_pty(100, 40)
    process.until(lambda: "resize 100x40" in process.calls)
    process.say(b"Password: ")
    process.end()
    assert read_to_end(channel)[0] == b"Password: "
    plain = link.open("true")
    runtime.next().end()
    assert read_to_end(plain)[2] == 0
    audit.close()
    header, *events = lines(tmp_path / "recordings")
    assert (header["width"], header["height"], header["env"]) == (90, 30, {"TERM": "vt100"})
    assert [event[1:] for event in events] == [["r", "100x40"], ["o", "Password: "]]
    (path,) = (tmp_path / "recordings").iterdir()
    assert path.name.startswith("uuid-___req-0-") and path.suffix == ".cast"
    assert path.name in next((tmp_path / "audit").glob("*.jsonl")).read_text()
