"""Patterns of forwarding destinations: how they are read, and what they match."""

from __future__ import annotations

import pytest

from arv_ssh.config import destination
from arv_ssh.errors import ConfigError


@pytest.mark.parametrize(
    ("pattern", "name", "address", "own", "port", "matches"),
    [
        ("*", "db.example.org", "192.0.2.1", False, 5432, True),
        ("*:443", "db.example.org", "192.0.2.1", False, 444, False),
        ("*:1000-2000", "x", "192.0.2.1", False, 1000, True),
        ("*:1000-2000", "x", "192.0.2.1", False, 2001, False),
        ("container", "localhost", "127.0.0.1", False, 80, True),
        ("container", "x", "172.17.0.2", True, 80, True),
        ("container", "x", "172.17.0.3", False, 80, False),
        ("10.0.0.0/8", "x", "10.1.2.3", False, 80, True),
        ("10.0.0.0/8", "x", "::ffff:10.1.2.3", False, 80, True),
        ("10.0.0.0/8", "10.1.2.3", "192.0.2.1", False, 80, False),
        ("[fe80::/10]:22", "x", "fe80::1%eth0", False, 22, True),
        ("fe80::1", "x", "fe80::1", False, 1, True),
        ("*.Example.org", "DB.example.org.", "192.0.2.1", False, 80, True),
        ("*.example.org", "example.org", "192.0.2.1", False, 80, False),
    ],
)
def test_matches(pattern: str, name: str, address: str, own: bool, port: int, matches: bool) -> None:
    """A name is compared with what was asked for, an address with what that was found to be."""
    assert destination.parse(pattern).matches(name, address, own, port) is matches


@pytest.mark.parametrize(
    "pattern",
    ["", ":80", "a b", "h:", "h:x", "h:2-1", "h:65536", "h:1-", "h:-1", "10.0.0.0/33", "10.0.0.256", "[::1", "[::1]80",
     "h:²", "1:2:3"],
)  # fmt: skip
def test_mistakes(pattern: str) -> None:
    """What is no pattern is refused in a sentence that shows it."""
    with pytest.raises(ConfigError, match="is not a forwarding destination; write HOST"):
        destination.parse(pattern)
