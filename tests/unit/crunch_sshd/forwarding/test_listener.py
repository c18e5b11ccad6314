"""A place inside the container that cannot be served, or whose client has gone: everything is closed, nothing kept."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from crunch_sshd.audit.channel_audit import ConnectionAudit
from crunch_sshd.forwarding.broker import Listening
from crunch_sshd.forwarding.channel_relay import Relays
from crunch_sshd.forwarding.listener import Listener
from tests.unit.crunch_sshd.double import DEADLINE, LocalBroker
from tests.unit.crunch_sshd.forwarding.test_remote_forward import fail_to_start


class Transport:
    """Offers channels as the test says."""

    def __init__(self, offer: Callable[[Any, Any], None]) -> None:
        self.offer = offer

    def offer_channel(self, kind: str, fields: Any, make_handler: Any, answered: Any) -> None:
        make_handler(_Channel())
        self.offer(kind, answered)


class _Channel:
    transport = cast(Any, None)
    received = 0

    def close(self) -> None:
        pass


@pytest.fixture
def listening() -> Iterator[Listening]:
    """Two sockets that listen, as on localhost."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    yield Listening(1, sockets, port=sockets[0].getsockname()[1])
    for thread in threading.enumerate():
        if thread.name == "listener":
            thread.join(DEADLINE)
            assert not thread.is_alive()
    assert all(sock.fileno() < 0 for sock in sockets), "a socket is kept"


def listener(listening: Listening, relays: Relays, offer: Callable[[Any, Any], None]) -> Listener:
    broker = cast(Any, LocalBroker())
    transport = cast(Any, Transport(offer))
    return Listener(transport, relays, broker, listening, "forwarded-tcpip", lambda peer: (), ConnectionAudit())


def dropped(port: int) -> None:
    """Connect, and see the connection closed."""
    with socket.create_connection(("127.0.0.1", port), DEADLINE) as near:
        assert near.recv(1) == b""


def test_no_room_for_a_thread(listening: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a thread cannot be started all sockets are closed, and the caller hears why."""
    one = listener(listening, Relays(), lambda kind, answered: None)
    fail_to_start(monkeypatch, "listener")
    with pytest.raises(OSError, match="Resource temporarily unavailable"):
        one.start()


def test_closed_before_it_opens(listening: Listening) -> None:
    """What is closed before it begins to accept never does."""
    one = listener(listening, Relays(), lambda kind, answered: None)
    one.start()
    one.close()


def test_client_that_has_gone(listening: Listening) -> None:
    """A connection that comes when the client has gone is closed, and its place given back: so is the next one."""

    def gone(kind: str, answered: Any) -> None:
        raise BrokenPipeError("the connection is closed")

    one = listener(listening, Relays(), gone)
    one.start()
    one.open()
    for _ in range(3):
        dropped(listening.port)
    one.close()


def test_no_room_for_a_relay(listening: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection for which there is no thread is closed, and its place given back."""
    one = listener(listening, Relays(), lambda kind, answered: answered(""))
    one.start()
    one.open()
    fail_to_start(monkeypatch, "forward")
    for _ in range(3):
        dropped(listening.port)
    one.close()
