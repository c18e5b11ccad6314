"""Compiling seccomp profiles to the kernel's filters, by libseccomp, as the OCI runtimes do.

Owns the calls to the library and the vocabulary of the OCI runtime-spec's ``linux.seccomp``. The library's Python
binding is not on PyPI, and only a few functions are needed, so they are called directly.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import json
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from arv_ssh.errors import Unavailable

LIBRARY = "libseccomp.so.2"
ACTIONS = {
    "KILL": 0x00000000, "KILL_THREAD": 0x00000000, "KILL_PROCESS": 0x80000000, "TRAP": 0x00030000,
    "ERRNO": 0x00050000, "TRACE": 0x7FF00000, "LOG": 0x7FFC0000, "ALLOW": 0x7FFF0000,
}  # fmt: skip
"""SCMP_ACT_… of seccomp.h. NOTIFY is missing: the agent that it asks is the engine's."""
WITH_NUMBER = ("ERRNO", "TRACE")
"""The actions that carry a number in their lower half."""
OPERATORS = ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")
"""SCMP_CMP_… of seccomp.h, from 1 on."""
FLAGS = {"LOG": 1 << 1, "SPEC_ALLOW": 1 << 2}
"""SECCOMP_FILTER_FLAG_… of seccomp(2) that matter to a process with one thread."""
UNKNOWN = -1
"""__NR_SCMP_ERROR: this library does not know the call's name, and neither does the kernel it was made for."""
OPTIMIZE, BINARY_TREE = 8, 2
"""SCMP_FLTATR_CTL_OPTIMIZE (seccomp_attr_set(3)), as runc sets it from 1.2 on: the kernel runs a filter for each system
call there is before a process gets it, and a list of all takes 0.7 ms more than a tree."""
LENIENT = ("ALLOW", "LOG", "TRACE")
"""Default actions that let calls pass, including calls newer than the profile."""
MACHINES = {
    "x86_64": 0xC000003E, "aarch64": 0xC00000B7, "riscv64": 0xC00000F3, "loongarch64": 0xC0000102,
    "ppc64le": 0xC0000015, "s390x": 0x80000016,
}  # fmt: skip
"""AUDIT_ARCH_… of linux/audit.h: how a filter sees the processor."""
X32 = 0x40000000
"""The numbers from here on are x86_64's calls with 32-bit pointers."""
LOAD, EQUAL, GREATER, AT_LEAST, RETURN = 0x20, 0x15, 0x25, 0x35, 0x06
"""BPF_LD|W|ABS, BPF_JMP|JEQ|K, |JGT, |JGE and BPF_RET|K (linux/bpf_common.h)."""
NUMBER, MACHINE = 0, 4
"""Their offsets in struct seccomp_data."""


@dataclass(frozen=True)
class Filter:
    """A compiled filter: BPF instructions (struct sock_filter), and the flags to load it with."""

    program: bytes
    flags: int


class _Condition(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = (
        ("index", ctypes.c_uint), ("operator", ctypes.c_int), ("first", ctypes.c_uint64), ("second", ctypes.c_uint64)
    )  # fmt: skip


def compiled(profile: dict[str, Any]) -> Filter:
    """Return the filter of a profile (OCI runtime-spec, config-linux.md "seccomp").

    Raises :class:`Unavailable` without libseccomp, or when the profile holds what cannot be put on another process.
    """
    return _compiled(json.dumps(profile, sort_keys=True))


@functools.lru_cache(maxsize=16)
def _compiled(text: str) -> Filter:
    profile = json.loads(text)
    library = _library()
    default = _action(profile["defaultAction"], profile.get("defaultErrnoRet"))
    with _context(library, default) as context:
        # Before 2.5 the library does not know the attribute, and makes the slower list.
        library.seccomp_attr_set(context, OPTIMIZE, ctypes.c_uint32(BINARY_TREE))
        for name in profile.get("architectures") or ():
            token = library.seccomp_arch_resolve_name(name.removeprefix("SCMP_ARCH_").lower().encode())
            if token and (result := library.seccomp_arch_add(context, token)) not in (0, -errno.EEXIST):
                raise _failed(f"the architecture {name}", result)
        for rule in profile.get("syscalls") or ():
            _add(library, context, rule, default)
        program = _newer_calls(library, profile) + _program(library, context)
        return Filter(program, sum(FLAGS.get(_word(one), 0) for one in profile.get("flags") or ()))


def _newer_calls(library: ctypes.CDLL, profile: dict[str, Any]) -> bytes:
    """Return instructions that answer ENOSYS to calls newer than the newest in the profile, as runc does.

    Calls that the profile's authors could not know of act as if the kernel did not know them either. With the
    default's EPERM instead, the C library would not fall back: no thread could start under a profile older than
    ``clone3``.
    """
    machine = MACHINES.get(os.uname().machine)
    names = {name for rule in profile.get("syscalls") or () for name in rule["names"]}
    newest = max((library.seccomp_syscall_resolve_name(name.encode()) for name in names), default=UNKNOWN)
    if machine is None or newest < 0 or _word(profile["defaultAction"]) in LENIENT:
        return b""
    return b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in (
            (LOAD, 0, 0, MACHINE),
            (EQUAL, 0, 4, machine),
            (LOAD, 0, 0, NUMBER),
            (AT_LEAST, 2, 0, X32),
            (GREATER, 0, 1, newest),
            (RETURN, 0, 0, ACTIONS["ERRNO"] | errno.ENOSYS),
        )
    )


def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise Unavailable(f"{LIBRARY} is missing here, which compiles seccomp filters; install libseccomp2") from error
    library.seccomp_init.restype = ctypes.c_void_p
    return library


@contextmanager
def _context(library: ctypes.CDLL, default: int) -> Iterator[ctypes.c_void_p]:
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(default)))
    if not context:
        raise Unavailable("libseccomp refused the profile's default action")
    try:
        yield context
    finally:
        library.seccomp_release(context)


def _add(library: ctypes.CDLL, context: ctypes.c_void_p, rule: dict[str, Any], default: int) -> None:
    action = _action(rule["action"], rule.get("errnoRet"))
    if action == default:
        return  # libseccomp refuses rules that change nothing
    for name in rule["names"]:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number == UNKNOWN:
            continue
        for conditions in _alternatives(rule.get("args") or ()):
            array = (_Condition * len(conditions))(*conditions)
            result = library.seccomp_rule_add_array(
                context, ctypes.c_uint32(action), ctypes.c_int(number), ctypes.c_uint(len(conditions)), array
            )
            if result not in (0, -errno.EEXIST):
                raise _failed(f"the rule for {name}", result)


def _alternatives(args: Any) -> list[list[_Condition]]:
    """Return the conditions of each rule to add: all at once, or one by one where two concern the same argument."""
    conditions = [
        _Condition(one["index"], OPERATORS.index(_word(one["op"])) + 1, one["value"], one.get("valueTwo", 0))
        for one in args
    ]
    if len({one.index for one in conditions}) == len(conditions):
        return [conditions]
    return [[one] for one in conditions]


def _action(name: str, number: int | None) -> int:
    word = _word(name)
    if word not in ACTIONS:
        raise Unavailable(f"the container's seccomp profile has the action {name}, which only its engine can serve")
    low = (errno.EPERM if number is None else number) if word in WITH_NUMBER else 0
    return ACTIONS[word] | low & 0xFFFF


def _word(name: str) -> str:
    """Return a name without the prefix that the specification gives it."""
    for prefix in ("SCMP_ACT_", "SCMP_CMP_", "SECCOMP_FILTER_FLAG_"):
        name = name.removeprefix(prefix)
    return name


def _program(library: ctypes.CDLL, context: ctypes.c_void_p) -> bytes:
    descriptor = os.memfd_create("filter", os.MFD_CLOEXEC)
    with open(descriptor, "rb") as file:
        if result := library.seccomp_export_bpf(context, descriptor):
            raise _failed("the filter", result)
        file.seek(0)
        return file.read()


def _failed(what: str, result: int) -> Unavailable:
    return Unavailable(f"libseccomp cannot compile {what}: {os.strerror(-result)}")
