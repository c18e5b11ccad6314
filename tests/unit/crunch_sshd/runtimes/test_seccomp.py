"""Seccomp profiles: what is compiled, and what is refused. (Behaviour: tests/conformance/test_walls.py.)"""

from __future__ import annotations

import ctypes
import itertools
import struct
from typing import Any

import pytest

from arv_ssh.errors import Unavailable
from crunch_sshd.runtimes import seccomp

ERRNO = {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1}
PROLOGUE = 6 * 8
"""Bytes of the instructions for calls that are newer than a profile."""


def profile(action: str = "SCMP_ACT_ALLOW", names: tuple[str, ...] = ("read",), **more: Any) -> dict[str, Any]:
    return {**ERRNO, "syscalls": [{"names": list(names), "action": action, **more}]}


@pytest.mark.parametrize("action", ["ALLOW", "LOG", "KILL", "KILL_THREAD", "KILL_PROCESS", "TRAP", "TRACE", "ERRNO"])
def test_actions(action: str) -> None:
    """Each action of the specification but NOTIFY can be compiled, as a rule's and as the default."""
    assert seccomp.compiled(profile(f"SCMP_ACT_{action}", errnoRet=5)).program
    assert seccomp.compiled({"defaultAction": f"SCMP_ACT_{action}"}).program


@pytest.mark.parametrize("where", [profile("SCMP_ACT_NOTIFY"), {"defaultAction": "SCMP_ACT_NOTIFY"},
                                   profile("SCMP_ACT_OF_TOMORROW")])  # fmt: skip
def test_refused(where: dict[str, Any]) -> None:
    """An action that only the engine can serve, or that nobody here knows, is refused by its name."""
    with pytest.raises(Unavailable, match="the action SCMP_ACT_"):
        seccomp.compiled(where)


def test_unknown_calls_and_architectures() -> None:
    """What this library cannot know is left out, as runc does; what it knows twice is one rule."""
    wanted = profile(names=("read", "read", "no_such_call"))
    assert seccomp.compiled(wanted | {"architectures": ["SCMP_ARCH_TOMORROW"]}) == seccomp.compiled(profile())


def test_errno_of_the_default() -> None:
    """A rule is one only where its number differs from the default's."""
    same, other = (seccomp.compiled(profile("SCMP_ACT_ERRNO", errnoRet=number)).program for number in (1, 2))
    assert len(same) < len(other)


def test_conditions() -> None:
    """Two conditions on one argument are one or the other; on two arguments, both."""
    one, other = ({"index": 0, "value": value, "op": "SCMP_CMP_EQ"} for value in (1, 2))
    apart = ERRNO | {"syscalls": [*profile(args=[one])["syscalls"], *profile(args=[other])["syscalls"]]}
    assert seccomp.compiled(profile(args=[one, other])) == seccomp.compiled(apart)
    both = [one, {**other, "index": 1}]
    assert seccomp.compiled(profile(args=both)) != seccomp.compiled(profile(args=both[:1]))


def test_flags() -> None:
    """The flags that mean something for one thread are kept, under both spellings."""
    flags = ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]
    assert seccomp.compiled(profile() | {"flags": flags}).flags == 2 | 4
    assert seccomp.compiled(profile()).flags == 0


def test_newer_calls() -> None:
    """A profile that denies what it does not name says ENOSYS to newer calls; one that lets them pass, nothing."""
    strict = seccomp.compiled(profile()).program
    assert seccomp._newer_calls(seccomp._library(), profile()) == strict[:PROLOGUE] != b""
    for lenient in ("ALLOW", "LOG", "TRACE"):
        wanted = profile() | {"defaultAction": f"SCMP_ACT_{lenient}"}
        assert seccomp._newer_calls(seccomp._library(), wanted) == b""


CONDITIONS: tuple[dict[str, Any], ...] = (
    {"index": 0, "value": 0x7E020000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"},
    {"index": 0, "value": 1 << 33 | 7, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 40, "op": "SCMP_CMP_NE"},
    {"index": 2, "value": 1 << 32, "op": "SCMP_CMP_GT"}, {"index": 1, "value": 9, "op": "SCMP_CMP_LE"},
)  # fmt: skip
VALUES = (0, 1, 7, 9, 10, 40, 1 << 32, (1 << 32) + 1, 1 << 33 | 7, 0x7E020000, 2**64 - 1)


def test_a_tree_does_as_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's faster form of a filter gives the same answer to each call, on each architecture."""
    strict = ERRNO | {"architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64"]}
    names = [name for number in range(0, 450, 2) if (name := call_name(number))]
    rules = [{"names": names[5:], "action": "SCMP_ACT_ALLOW"}, *(
        {"names": [name], "action": "SCMP_ACT_ALLOW", "args": [condition]}
        for name, condition in zip(names, CONDITIONS, strict=False)
    )]  # fmt: skip
    tree = instructions(seccomp.compiled(strict | {"syscalls": rules}))
    monkeypatch.setattr(seccomp, "BINARY_TREE", 1)
    seccomp._compiled.cache_clear()
    line = instructions(seccomp.compiled(strict | {"syscalls": rules}))
    seccomp._compiled.cache_clear()
    assert len(tree) > len(line)  # else this library makes lists only
    machines = (*seccomp.MACHINES.values(), 0x40000003, 0)
    numbers = (*range(500), *range(seccomp.X32, seccomp.X32 + 600), 2**32 - 1)
    none: tuple[int, ...] = ()
    calls = [(number, machine, none) for number in numbers for machine in machines]
    calls += [(number, machines[0], values) for number in range(0, 12, 2)
              for values in itertools.product(VALUES, repeat=3)]  # fmt: skip
    assert all(answer(tree, *call) == answer(line, *call) for call in calls)


def call_name(number: int) -> str:
    library = seccomp._library()
    library.seccomp_syscall_resolve_num_arch.restype = ctypes.c_char_p
    return (library.seccomp_syscall_resolve_num_arch(0, number) or b"").decode()


def instructions(compiled: seccomp.Filter) -> list[tuple[int, int, int, int]]:
    return list(struct.iter_unpack("=HBBI", compiled.program))


def answer(program: list[tuple[int, int, int, int]], number: int, machine: int, arguments: tuple[int, ...]) -> int:
    """Return what the kernel would get from a filter (linux/seccomp.h, struct seccomp_data)."""
    data = struct.pack("=IIQ6Q", number, machine, 0, *(*arguments, 0, 0, 0, 0, 0, 0)[:6])
    accumulator = place = 0
    while True:
        code, yes, no, constant = program[place]
        place += 1
        match code:
            case seccomp.LOAD:
                (accumulator,) = struct.unpack_from("=I", data, constant)
            case seccomp.EQUAL:
                place += yes if accumulator == constant else no
            case seccomp.GREATER:
                place += yes if accumulator > constant else no
            case seccomp.AT_LEAST:
                place += yes if accumulator >= constant else no
            case 0x05:  # BPF_JMP|JA
                place += constant
            case 0x54:  # BPF_ALU|AND|K
                accumulator &= constant
            case seccomp.RETURN:
                return constant
            case _:
                raise ValueError(code)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without libseccomp, a sentence says what to install."""
    monkeypatch.setattr(seccomp, "LIBRARY", "libno-such-thing.so.2")
    with pytest.raises(Unavailable, match="install libseccomp2"):
        seccomp.compiled(profile(names=("write", "pread64")))
