"""Listening sockets."""

from __future__ import annotations

import os
import socket

import pytest

from arv_ssh.errors import ConfigError
from arv_ssh.net.listen import adopt, bind, inherited


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_free_port(host: str) -> None:
    """Port 0 gives a free port, on IPv4 and IPv6, and the socket does not block."""
    with bind(host, 0) as listener:
        assert listener.getsockname()[1] > 0 and not listener.getblocking()


def test_taken_port() -> None:
    """A port that is taken is named in the error."""
    with bind("127.0.0.1", 0) as listener:
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            bind("127.0.0.1", port)


def test_foreign_address() -> None:
    """An address of another machine is refused with a sentence."""
    with pytest.raises(ConfigError, match="cannot listen on 192.0.2.1:0"):
        bind("192.0.2.1", 0)


def test_unknown_name() -> None:
    """A name that does not resolve is refused with a sentence."""
    with pytest.raises(ConfigError, match="cannot listen on name.invalid:0: "):
        bind("name.invalid", 0)


def test_shared_port() -> None:
    """A successor shares its predecessor's port when it says so, and nothing else's."""
    with bind("127.0.0.1", 0) as first:
        first.listen()
        port = first.getsockname()[1]
        with bind("127.0.0.1", port, shared=True) as second:
            second.listen()
            with pytest.raises(ConfigError, match="Address already in use"):
                bind("127.0.0.1", port)
    with socket.create_server(("127.0.0.1", 0)) as foreign:
        with pytest.raises(ConfigError, match="Address already in use"):
            bind("127.0.0.1", foreign.getsockname()[1], shared=True)


def test_inherited_for_another_process() -> None:
    """Sockets that were passed to our parent are not ours, and what names them is not handed on."""
    environ = {"LISTEN_PID": str(os.getpid() - 1), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "https", "HOME": "/"}
    assert inherited(environ) == []
    assert environ == {"HOME": "/"}


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_adopt_refuses(kind: socket.SocketKind) -> None:
    """A socket that does not listen is refused, and left open for whose it is."""
    with socket.socket(socket.AF_INET, kind) as other:
        with pytest.raises(ConfigError, match="is not a listening TCP socket"):
            adopt(other.fileno(), "--listen-fd")
        other.getsockname()


def test_adopt() -> None:
    """A listening socket is taken as it is, made non-blocking, and not passed on to children."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.set_inheritable(True)
    with adopt(listener.detach(), "--listen-fd") as adopted:
        assert not adopted.getblocking() and not adopted.get_inheritable()
        assert adopted.getsockname()[1] > 0
