"""What a container's files say: passwd and group, hosts and resolv.conf; and what name servers answer."""

from __future__ import annotations

import ctypes
import ipaddress
import struct
from typing import Any

from arv_ssh.errors import Forbidden
from crunch_sshd.inside import nss_files
from crunch_sshd.inside.broker import dns, resolv_conf
from crunch_sshd.runtimes import accounts
from tests.fuzz.harness import Choices, Target

_libc = ctypes.CDLL("libc.so.6")
_libc.fmemopen.restype = ctypes.c_void_p
_BUFFER = 1 << 16


class _Passwd(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p), ("password", ctypes.c_char_p), ("uid", ctypes.c_uint32), ("gid", ctypes.c_uint32),
        ("gecos", ctypes.c_char_p), ("home", ctypes.c_char_p), ("shell", ctypes.c_char_p),
    )  # fmt: skip


class _Group(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p), ("password", ctypes.c_char_p), ("gid", ctypes.c_uint32),
        ("members", ctypes.POINTER(ctypes.c_char_p)),
    )  # fmt: skip


def _entries(data: bytes, function: Any, form: type[Any]) -> list[Any]:
    """Return what glibc itself reads of the text, each entry as a tuple."""
    found = list[Any]()
    data += b"\n"  # of a last line without one, glibc's readers take a byte that is not there
    file = ctypes.c_void_p(_libc.fmemopen(data, ctypes.c_size_t(len(data)), b"r"))
    try:
        while True:
            entry, result, buffer = form(), ctypes.c_void_p(), ctypes.create_string_buffer(_BUFFER)
            if function(file, ctypes.byref(entry), buffer, ctypes.c_size_t(_BUFFER), ctypes.byref(result)):
                return found
            found.append(_tuple(entry))
    finally:
        _libc.fclose(file)


def _tuple(entry: Any) -> tuple[Any, ...]:
    if isinstance(entry, _Passwd):
        return entry.name, entry.uid, entry.gid, entry.home
    members: list[bytes] = []
    while entry.members[len(members)] is not None:
        members.append(entry.members[len(members)])
    return entry.name, entry.gid, tuple(members)


def _whole(text: str, colons: int) -> bool:
    """Say whether each line has all its fields: of one that is cut, glibc's two readers differ."""
    return "\0" not in text and all(line.count(":") >= colons for line in text.split("\n") if line)


def passwd(data: bytes) -> None:
    """Who has an entry, and with which numbers, is what glibc's own reader finds; root can always log in."""
    text = data.decode("utf-8", "replace")
    theirs = [
        one for one in _entries(text.encode(), _libc.fgetpwent_r, _Passwd)
        if nss_files.NO_ID not in one[1:3] and not one[0].startswith((b"+", b"-"))
    ]  # fmt: skip
    ours = [(one.name.encode(), one.uid, one.gid, one.home.encode()) for one in accounts._entries(text)]
    assert not _whole(text, 6) or ours == theirs, (ours, theirs)
    assert accounts.find(text, text, "", "c", "root").name == "root"
    accounts.find(text, text, "", "c", "")
    try:
        accounts.find(text, text, "", "c", data[:8].decode("utf-8", "replace"))
    except Forbidden:
        pass


def group(data: bytes) -> None:
    """Which groups there are, with which members, is what glibc's own reader finds."""
    text = data.decode("utf-8", "replace")
    theirs = [
        (name, gid, set(members)) for name, gid, members in _entries(text.encode(), _libc.fgetgrent_r, _Group)
        if gid != nss_files.NO_ID and not name.startswith((b"+", b"-"))
    ]  # fmt: skip
    ours = [(one.name.encode(), one.gid, {m.encode() for m in one.members if m}) for one in accounts._groups(text)]
    assert not _whole(text, 3) or ours == theirs, (ours, theirs)


def dns_answer(data: bytes) -> None:
    """An answer, None or ValueError; an address that was found has the form of its kind."""
    kind = dns.A if len(data) % 2 else dns.AAAA
    for message in (data, dns.question(0x1234, "name.example", kind)[:2] + b"\x81\x80" + data):
        try:
            found = dns.parse(message, 0x1234, "name.example", kind)
        except ValueError:
            continue
        for address in found.addresses if found else ():
            assert ipaddress.ip_address(address).version == (4 if kind == dns.A else 6)


def dns_names(data: bytes) -> None:
    """Addresses that a server gives are found, behind aliases and compression too, and in that order."""
    choices = Choices(data)
    labels = [bytes(97 + one % 26 for one in choices.take(1 + choices.byte() % 62)) for _ in range(choices.byte() % 4)]
    name = b".".join(one for one in labels if one).decode() or "name"
    try:
        question = dns.question(7, name, dns.A)
    except ValueError:
        return
    addresses = [choices.take(4) for _ in range(choices.byte() % 20)]
    addresses = [one for one in addresses if len(one) == 4]
    records = b"".join(b"\xc0\x0c" + struct.pack(">HHIH", dns.A, 1, 60, 4) + one for one in addresses)
    head = struct.pack(">HHHHHH", 7, dns.RESPONSE, 1, len(addresses), 0, 0)
    found = dns.parse(head + question[12:] + records, 7, name, dns.A)
    assert found is not None and [ipaddress.ip_address(one).packed for one in found.addresses] == addresses


def resolver_files(data: bytes) -> None:
    """Nothing is raised; lines end where the C library ends them; options stay within their limits."""
    text = data.decode("utf-8", "replace")
    conf = resolv_conf.parse(text)
    assert 1 <= len(conf.nameservers) <= resolv_conf.MAX_NAMESERVERS
    assert 0 <= conf.ndots <= 15 and 1 <= conf.timeout <= 30 and 1 <= conf.attempts <= 5
    lines = [line.split(None, 1) for line in data.split(b"\n")]
    if not any(words and words[0] == b"nameserver" for words in lines):
        assert conf.nameservers == ("127.0.0.1",)
    for name in ("localhost", text[:8], text[-8:]):
        for address in resolv_conf.hosts(text, name):
            line = next((one for one in text.split("\n") if one.split()[:1] == [address]), None)
            assert line is not None, "an address from within a line"


TARGETS = (
    Target("passwd", passwd.__doc__ or "", passwd),
    Target("group", group.__doc__ or "", group),
    Target("dns-answer", dns_answer.__doc__ or "", dns_answer),
    Target("dns-names", dns_names.__doc__ or "", dns_names),
    Target("resolver-files", resolver_files.__doc__ or "", resolver_files),
)
