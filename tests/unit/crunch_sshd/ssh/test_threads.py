"""A thread that cannot be started."""

from __future__ import annotations

import errno
import threading

import pytest

from crunch_sshd.ssh import threads


def test_start() -> None:
    """The work is done in a thread of the name given."""
    seen: list[str] = []
    thread = threads.start(lambda: seen.append(threading.current_thread().name), "a name")
    thread.join()
    assert seen == ["a name"] and thread.daemon


def test_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's RuntimeError becomes the system's error, with its words."""

    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    with pytest.raises(OSError) as failed:
        threads.start(lambda: None, "a name")
    assert failed.value.errno == errno.EAGAIN
    assert threads.reason(failed.value) == "Resource temporarily unavailable"
    assert threads.reason(RuntimeError("why")) == "why"
