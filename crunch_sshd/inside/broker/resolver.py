"""Looks names up as the container would: its /etc/hosts, then the name servers of its /etc/resolv.conf.

Owns the conversation with the servers. The C library's own resolver is unusable here: it would load its modules
(nsswitch.conf(5)) from the container's files, and code from those is not to be trusted.
"""

from __future__ import annotations

import os
import select
import socket
import time
from contextlib import ExitStack
from typing import NamedTuple

from crunch_sshd.inside import files
from crunch_sshd.inside.broker import dns, resolv_conf
from crunch_sshd.inside.broker.resolv_conf import ResolvConf

PORT = 53
LATE = 1.0
"""Seconds that the second family's answer may lag behind the first's; some servers never answer for AAAA."""
UNKNOWN = "Name or service not known"
NO_ADDRESS = "No address associated with hostname"
TRY_AGAIN = "Temporary failure in name resolution"
"""The words of gai_strerror(3), which users know from ssh."""


class LookupFailed(Exception):
    """A name has no address; the text is one of the sentences above."""


def resolve(host: str) -> list[str]:
    """Return the addresses of ``host`` (a name or an address), the best to try first."""
    literal = _literal(host)
    if literal:
        return [literal]
    name = host.rstrip(".").lower()
    found = resolv_conf.hosts(_read("/etc/hosts"), host)
    if not found and (name == "localhost" or name.endswith(".localhost")):
        found = ["::1", "127.0.0.1"]  # RFC 6761 §6.3: do not ask a server
    return _ordered(found or _ask(host, resolv_conf.parse(_read("/etc/resolv.conf"))))


def _literal(host: str) -> str:
    """Return ``host`` as an address, "" when it is a name; ``127.1`` is an address too (inet_aton(3))."""
    if resolv_conf.is_address(host):
        return host
    if host[:1].isdecimal() and not set(host) - set("0123456789abcdefxABCDEFX."):
        try:
            return socket.inet_ntoa(socket.inet_aton(host))
        except OSError:
            return ""
    return ""


def family(address: str) -> socket.AddressFamily:
    """Return AF_INET6 or AF_INET."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def endpoint(address: str, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
    """Return an address in the form for the socket calls, so that none of them looks up a name."""
    if ":" not in address:
        return address, port
    number, _, zone = address.partition("%")
    scope = int(zone) if zone.isdecimal() else socket.if_nametoindex(zone) if zone else 0
    return number, port, 0, scope


def _read(path: str) -> str:
    return files.read(path).decode("utf-8", "replace")


def _ordered(addresses: list[str]) -> list[str]:
    """Return those with a route first and IPv6 before IPv4 (RFC 6724 §6, rules 1 and 6), the families in turn."""
    routed = {address: _has_route(address) for address in addresses}
    by_family: dict[bool, list[str]] = {True: [], False: []}
    for address in sorted(addresses, key=lambda one: not routed[one]):
        by_family[":" in address].append(address)
    turns = [
        (index, not is_ipv6, address)
        for is_ipv6, members in by_family.items()
        for index, address in enumerate(members)
    ]
    return [address for *_, address in sorted(turns, key=lambda turn: (not routed[turn[2]], *turn[:2]))]


def _has_route(address: str) -> bool:
    try:
        with socket.socket(family(address), socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
            probe.connect(endpoint(address, PORT))  # sends nothing
    except OSError:
        return False
    return True


def _ask(host: str, conf: ResolvConf) -> list[str]:
    reason = UNKNOWN
    for name in conf.candidates(host):
        try:
            found, exists = _ask_servers(name, conf)
        except ValueError:
            continue  # too long with this domain, or not a name at all
        except TimeoutError:
            reason = TRY_AGAIN
            continue
        if found:
            return found
        if exists and reason == UNKNOWN:
            reason = NO_ADDRESS
    raise LookupFailed(reason)


def _ask_servers(name: str, conf: ResolvConf) -> tuple[list[str], bool]:
    """Return a name's addresses and whether it exists; TimeoutError when no server gave a usable answer."""
    for _ in range(conf.attempts):
        for server in conf.nameservers:
            answers = _Questions(server, name, conf).run()
            if any(answer.code == dns.NAME_ERROR for answer in answers):
                return [], False
            good = [answer for answer in answers if answer.code == dns.NO_ERROR]
            if good:
                return [address for answer in good for address in answer.addresses], True
    raise TimeoutError


class _Query(NamedTuple):
    kind: int
    identifier: int
    sock: socket.socket


class _Questions:
    """The questions for both families, put to one server at the same time."""

    def __init__(self, server: str, name: str, conf: ResolvConf) -> None:
        self._server = server
        self._name = name
        self._conf = conf
        self._deadline = time.monotonic() + conf.timeout
        self._answers: list[dns.Answer] = []

    def run(self) -> list[dns.Answer]:
        """Return the answers that came in time; ValueError when the name cannot be asked for."""
        if self._conf.use_tcp:
            for kind in (dns.A, dns.AAAA):
                self._ask_tcp(kind)
            return self._answers
        with ExitStack() as stack:
            poll = select.poll()
            waiting = {query.sock.fileno(): query for kind in (dns.A, dns.AAAA) if (query := self._send(stack, kind))}
            for descriptor in waiting:
                poll.register(descriptor, select.POLLIN)
            while waiting and (left := self._deadline - time.monotonic()) > 0:
                for descriptor, _ in poll.poll(left * 1000):
                    if self._receive(waiting[descriptor]):
                        poll.unregister(descriptor)
                        del waiting[descriptor]
                        self._deadline = min(self._deadline, time.monotonic() + LATE)
        return self._answers

    def _send(self, stack: ExitStack, kind: int) -> _Query | None:
        # A socket for each question: the socket's port is one more number that a forger would have to guess (RFC 5452).
        identifier = int.from_bytes(os.urandom(2), "big")
        message = dns.question(identifier, self._name, kind)
        sock = stack.enter_context(socket.socket(family(self._server), socket.SOCK_DGRAM | socket.SOCK_CLOEXEC))
        sock.setblocking(False)
        try:
            sock.connect(endpoint(self._server, PORT))
            sock.send(message)
        except OSError:
            return None  # no route to this server, or it refused the other question already
        return _Query(kind, identifier, sock)

    def _receive(self, query: _Query) -> bool:
        """Take one datagram; False when it was not the answer."""
        try:
            answer = dns.parse(query.sock.recv(65535), query.identifier, self._name, query.kind)
        except BlockingIOError:
            return False
        except OSError:
            return True  # refused: nothing listens there
        except ValueError:
            return False  # not from a server worth listening to; the true answer may still come
        if answer is None:
            return False
        if answer.truncated:
            self._ask_tcp(query.kind)
        else:
            self._answers.append(answer)
        return True

    def _ask_tcp(self, kind: int) -> None:
        identifier = int.from_bytes(os.urandom(2), "big")
        message = dns.question(identifier, self._name, kind)
        deadline = time.monotonic() + self._conf.timeout
        try:
            with socket.socket(family(self._server), socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
                sock.settimeout(self._conf.timeout)
                sock.connect(endpoint(self._server, PORT))
                sock.sendall(len(message).to_bytes(2, "big") + message)
                size = int.from_bytes(_exactly(sock, 2, deadline), "big")
                answer = dns.parse(_exactly(sock, size, deadline), identifier, self._name, kind)
        except (OSError, ValueError):
            return  # as good as no answer: the next server is asked
        if answer is not None and not answer.truncated:
            self._answers.append(answer)


def _exactly(sock: socket.socket, size: int, deadline: float) -> bytes:
    data = b""
    while len(data) < size:
        sock.settimeout(max(deadline - time.monotonic(), 0.001))
        piece = sock.recv(size - len(data))
        if not piece:
            raise ConnectionError("the name server closed the connection")
        data += piece
    return data
