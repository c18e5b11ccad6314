"""hosts(5) and resolv.conf(5), as they are found in containers."""

from __future__ import annotations

import pytest

from crunch_sshd.inside.broker import resolv_conf
from crunch_sshd.inside.broker.resolv_conf import ResolvConf


def test_missing_file() -> None:
    """Without a file the name server of the machine itself is asked, as resolv.conf(5) says."""
    assert resolv_conf.parse("") == ResolvConf(nameservers=("127.0.0.1",), search=(), ndots=1, timeout=5, attempts=2)


def test_dockers_file() -> None:
    """Docker's file for a network of one's own is understood whole."""
    text = "# Generated\nnameserver 127.0.0.11\nsearch a.example b.example\noptions ndots:0 timeout:2 attempts:1\n"
    found = resolv_conf.parse(text)
    assert found == ResolvConf(("127.0.0.11",), ("a.example", "b.example"), ndots=0, timeout=2, attempts=1)


def test_oddities() -> None:
    """At most three servers, the last of search and domain, capped options; nonsense is passed over."""
    text = (
        "nameserver 192.0.2.1\nnameserver x\nnameserver fe80::1%eth0\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n"
        "search one.example\n;search no.example\ndomain two.example three.example\nsortlist 1\nnameserver\nsearch\n"
        "options ndots:99 timeout:0 attempts:x use-vc rotate\n\n \n"
    )
    found = resolv_conf.parse(text)
    assert found.nameservers == ("192.0.2.1", "fe80::1%eth0", "192.0.2.3")
    assert found.search == ("two.example",)
    assert (found.ndots, found.timeout, found.attempts, found.use_tcp) == (15, 1, 2, True)


@pytest.mark.parametrize(
    ("name", "ndots", "expected"),
    [
        ("db", 1, ["db.a.example", "db.b.example", "db"]),
        ("db.c", 1, ["db.c", "db.c.a.example", "db.c.b.example"]),
        ("db.c", 2, ["db.c.a.example", "db.c.b.example", "db.c"]),
        ("db", 0, ["db", "db.a.example", "db.b.example"]),
        ("db.", 1, ["db"]),
    ],
)
def test_candidates(name: str, ndots: int, expected: list[str]) -> None:
    """The search domains come before the name itself, or after it when it has dots enough."""
    assert ResolvConf(search=("a.example", "b.example"), ndots=ndots).candidates(name) == expected


HOSTS = """127.0.0.1\tlocalhost
::1 localhost ip6-localhost # a comment db
172.17.0.2 0123456789ab Web.Example web
not-an-address db
10.0.0.9 db
10.0.0.9 db
#10.0.0.10 db
"""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("localhost", ["127.0.0.1", "::1"]),
        ("LOCALHOST.", ["127.0.0.1", "::1"]),
        ("web.example", ["172.17.0.2"]),
        ("db", ["10.0.0.9"]),
        ("nobody", []),
        ("", []),
    ],
)
def test_hosts(name: str, expected: list[str]) -> None:
    """Every line's names count, in any case and without comments, each address once."""
    assert resolv_conf.hosts(HOSTS, name) == expected


def test_lines_as_the_c_library_has_them() -> None:
    """A line ends at a newline or a NUL, and at nothing else; a keyword stands at its beginning."""
    text = "nameserver 192.0.2.1\0nameserver\n nameserver 192.0.2.2\nsearch a\x85b.example\tc.example\n"
    text += "nameserver\t192.0.2.3"
    found = resolv_conf.parse(text)
    assert (found.nameservers, found.search) == (("192.0.2.1", "192.0.2.3"), ("a\x85b.example", "c.example"))
    assert resolv_conf.hosts("10.0.0.1 a\x0bb\x85c\n 10.0.0.2\td\0e\n", "b\x85c") == ["10.0.0.1"]
    assert resolv_conf.hosts(" 10.0.0.2\td\0 e\n", "d") == ["10.0.0.2"]
    assert resolv_conf.hosts(" 10.0.0.2\td\0 e\n", "e") == []
