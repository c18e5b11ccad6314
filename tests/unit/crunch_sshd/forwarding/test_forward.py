"""Forwarding as a client sees it, with a broker that makes its sockets on this machine."""

from __future__ import annotations

import os
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import paramiko
import pytest
from paramiko import common
from paramiko.message import Message

from arv_ssh.config import destination
from crunch_sshd.forwarding.broker import BrokerError
from crunch_sshd.forwarding.channel_relay import ChannelRelay, Relays
from crunch_sshd.forwarding.forward import Forwarding
from crunch_sshd.forwarding.policy import Policy
from crunch_sshd.ssh import descriptors, transport
from crunch_sshd.ssh.limits import NAME_LENGTH
from tests.unit.crunch_sshd.conftest import Connect
from tests.unit.crunch_sshd.double import DEADLINE, ROOT, Link, LocalBroker, MemoryRuntime
from tests.unit.crunch_sshd.forwarding.test_remote_forward import fail_to_start


@pytest.fixture
def refusals(link: Link) -> list[tuple[int, str]]:
    """The codes and sentences of the channel-open failures; paramiko keeps the sentences to itself."""
    seen: list[tuple[int, str]] = []
    client: Any = link.client
    real = client._handler_table[common.MSG_CHANNEL_OPEN_FAILURE]

    def failed(message: Message) -> None:
        message.get_int()
        seen.append((message.get_int(), message.get_text()))
        message.rewind()
        real(message)

    client._handler_table = {**client._handler_table, common.MSG_CHANNEL_OPEN_FAILURE: failed}
    return seen


def direct(link: Link, host: str = "db", port: int = 5432) -> paramiko.Channel:
    channel = link.client.open_channel("direct-tcpip", (host, port), ("127.0.0.1", 9), timeout=DEADLINE)
    channel.settimeout(DEADLINE)
    return channel


def refused(link: Link, port: int = 5432) -> None:
    with pytest.raises(paramiko.ChannelException):
        direct(link, port=port)


def test_data_and_half_closes(broker: LocalBroker, link: Link) -> None:
    """The server may speak first; each side's end of file passes by itself, and the channel closes after both."""
    channel = direct(link)
    with broker.next() as far:
        far.sendall(b"server first")
        assert channel.recv(100) == b"server first"
        channel.sendall(b"question")
        channel.shutdown_write()
        assert far.recv(100) == b"question"
        assert far.recv(100) == b""
        far.sendall(b"answer after the end of file")
        assert channel.recv(100) == b"answer after the end of file"
        far.shutdown(socket.SHUT_WR)
        assert channel.recv(100) == b""
    assert channel.event.wait(DEADLINE)


def test_what_was_sent_before_the_close_is_delivered(broker: LocalBroker, link: Link) -> None:
    """A client that closes at once after sending loses nothing, though the server reads late."""
    channel = direct(link)
    data = bytes(range(250)) * 4000
    channel.sendall(data)
    channel.close()
    with broker.next() as far:
        assert b"".join(iter(lambda: far.recv(65536), b"")) == data


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        ("Connection refused", "connect to db port 5432: Connection refused"),
        ("Name or service not known", "connect to db port 5432: Name or service not known"),
    ],
)
def test_connect_failed(
    broker: LocalBroker, link: Link, refusals: list[tuple[int, str]], error: str, sentence: str
) -> None:
    """What cannot be connected to is refused with code 2 and the system's words."""
    broker.error = BrokerError(error)
    refused(link)
    assert refusals == [(transport.OPEN_CONNECT_FAILED, sentence)]


def test_port_out_of_range(broker: LocalBroker, link: Link, refusals: list[tuple[int, str]]) -> None:
    """A port that is none is refused as what cannot be connected to."""
    refused(link, port=70000)
    refused(link, port=0)
    assert [code for code, _ in refusals] == [transport.OPEN_CONNECT_FAILED] * 2


def test_without_privilege(link: Link, refusals: list[tuple[int, str]]) -> None:
    """A gateway that may not enter the container says what is missing, with code 1, and refuses to listen."""
    refused(link)
    ((code, text),) = refusals
    assert code == transport.OPEN_PROHIBITED and "root" in text
    with pytest.raises(paramiko.SSHException):
        link.client.request_port_forward("", 0)


def test_policy(broker: LocalBroker, link: Link, refusals: list[tuple[int, str]]) -> None:
    """What the policy does not allow is refused with code 1 and a sentence that says so."""
    forwarding: Any = link.server._forwarding
    forwarding._policy = Policy(destinations=(destination.parse("container:22"),), remote=False)
    refused(link)
    direct(link, port=22).close()
    with pytest.raises(paramiko.SSHException):
        link.client.request_port_forward("", 0)
    forwarding._policy = Policy(local=False)
    refused(link, port=22)
    assert refusals == [
        (1, "forwarding to db port 5432 is not allowed by this cluster's configuration"),
        (1, "local and dynamic forwarding is switched off by this cluster's configuration"),
    ]


def test_too_many(
    broker: LocalBroker, link: Link, refusals: list[tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without descriptors beside the reserve a connection is refused as a shortage; open ones go on."""
    channel = direct(link)
    with monkeypatch.context() as patched:
        patched.setattr(descriptors, "RESERVE", 1 << 40)
        refused(link)
    assert refusals == [
        (transport.OPEN_RESOURCE_SHORTAGE,
         "the gateway has no room for another connection (Too many open files); close some first")
    ]  # fmt: skip
    far = broker.next()
    far.sendall(b"open")
    assert channel.recv(10) == b"open"
    far.close()
    channel.close()
    direct(link).close()
    broker.next().close()


def test_stuck_channel_holds_up_no_other(broker: LocalBroker, link: Link) -> None:
    """A far end that reads nothing fills its own window; another channel moves more than that meanwhile."""
    stuck = direct(link)
    with broker.next() as unread:
        stuck.setblocking(False)
        with pytest.raises(socket.timeout):
            while True:
                stuck.send(bytes(32000))
        channel = direct(link)
        with broker.next() as far:
            received = bytearray()

            def read() -> None:
                while data := far.recv(65536):
                    received.extend(data)

            reader = threading.Thread(target=read)
            reader.start()
            for _ in range(200):
                channel.sendall(bytes(32000))
            channel.shutdown_write()
            reader.join(DEADLINE)
            assert len(received) == 200 * 32000
        assert unread.recv(1) == b"\0"


def test_connection_ends_everything(broker: LocalBroker, connect: Connect) -> None:
    """At the end of the connection the broker is closed and every socket with it, also one that came too late."""
    link = connect()
    link.client.auth_none("_")
    direct(link)
    assert broker.asked.acquire(timeout=DEADLINE)
    with broker.next() as far:
        broker.gate.clear()
        late = threading.Thread(target=lambda: refused_or_lost(link))
        late.start()
        assert broker.asked.acquire(timeout=DEADLINE)
        link.close()
        assert broker.closed.wait(DEADLINE)
        assert far.recv(10) == b""
        late.join(DEADLINE)
    with broker.next() as far:
        assert far.recv(10) == b""


def refused_or_lost(link: Link) -> None:
    with pytest.raises((paramiko.SSHException, EOFError, OSError)):
        direct(link)


# What the client has the container listen at.


@pytest.fixture
def forwarded(link: Link) -> Iterator[Callable[[], paramiko.Channel]]:
    """Get the channels that the server opens."""
    channels: queue.Queue[paramiko.Channel] = queue.Queue()
    link.client._tcp_handler = lambda channel, origin, server: channels.put(channel)  # type: ignore[attr-defined]
    yield lambda: channels.get(timeout=DEADLINE)


def test_remote_forwarding(broker: LocalBroker, link: Link, forwarded: Callable[[], paramiko.Channel]) -> None:
    """Port 0 gets a port, a connection there becomes a channel, whose data is relayed; cancel closes the port only."""
    port = link.client.request_port_forward("localhost", 0, link.client._tcp_handler)  # type: ignore[attr-defined]
    with socket.create_connection(("127.0.0.1", port), DEADLINE) as near:
        near.sendall(b"before anything else")
        channel = forwarded()
        channel.settimeout(DEADLINE)
        assert channel.recv(100) == b"before anything else"
        link.client.cancel_port_forward("localhost", port)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), DEADLINE)
        channel.sendall(b"still here")
        assert near.recv(100) == b"still here"
        channel.close()
        assert near.recv(100) == b""


def test_client_that_refuses(broker: LocalBroker, link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the client refuses the channel, the connection inside the container is closed."""
    port = link.client.request_port_forward("localhost", 0)
    link.client._tcp_handler = None  # type: ignore[attr-defined]
    with socket.create_connection(("127.0.0.1", port), DEADLINE) as near:
        assert near.recv(10) == b""


def test_port_that_cannot_be_had(broker: LocalBroker, link: Link) -> None:
    """A port in use, or one that is none, is a failure reply; so is cancelling what was never asked for."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        broker.error = BrokerError("Address already in use")
        with pytest.raises(paramiko.SSHException):
            link.client.request_port_forward("localhost", taken.getsockname()[1])
    broker.error = None
    with pytest.raises(paramiko.SSHException):
        link.client.request_port_forward("localhost", 70000)
    assert link.client.global_request("cancel-tcpip-forward", ("localhost", 1)) is None
    assert link.client.global_request("streamlocal-nonsense@openssh.com") is None


def test_replies_keep_the_order_of_the_requests(broker: LocalBroker, link: Link) -> None:
    """A request that is answered at once waits for the reply to an earlier one that takes its time (RFC 4254 §4)."""
    replies: queue.Queue[bool] = queue.Queue()
    client: Any = link.client
    client._handler_table = {
        **client._handler_table,
        common.MSG_REQUEST_SUCCESS: lambda message: replies.put(True),
        common.MSG_REQUEST_FAILURE: lambda message: replies.put(False),
    }
    broker.gate.clear()
    client._send_user_message(_global("tcpip-forward", "localhost", 0))
    client._send_user_message(_global("keepalive@openssh.com"))
    client._send_user_message(_global("tcpip-forward", "localhost", 0))
    with pytest.raises(queue.Empty):
        replies.get(timeout=0.2)
    broker.gate.set()
    assert [replies.get(timeout=DEADLINE) for _ in range(3)] == [True, False, True]


def _global(kind: str, *fields: str | int) -> Message:
    message = Message()
    message.add_byte(common.cMSG_GLOBAL_REQUEST)
    message.add_string(kind)
    message.add_boolean(True)
    for field in fields:
        if isinstance(field, int):
            message.add_int(field)
        else:
            message.add_string(field)
    return message


def test_answer_for_a_channel_that_was_not_offered(broker: LocalBroker, link: Link) -> None:
    """A client that answers for a channel nobody offered breaks the protocol, and is disconnected."""
    message = Message()
    message.add_byte(common.cMSG_CHANNEL_OPEN_SUCCESS)
    for number in (77, 0, 100, 100):
        message.add_int(number)
    link.client._send_user_message(message)  # type: ignore[attr-defined]
    assert link.ended.wait(DEADLINE)


# The agent.


def test_agent(broker: LocalBroker, link: Link, runtime: MemoryRuntime) -> None:
    """The program gets SSH_AUTH_SOCK; each connection to it is a channel; with the session the socket goes."""
    channels: queue.Queue[paramiko.Channel] = queue.Queue()
    session = link.client.open_session(timeout=DEADLINE)
    session.request_forward_agent(channels.put)
    session.exec_command("ssh-add -l")
    process = runtime.next()
    path = process.command.environment["SSH_AUTH_SOCK"]
    socks = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    for number, sock in enumerate(socks):
        sock.settimeout(DEADLINE)
        sock.connect(path)
        sock.sendall(b"%d" % number)
    for _ in socks:
        channel = channels.get(timeout=DEADLINE)
        channel.settimeout(DEADLINE)
        channel.sendall(b"answer to " + channel.recv(1))
    assert [sock.recv(100) for sock in socks] == [b"answer to 0", b"answer to 1", b"answer to 2"]
    process.end(0)
    assert session.recv_exit_status() == 0
    assert broker.removed == [path]
    for sock in socks:
        sock.close()


def test_agent_that_is_not_allowed(broker: LocalBroker, link: Link, runtime: MemoryRuntime) -> None:
    """Where the policy forbids it, the request fails and the session goes on without."""
    cast(Any, link.server._forwarding)._policy = Policy(agent=False)
    session = link.client.open_session(timeout=DEADLINE)
    session.request_forward_agent(lambda channel: None)
    session.exec_command("ssh-add -l")
    process = runtime.next()
    assert "SSH_AUTH_SOCK" not in process.command.environment
    process.end(0)
    assert session.recv_exit_status() == 0


def test_relay_that_ends_before_it_runs() -> None:
    """A relay may be ended before its thread begins: the socket is closed, and the place given back once."""
    before = os.listdir("/proc/self/fd")
    near, far = socket.socketpair()
    relays = Relays()
    relays.reserve()
    relays.close()
    relay = relays.join(cast(Any, _NoChannel()), near)
    assert isinstance(relay, ChannelRelay)
    relay.run()
    assert far.recv(10) == b""
    far.close()
    assert os.listdir("/proc/self/fd") == before


class _NoChannel:
    def close(self) -> None:
        pass


def test_forwarding_names_its_types() -> None:
    """The channel types and global requests are OpenSSH's (PROTOCOL §2.4) and RFC 4254's (§7)."""
    forwarding = Forwarding(cast(Any, None), None, ROOT, Policy())
    assert set(forwarding.openers) == {"direct-tcpip", "direct-streamlocal@openssh.com"}


def test_no_room_for_a_thread(
    broker: LocalBroker, link: Link, refusals: list[tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection for which there is no thread is refused as a shortage, and keeps no place."""
    with monkeypatch.context() as patched:
        fail_to_start(patched, "forward")
        for _ in range(2):
            refused(link)
    assert refusals == [
        (transport.OPEN_RESOURCE_SHORTAGE,
         "the gateway has no room for another connection: Resource temporarily unavailable")
    ] * 2  # fmt: skip
    direct(link).close()
    broker.next().close()


def test_system_without_room(broker: LocalBroker, link: Link, refusals: list[tuple[int, str]]) -> None:
    """An error of the system's where the broker should be is an answer, and keeps no place."""
    broker.error = cast(Any, OSError(24, "Too many open files"))
    for _ in range(2):
        refused(link)
    assert [code for code, _ in refusals] == [transport.OPEN_CONNECT_FAILED] * 2
    assert "Too many open files" in refusals[0][1]


def test_names_that_are_too_long(broker: LocalBroker, link: Link, refusals: list[tuple[int, str]]) -> None:
    """A host's name that DNS does not have is refused before anything is started for it, in a short sentence."""
    with pytest.raises(paramiko.ChannelException):
        direct(link, host="h" * (NAME_LENGTH + 1))
    assert refusals == [(transport.OPEN_CONNECT_FAILED, "the host's name has 256 characters; 255 is the most")]
    direct(link, host="h" * NAME_LENGTH).close()
    broker.next().close()
