"""What systemd is told, by a socket in its place."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from arv_ssh.controller.process import systemd


def test_notify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state goes to the socket that systemd names, as one message."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        systemd.notify("READY=1")
        assert listening.recv(100) == b"READY=1"


@pytest.mark.parametrize("name", [None, "", "/nonexistent/notify"])
def test_nobody_to_tell(name: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without systemd, or with one that has gone, a controller serves all the same."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if name is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", name)
    systemd.notify("READY=1")
