"""Listening sockets."""

from __future__ import annotations

import pytest

from arv_ssh.errors import ConfigError
from arv_ssh.listen import bind


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
