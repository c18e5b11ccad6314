"""Looking names up, with a name server of the test's own on this machine."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest

from crunch_sshd.inside.broker import dns, resolver
from crunch_sshd.inside.broker.resolver import LookupFailed
from tests.timing import DEADLINE

Answer = Callable[[str, int, bool], list[bytes] | int | None]
"""From name, type and "over TCP" to the addresses, a response code, or None for no answer at all; -1: too long."""


class NameServer:
    """Answers on one port of 127.0.0.1, by datagram and by stream, as the test says; notes what it was asked."""

    def __init__(self) -> None:
        self.answer: Answer = lambda name, kind, tcp: dns.NAME_ERROR
        self.asked: list[tuple[str, int, bool]] = []
        self._stream = socket.create_server(("127.0.0.1", 0))
        self.port = self._stream.getsockname()[1]
        self._datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._datagrams.bind(("127.0.0.1", self.port))
        self._threads = [threading.Thread(target=work) for work in (self._serve_datagrams, self._serve_streams)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"", ("127.0.0.1", self.port))
        self._stream.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(DEADLINE)
        self._stream.close()
        self._datagrams.close()

    def _serve_datagrams(self) -> None:
        while True:
            query, peer = self._datagrams.recvfrom(4096)
            if not query:
                return
            if reply := self._reply(query, False):
                self._datagrams.sendto(b"noise", peer)
                self._datagrams.sendto(reply, peer)

    def _serve_streams(self) -> None:
        while True:
            try:
                connection, _ = self._stream.accept()
            except OSError:
                return
            with connection:
                size = int.from_bytes(connection.recv(2), "big")
                reply = self._reply(connection.recv(size), True)
                if reply:
                    connection.sendall(len(reply).to_bytes(2, "big") + reply[:1])
                    connection.sendall(reply[1:])

    def _reply(self, query: bytes, tcp: bool) -> bytes | None:
        kind = struct.unpack(">H", query[-4:-2])[0]
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode())
            at += 1 + query[at]
        name = ".".join(labels)
        self.asked.append((name, kind, tcp))
        found = self.answer(name, kind, tcp)
        if found is None:
            return None
        flags = 0x8180 | (found if isinstance(found, int) and found >= 0 else 0) | (dns.TRUNCATED if found == -1 else 0)
        records = found if isinstance(found, list) else []
        body = b"".join(b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 1, len(data)) + data for data in records)
        return query[:2] + struct.pack(">HHHHH", flags, 1, len(records), 0, 0) + query[12:] + body


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    """A name server, which a resolv.conf of the test's own names."""
    one = NameServer()
    files(monkeypatch, "nameserver 127.0.0.1\nsearch a.example b.example\noptions timeout:1 attempts:1\n")
    monkeypatch.setattr(resolver, "PORT", one.port)
    yield one
    one.close()


def files(monkeypatch: pytest.MonkeyPatch, resolv_conf: str, hosts: str = "") -> None:
    monkeypatch.setattr(resolver, "_read", lambda path: hosts if path == "/etc/hosts" else resolv_conf)


def test_addresses_are_not_asked_for(server: NameServer) -> None:
    """An address is itself, in the forms that the C library knows too."""
    assert resolver.resolve("192.0.2.1") == ["192.0.2.1"]
    assert resolver.resolve("::1") == ["::1"]
    assert resolver.resolve("127.1") == ["127.0.0.1"]
    assert resolver.resolve("0x7f000001") == ["127.0.0.1"]
    assert server.asked == []


def test_hosts_come_first(server: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What /etc/hosts knows is not asked for, and localhost never is."""
    files(monkeypatch, "nameserver 127.0.0.1\n", "127.0.0.5 db\n")
    assert resolver.resolve("db") == ["127.0.0.5"]
    assert sorted(resolver.resolve("localhost")) == ["127.0.0.1", "::1"]
    assert "127.0.0.1" in resolver.resolve("x.localhost.")
    assert server.asked == []


def test_search_domains(server: NameServer) -> None:
    """The domains are tried in order until one has an address; both families are asked for."""
    server.answer = lambda name, kind, tcp: (
        ([b"\x7f\0\0\x07"] if kind == dns.A else []) if name == "db.b.example" else dns.NAME_ERROR
    )
    assert resolver.resolve("db") == ["127.0.0.7"]
    assert {(name, kind) for name, kind, _ in server.asked} >= {("db.a.example", dns.A), ("db.b.example", dns.AAAA)}


def test_both_families(server: NameServer) -> None:
    """Addresses of both families are found."""
    server.answer = lambda name, kind, tcp: [b"\x7f\0\0\x07"] if kind == dns.A else [bytes(15) + b"\1"]
    assert sorted(resolver.resolve("db.example")) == ["127.0.0.7", "::1"]


def test_truncated_answer(server: NameServer) -> None:
    """An answer that did not fit is asked for again over TCP."""
    server.answer = lambda name, kind, tcp: -1 if not tcp else [b"\x7f\0\0\x07"] if kind == dns.A else []
    assert resolver.resolve("db.example") == ["127.0.0.7"]
    assert ("db.example", dns.A, True) in server.asked


def test_only_tcp(server: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The option use-vc asks over TCP alone."""
    files(monkeypatch, "nameserver 127.0.0.1\noptions use-vc\n")
    server.answer = lambda name, kind, tcp: [b"\x7f\0\0\x07"] if kind == dns.A else []
    assert resolver.resolve("db.example") == ["127.0.0.7"]
    assert all(tcp for _, _, tcp in server.asked)


def test_server_that_never_answers_for_ipv6(server: NameServer) -> None:
    """One family's answer is enough when the other's does not come."""
    server.answer = lambda name, kind, tcp: [b"\x7f\0\0\x07"] if kind == dns.A else None
    assert resolver.resolve("db.example") == ["127.0.0.7"]


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (dns.NAME_ERROR, "Name or service not known"),
        ([], "No address associated with hostname"),
        (2, "Temporary failure in name resolution"),
        (None, "Temporary failure in name resolution"),
    ],
)
def test_failures(server: NameServer, answer: list[bytes] | int | None, sentence: str) -> None:
    """No such name, no address, a failing server and a silent one are told apart, in the C library's words."""
    server.answer = lambda name, kind, tcp: answer
    with pytest.raises(LookupFailed, match=sentence):
        resolver.resolve("db.example.")


def test_no_server_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port where no server is refuses at once."""
    files(monkeypatch, "nameserver 127.0.0.1\n")
    monkeypatch.setattr(resolver, "PORT", 1)
    with pytest.raises(LookupFailed, match="Temporary failure"):
        resolver.resolve("db.example.")


def test_what_is_no_name(server: NameServer) -> None:
    """What can be no name is never asked for."""
    for name in ("", "a..b", "bücher", "x" * 300):
        with pytest.raises(LookupFailed, match="not known"):
            resolver.resolve(name)
    assert server.asked == []
