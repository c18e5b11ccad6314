"""The container in memory and SSH connections to it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crunch_sshd.forwarding import forward
from tests.unit.crunch_sshd.double import DEADLINE, Link, LocalBroker, MemoryRuntime, login

Connect = Callable[..., Link]


@pytest.fixture
def runtime() -> Iterator[MemoryRuntime]:
    """A container in memory, whose processes are ended when the test ends."""
    memory = MemoryRuntime()
    yield memory
    for process in memory.processes:
        process.end()
        process.close()


@pytest.fixture
def connect(runtime: MemoryRuntime) -> Iterator[Connect]:
    """Open SSH connections, not yet logged in; no thread of theirs outlives the test."""
    before = set(threading.enumerate())
    links: list[Link] = []

    def start(
        name: str = "", *, credential: str | None = None, detach_keys: bytes = b"", audit: Any = None, **more: Any
    ) -> Link:
        how = {} if credential is None else {"credential": credential}
        links.append(Link(runtime, login(name, detach_keys=detach_keys, **how), audit, **more))
        return links[-1]

    yield start
    for link in links:
        link.close()
    for process in runtime.processes:
        process.end()
        process.close()
    for thread in set(threading.enumerate()) - before:
        thread.join(DEADLINE)
        assert not thread.is_alive(), f"the thread {thread.name} outlives its connection"


@pytest.fixture
def link(connect: Connect) -> Link:
    """One connection, logged in as the image's default user."""
    one = connect()
    one.client.auth_none("_")
    return one


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LocalBroker]:
    """The broker that connections get, in a container that may be entered."""
    one = LocalBroker()
    one.directory = str(tmp_path)
    monkeypatch.setattr(forward, "BrokerClient", lambda container, account: one)
    monkeypatch.setattr(MemoryRuntime, "host", lambda self: "a container")
    yield one
    while not one.far.empty():  # what a test had no interest in
        one.far.get().close()
