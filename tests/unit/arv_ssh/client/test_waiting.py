"""The pause of a wait; all else of it is tested through the commands, in proxycommand/test_waiting."""

from __future__ import annotations

import os

import pytest

from arv_ssh.client.controller import Controller
from arv_ssh.client.settings import Settings
from arv_ssh.client.transport import Abandoned
from arv_ssh.client.waiting import Wait


def test_a_pause_ends_with_ssh(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause of days ends when the reader of what is watched goes away; were it slept through, no test would wait."""
    reader, writer = os.pipe()
    wait = Wait(Controller(Settings("api.example.org", 443, "x"), writer), "zzzzz-dz642-abcdeabcdeabcde")
    monkeypatch.setattr(wait, "_pause", 1e6)
    os.close(reader)
    try:
        with pytest.raises(Abandoned):
            wait._sleep("container", "is Queued")
    finally:
        os.close(writer)
