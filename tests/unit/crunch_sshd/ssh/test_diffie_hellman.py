"""The bounds of what a client may send for a Diffie-Hellman exchange, and of what we calculate."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import paramiko
import pytest
from paramiko.message import Message

from crunch_sshd.ssh.diffie_hellman import EXPONENT_BITS, Group14, Group16

KEXDH_INIT = 30
GROUPS = pytest.mark.parametrize("group", [Group14, Group16])


def server(group: Any) -> Any:
    """Return an exchange that waits for the client's number."""
    transport = Mock(
        server_mode=True, remote_version="C", local_version="S", remote_kex_init=b"c", local_kex_init=b"s"
    )
    transport.get_server_key().asbytes.return_value = b"host key"
    transport.get_server_key().sign_ssh_data.return_value = b"signature"
    exchange = group(transport)
    exchange.start_kex()
    return exchange


def answer(exchange: Any, number: bytes) -> None:
    message = Message()
    message.add_string(number)
    exchange.parse_next(KEXDH_INIT, Message(message.asbytes()))


@GROUPS
def test_exponent(group: Any) -> None:
    """The secret exponent has as many bits as OpenSSH's, and is another one each time."""
    exponents = [server(group).x for _ in range(3)]
    assert {one.bit_length() for one in exponents} == {EXPONENT_BITS} and len(set(exponents)) == 3


@GROUPS
def test_both_sides_agree(group: Any) -> None:
    """Both sides have the same number in the end."""
    exchange = server(group)
    mine = 0x1234567
    message = Message()
    message.add_mpint(pow(group.G, mine, group.P))
    exchange.parse_next(KEXDH_INIT, Message(message.asbytes()))
    assert exchange.transport._set_K_H.call_args.args[0] == pow(exchange.f, mine, group.P)


@GROUPS
@pytest.mark.parametrize("distance", [0, 1, 2])
def test_ends_of_the_range(group: Any, distance: int) -> None:
    """0, 1, P - 1 and P lead to a key that everybody knows: they are refused, as OpenSSH does; 2 and P - 2 are not."""
    for number in (distance, group.P - distance):
        message = Message()
        message.add_mpint(number)
        exchange = server(group)
        if distance < 2:
            with pytest.raises(paramiko.SSHException, match="out of range"):
                exchange.parse_next(KEXDH_INIT, Message(message.asbytes()))
            assert not exchange.transport._set_K_H.called
        else:
            exchange.parse_next(KEXDH_INIT, Message(message.asbytes()))
            assert exchange.transport._set_K_H.called


@GROUPS
def test_a_long_number_is_not_read(group: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number of 200 KB is refused before paramiko reads it, which would take it seconds; so are leading zeros."""
    monkeypatch.setattr(Message, "get_mpint", lambda self: pytest.fail("it was read"))
    for number in (b"\1" * 200_000, bytes(200_000) + b"\2", b""):
        with pytest.raises(paramiko.SSHException, match="out of range"):
            answer(server(group), number)


@GROUPS
def test_a_negative_number(group: Any) -> None:
    """A number whose first bit is set is negative (RFC 4251 §5), and refused."""
    with pytest.raises(paramiko.SSHException, match="out of range"):
        answer(server(group), b"\xff" * (group.P.bit_length() // 8))
    with pytest.raises(paramiko.SSHException, match="out of range"):
        answer(server(group), b"\x80" + bytes(10))
