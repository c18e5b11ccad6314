"""Lines for the user where there is no terminal; the rest is tested with real ssh, in test_shell and test_waiting."""

from __future__ import annotations

import os

import pytest

from arv_ssh.client import messages
from arv_ssh.client.messages import Progress


def test_sparse_lines(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Without a terminal a state is told when it is new, after a minute, and then ever more seldom."""
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    progress = Progress()
    told = []
    for second in range(0, 1000, 10):
        now = float(second)
        progress.show("text", "Locked" if second >= 500 else "Queued")
        if capfd.readouterr().err:
            told.append(second)
    progress.done()
    assert told == [0, 60, 180, 420, 500, 560, 680, 920]
    assert capfd.readouterr().err == ""


def test_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    """A message is one line, whatever is in it."""
    messages.tell("two\nlines\r\tand \udcff")
    assert capfd.readouterr().err == "arvados-client: two lines and \\udcff\n"


def test_no_escape_sequences(capfd: pytest.CaptureFixture[str]) -> None:
    """What a container or a server says cannot command the user's terminal."""
    messages.tell("failed: \x1b[2Jgone\x9b1m")
    Progress().show("waiting: \x1b]0;title\x07", "x")
    assert capfd.readouterr().err == (
        "arvados-client: failed: ?[2Jgone?1m\narvados-client: waiting: ?]0;title? (0 s)\n"
    )


def test_nobody_listens() -> None:
    """A closed stderr is no reason to fail."""
    kept = os.dup(2)
    os.close(2)
    try:
        messages.tell("unheard")
        Progress().show("unheard", "x")
    finally:
        os.dup2(kept, 2)
        os.close(kept)
