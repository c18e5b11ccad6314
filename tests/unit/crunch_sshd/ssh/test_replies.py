"""What is answered later: in the order of the requests, and only so much of it at once."""

from __future__ import annotations

from typing import Any, cast

import paramiko
import pytest
from paramiko import SSHException
from paramiko.message import Message

from crunch_sshd.ssh.limits import KIND_LENGTH, REPLIES_WAITING, REQUEST_SIZE
from crunch_sshd.ssh.replies import ChannelOpen, Replies
from tests.unit.crunch_sshd.double import Link


def test_order() -> None:
    """A reply that is ready early waits for those before it."""
    sent: list[Message] = []
    replies = Replies(sent.append)
    first, second, third = Message(), Message(), Message()
    ready = [replies.expect() for _ in range(3)]
    ready[1](second)
    assert sent == []
    ready[0](first)
    assert sent == [first, second]
    ready[2](third)
    assert sent == [first, second, third]


def test_too_many() -> None:
    """A client that asks on and on behind a reply that takes its time loses its connection."""
    replies = Replies(lambda message: None)
    for _ in range(REPLIES_WAITING):
        replies.expect()
    with pytest.raises(SSHException, match="more than can be answered"):
        replies.expect()


class Transport:
    """Keeps what it should send."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def _send_user_message(self, message: Message) -> None:
        self.sent.append(message.asbytes())


def opening(kind: str, transport: Transport) -> ChannelOpen:
    message = Message()
    message.add_string(kind)
    for number in (3, 100, 100):
        message.add_int(number)
    message.rewind()
    return ChannelOpen(cast(Any, transport), message)


def test_long_type() -> None:
    """Of a type's name that is longer than any, so much is kept that it is not taken for one, and no more."""
    transport = Transport()
    asked = opening("session" + "x" * 10_000, transport)
    assert len(asked.kind) == KIND_LENGTH + 1
    asked.refuse(3, f"the channel type {asked.kind} is not known")
    assert len(transport.sent[0]) < 200


def test_long_requests(link: Link) -> None:
    """A channel-open or global request longer than any real one is refused, and the connection goes on."""
    with pytest.raises(paramiko.ChannelException) as refused:
        link.client.open_channel("direct-tcpip", ("h" * REQUEST_SIZE, 1), ("127.0.0.1", 1))
    assert refused.value.code == 4
    assert link.client.global_request("tcpip-forward", ("h" * REQUEST_SIZE, 1)) is None
    link.open().close()
