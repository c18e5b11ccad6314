"""The container's own /etc/hosts and /etc/resolv.conf: what hosts(5) and resolv.conf(5) say. Pure."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

MAX_NAMESERVERS = 3
"""MAXNS of resolv.conf(5); further ones are ignored there too."""
MAX_NDOTS, MAX_TIMEOUT, MAX_ATTEMPTS = 15, 30, 5
"""Where resolv.conf(5) silently caps its options."""

BLANKS = dict.fromkeys(map(ord, "\t\v\f\r"), " ")
"""The characters that isspace(3) counts as space within a line."""


class ResolvConf(NamedTuple):
    """How to look names up; the defaults are those of a missing file."""

    nameservers: tuple[str, ...] = ("127.0.0.1",)
    search: tuple[str, ...] = ()
    ndots: int = 1
    timeout: int = 5
    attempts: int = 2
    use_tcp: bool = False

    def candidates(self, name: str) -> list[str]:
        """Return the full names to ask for, in order, when a user says ``name``."""
        if name.endswith("."):
            return [name.rstrip(".")]
        searched = [f"{name}.{domain}" for domain in self.search]
        return [name, *searched] if name.count(".") >= self.ndots else [*searched, name]


def parse(text: str) -> ResolvConf:
    """Read the text of a resolv.conf, ignoring anything that cannot be understood, as glibc does.

    A keyword stands at the very beginning of its line, and blanks are spaces and tabs.
    """
    nameservers: list[str] = []
    search: tuple[str, ...] = ()
    options: dict[str, str] = {}
    for line in _lines(text):
        keyword, *words = [word for word in line.replace("\t", " ").split(" ") if word] or [""]
        if not line.startswith(keyword):
            continue
        if keyword == "nameserver" and words and is_address(words[0]):
            nameservers.append(words[0])
        elif keyword in ("search", "domain") and words:  # of several, the last one counts
            found = (word.strip(".") for word in (words if keyword == "search" else words[:1]))
            search = tuple(word for word in found if word)
        elif keyword == "options":
            options |= {name: value for name, _, value in (word.partition(":") for word in words)}
    default = ResolvConf()
    return ResolvConf(
        nameservers=tuple(nameservers[:MAX_NAMESERVERS]) or default.nameservers,
        search=search,
        ndots=_number(options, "ndots", default.ndots, 0, MAX_NDOTS),
        timeout=_number(options, "timeout", default.timeout, 1, MAX_TIMEOUT),
        attempts=_number(options, "attempts", default.attempts, 1, MAX_ATTEMPTS),
        use_tcp="use-vc" in options,
    )


def _number(options: dict[str, str], name: str, default: int, low: int, high: int) -> int:
    text = options.get(name, "")
    return min(max(int(text), low), high) if text.isascii() and text.isdecimal() else default


def hosts(text: str, name: str) -> list[str]:
    """Return the addresses that the text of an /etc/hosts gives to ``name``, in its order."""
    wanted = name.rstrip(".").lower()
    found = []
    for line in _lines(text):
        address, *names = line.partition("#")[0].translate(BLANKS).strip(" ").split(" ")
        if wanted in (one.lower() for one in names) and is_address(address):
            found.append(address)
    return list(dict.fromkeys(found))


def _lines(text: str) -> list[str]:
    """Return the lines as the C library sees them: each ends at a newline, or earlier at a NUL."""
    return [line.partition("\0")[0] for line in text.split("\n")]


def is_address(text: str) -> bool:
    """Say whether ``text`` is an IPv4 or IPv6 address, with or without a zone (``fe80::1%eth0``)."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
