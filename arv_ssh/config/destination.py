"""A pattern for where forwarding may connect to: ``HOST``, ``HOST:PORT`` or ``HOST:LOW-HIGH``. Pure.

HOST is ``*``, ``container`` (the container's own addresses, loopback among them), an IP address or network
(``10.0.0.0/8``; with a port, an IPv6 one is in brackets), or a name with shell wildcards (``*.example.org``). A name is
compared with the host that the user asks for, an address with the address found for that host.
"""

from __future__ import annotations

import fnmatch
import ipaddress
from dataclasses import dataclass

from arv_ssh.errors import ConfigError

MAX_PORT = 65535
CONTAINER = "container"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Destination:
    """A parsed pattern. ``network`` is None unless the pattern's host is an address or a network."""

    host: str
    network: Network | None
    low: int
    high: int

    def matches(self, name: str, address: str, own: bool, port: int) -> bool:
        """Say whether the pattern covers ``address``, found for ``name``, and the container's own if ``own``."""
        if not self.low <= port <= self.high:
            return False
        found = _plain(address)
        if self.network is not None:
            return found in self.network
        if self.host == CONTAINER:
            return own or found.is_loopback or found.is_unspecified
        return fnmatch.fnmatchcase(name.rstrip(".").lower(), self.host)


def parse(text: str) -> Destination:
    """Read a pattern; raise a :class:`ConfigError` that shows it when it is malformed."""
    host, ports = _split(text)
    low, high = _ports(text, ports)
    if not host or any(character.isspace() for character in host):
        raise _wrong(text)
    if "/" not in host and ":" not in host and not host.replace(".", "").isdecimal():
        return Destination(host.rstrip(".").lower(), None, low, high)
    try:
        return Destination(host, ipaddress.ip_network(host, strict=False), low, high)
    except ValueError as error:
        raise _wrong(text) from error


def _split(text: str) -> tuple[str, str]:
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise _wrong(text)
        return host, rest[1:] if rest else "*"
    if text.count(":") > 1:
        return text, "*"
    host, separator, ports = text.partition(":")
    return host, ports if separator else "*"


def _ports(text: str, ports: str) -> tuple[int, int]:
    if ports == "*":
        return 0, MAX_PORT
    low, _, high = ports.partition("-")
    if not (low.isascii() and low.isdecimal() and (high or low).isascii() and (high or low).isdecimal()):
        raise _wrong(text)
    if ports.endswith("-") or not int(low) <= int(high or low) <= MAX_PORT:
        raise _wrong(text)
    return int(low), int(high or low)


def _plain(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return the address without its zone; ``::ffff:10.0.0.1`` becomes the IPv4 address that it leads to."""
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


def _wrong(text: str) -> ConfigError:
    return ConfigError(
        f"{text!r} is not a forwarding destination; write HOST, HOST:PORT or HOST:LOW-HIGH, where HOST is *, "
        "container, an address, a network such as 10.0.0.0/8, or a name such as *.example.org"
    )
