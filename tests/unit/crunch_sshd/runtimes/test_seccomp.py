"""Seccomp profiles: what is compiled, and what is refused. (Behaviour: tests/conformance/test_walls.py.)"""

from __future__ import annotations

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


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without libseccomp, a sentence says what to install."""
    monkeypatch.setattr(seccomp, "LIBRARY", "libno-such-thing.so.2")
    with pytest.raises(Unavailable, match="install libseccomp2"):
        seccomp.compiled(profile(names=("write", "pread64")))
