"""The lines of passwd and group against glibc itself, which reads them from a stream by the same rules."""

from __future__ import annotations

import ctypes
import os

import pytest
from hypothesis import given
from hypothesis import strategies as some

from crunch_sshd.inside import nss_files
from crunch_sshd.inside.nss_files import NO_ID

Entry = tuple[bytes, int, int, bytes, bytes]
PIECES = ["a", "root", "crunch", ":", ":", ":", ":", "\n", "\n", "#", "+", "-", " ", "\t", "\v", "\r", "\0", ",", "0",
          "5", "1000", "-0", "-1", "+7", "4294967294", "4294967295", "4294967296", "18446744073709551615",
          "-18446744073709551615", "18446744073709551616", "0" * 50 + "9", "9" * 5000, "\xb2", "\xff", "\x85",
          "/bin/sh", "a:x:1:2::/:/bin/sh\n", "b:x:3:4\n", "c:x:5\n", "d:x:6:7:g:/d:/bin/sh:more\n"]  # fmt: skip
TEXTS = some.lists(some.sampled_from(PIECES), max_size=40).map("".join)


class _Passwd(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p), ("password", ctypes.c_char_p), ("uid", ctypes.c_uint32), ("gid", ctypes.c_uint32),
        ("gecos", ctypes.c_char_p), ("home", ctypes.c_char_p), ("shell", ctypes.c_char_p),
    )  # fmt: skip


def glibc(text: str) -> list[Entry]:
    """Return what fgetpwent(3) finds; it also gives the lines of NIS, and the id that is none, which do not count."""
    libc = ctypes.CDLL(None)
    libc.fdopen.restype = ctypes.c_void_p
    libc.fgetpwent.restype = ctypes.POINTER(_Passwd)
    descriptor = os.memfd_create("passwd")
    os.write(descriptor, text.encode("latin-1"))
    os.lseek(descriptor, 0, os.SEEK_SET)
    stream = ctypes.c_void_p(libc.fdopen(descriptor, b"r"))
    found = []
    try:
        while entry := libc.fgetpwent(stream):
            one = entry.contents
            if one.name[:1] not in (b"+", b"-") and NO_ID not in (one.uid, one.gid):
                found.append((one.name, one.uid, one.gid, one.home, one.shell))
    finally:
        libc.fclose(stream)
    return found


def ours(text: str) -> list[Entry]:
    found = []
    for name, _, uid, gid, _, home, shell in nss_files.entries(text, 7):
        numbers = nss_files.number(uid), nss_files.number(gid)
        if numbers[0] is not None and numbers[1] is not None:
            words = (one.encode("latin-1") for one in (name, home, shell))
            found.append((next(words), numbers[0], numbers[1], next(words), next(words)))
    return found


@given(TEXTS)
def test_as_glibc(text: str) -> None:
    """Every line that the C library takes counts, with the same fields, and no other."""
    assert ours(text) == glibc(text)


@pytest.mark.parametrize(("field", "expected"), [
    ("0", 0), ("007", 7), (" 5", 5), ("+5", 5), ("-0", 0), ("5 ", None), ("", None), ("-", None), ("+-5", None),
    ("0x5", None), ("\xb2", None), ("\u0663", None), ("4294967294", NO_ID - 1), ("4294967295", None), ("-1", None),
    ("9" * 5000, None), ("0" * 5000 + "5", 5),
])  # fmt: skip
def test_number(field: str, expected: int | None) -> None:
    """An id is what strtoul(3) makes of the whole field."""
    assert nss_files.number(field) == expected


def test_members() -> None:
    """A group's members lose the blanks before them, and nothing else."""
    assert nss_files.members("a, b,,\tc ,d:e") == ("a", "b", "c ", "d:e")
