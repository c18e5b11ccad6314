"""What may be forwarded where, and how the settings are read."""

from __future__ import annotations

from typing import Any

import pytest

from arv_ssh.config import destination
from arv_ssh.errors import ConfigError, UsageError
from crunch_sshd.forwarding import policy
from crunch_sshd.forwarding.policy import DEFAULT_POLICY, Policy


def allowed(patterns: list[str], host: str, address: str, port: int, own: bool = False) -> bool:
    """Say whether a policy with these destinations lets a user connect."""
    rules = Policy(destinations=tuple(destination.parse(one) for one in patterns))
    return rules.reachable(host, [(address, own)], port) == [address]


@pytest.mark.parametrize("kind", policy.KINDS)
def test_kinds(kind: str) -> None:
    """By default every kind is allowed; one that is switched off is refused in words, and only that one."""
    assert DEFAULT_POLICY.refusal(kind) == ""
    switched_off: dict[str, Any] = {kind: False}
    strict = Policy(**switched_off)
    assert strict.refusal(kind).endswith("is switched off by this cluster's configuration")
    assert all(strict.refusal(other) == "" for other in policy.KINDS if other != kind)


@pytest.mark.parametrize(
    ("pattern", "host", "address", "port", "expected"),
    [
        ("*", "anything", "192.0.2.1", 65535, True),
        ("*:443", "anything", "192.0.2.1", 443, True),
        ("*:443", "anything", "192.0.2.1", 80, False),
        ("*:8000-8010", "x", "192.0.2.1", 8010, True),
        ("*:8000-8010", "x", "192.0.2.1", 8011, False),
        ("10.0.0.0/8", "db", "10.255.0.1", 1, True),
        ("10.0.0.0/8", "db", "11.0.0.1", 1, False),
        ("10.0.0.0/8", "db", "::ffff:10.0.0.1", 1, True),
        ("10.0.0.7", "10.0.0.7", "10.0.0.7", 1, True),
        ("10.0.0.7:22", "10.0.0.7", "10.0.0.7", 23, False),
        ("fd00::/8", "db", "fd12::1", 1, True),
        ("[fd00::/8]:5432", "db", "fd12::1", 5432, True),
        ("[fd00::/8]:5432", "db", "fd12::1", 5433, False),
        ("fe80::/10", "db", "fe80::1%eth0", 1, True),
        ("*.example.org", "db.example.org", "192.0.2.1", 1, True),
        ("*.example.org", "DB.Example.org.", "192.0.2.1", 1, True),
        ("*.example.org", "example.org", "192.0.2.1", 1, False),
        ("db.example.org", "192.0.2.1", "192.0.2.1", 1, False),
        ("container", "localhost", "127.0.0.1", 1, True),
        ("container", "localhost", "::1", 1, True),
        ("container", "x", "::ffff:127.0.0.1", 1, True),
        ("container", "0.0.0.0", "0.0.0.0", 1, True),
        ("container", "x", "192.0.2.1", 1, False),
        ("container:80", "localhost", "127.0.0.1", 81, False),
    ],
)
def test_destinations(pattern: str, host: str, address: str, port: int, expected: bool) -> None:
    """A pattern covers an address by what it is, a name by what was asked for, and a port by its range."""
    assert allowed([pattern], host, address, port) is expected


def test_containers_own_address() -> None:
    """The word container covers every address that is the container's own."""
    assert allowed(["container"], "myself", "172.17.0.2", 1, own=True)


def test_only_what_is_allowed_is_left() -> None:
    """Of a name's addresses only those that a pattern covers are connected to; without patterns none is."""
    rules = Policy(destinations=(destination.parse("10.0.0.0/8"),))
    assert rules.reachable("db", [("192.0.2.1", False), ("10.1.1.1", False)], 5432) == ["10.1.1.1"]
    assert Policy(destinations=()).reachable("db", [("10.1.1.1", False)], 5432) == []


@pytest.mark.parametrize(
    "text", ["", ":80", "host:", "host:x", "host:80-", "host:90-80", "host:65536", "[::1", "[::1]80", "a b",
             "10.0.0.0/40", "1234", "fd00::/200", "host:-80"],
)  # fmt: skip
def test_wrong_patterns(text: str) -> None:
    """What is no pattern is named in the error."""
    with pytest.raises(ConfigError) as caught:
        destination.parse(text)
    assert repr(text) in str(caught.value)


def test_from_json() -> None:
    """The text of --forwarding gives a policy; what it leaves out is as by default."""
    assert policy.from_json("{}") == DEFAULT_POLICY
    found = policy.from_json('{"remote": false, "destinations": ["container:22", "10.0.0.0/8"]}')
    assert (found.local, found.remote) == (True, False)
    assert [one.host for one in found.destinations] == ["container", "10.0.0.0/8"]


@pytest.mark.parametrize(
    "text", ["", "x", "[]", '{"x11": true}', '{"local": 1}', '{"destinations": "*"}', '{"destinations": [1]}']
)
def test_wrong_json(text: str) -> None:
    """Anything else is a mistake on the command line."""
    with pytest.raises(UsageError):
        policy.from_json(text)
