"""A session's agent: when its socket is there, and when it cannot be."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path
from typing import Any, cast

import pytest

from arv_ssh.errors import Unavailable
from crunch_sshd.audit.channel_audit import ConnectionAudit
from crunch_sshd.forwarding.agent import VARIABLE, Agent
from crunch_sshd.forwarding.broker import BrokerError
from crunch_sshd.forwarding.channel_relay import Relays
from tests.unit.crunch_sshd.double import DEADLINE, LocalBroker
from tests.unit.crunch_sshd.forwarding.test_remote_forward import fail_to_start


@pytest.fixture
def broker(tmp_path: Path) -> LocalBroker:
    """A broker whose sockets are in a directory of the test's."""
    one = LocalBroker()
    one.directory = str(tmp_path)
    return one


def no_room() -> None:
    raise Unavailable("no room")


@pytest.fixture
def agent(broker: LocalBroker) -> Agent:
    """An agent that is not open yet."""
    return Agent(cast(Any, None), Relays(no_room), cast(Any, broker), ConnectionAudit())


def threads_end() -> None:
    for thread in threading.enumerate():
        if thread.name == "listener":
            thread.join(DEADLINE)
            assert not thread.is_alive()


def test_open_and_close(agent: Agent, broker: LocalBroker) -> None:
    """The environment names a socket that takes connections; it is removed once."""
    path = agent.open()[VARIABLE]
    with socket.socket(socket.AF_UNIX) as near:
        near.connect(path)
        near.settimeout(DEADLINE)
        assert near.recv(1) == b"", "the connection may have no channel"
    agent.close()
    agent.close()
    assert broker.removed == [path]
    threads_end()


def test_no_place(agent: Agent, broker: LocalBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no place for the socket the caller hears why, and there is nothing to close."""

    def fail() -> Any:
        raise BrokerError("Read-only file system")

    monkeypatch.setattr(broker, "listen_agent", fail)
    with pytest.raises(BrokerError, match="Read-only"):
        agent.open()
    agent.close()
    assert broker.removed == []


def test_no_room_for_a_thread(agent: Agent, broker: LocalBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be started the socket is closed and removed."""
    fail_to_start(monkeypatch, "listener")
    with pytest.raises(OSError, match="Resource temporarily unavailable"):
        agent.open()
    assert broker.removed == [f"{broker.directory}/agent"]
    with socket.socket(socket.AF_UNIX) as near, pytest.raises(ConnectionRefusedError):
        near.connect(broker.removed[0])
    os.unlink(broker.removed[0])
