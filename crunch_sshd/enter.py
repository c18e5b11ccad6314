"""Entering a container: what a fresh, single-threaded process does to be a user inside it, and how one is started.

Owns the order in which privileges are given up. The gateway's side (:func:`start`) opens the namespaces and the root
and passes them on as descriptors; the child's side (:func:`enter`) joins them, and from then on can import nothing: the
files at its old paths are the container's now, and not to be trusted with code.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from crunch_sshd.host_container import HostContainer
from crunch_sshd.runtimes import Account

NAMESPACES = {"user": 0x10000000, "net": 0x40000000, "ipc": 0x08000000, "uts": 0x04000000, "mnt": 0x00020000}
"""The clone(2) flags for setns(2), in the order of entering: the user namespace gives the right to the others."""
PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
LAST_CAPABILITY = 63
"""Numbers above the kernel's last capability are refused with EINVAL, which is no failure."""
CAPABILITY_VERSION = 0x20080522
"""_LINUX_CAPABILITY_VERSION_3 of capset(2)."""


@dataclass(frozen=True)
class Ticket:
    """What a child needs to enter: the namespaces' descriptors, the root's, and who to be; capabilities are root's."""

    namespaces: dict[str, int]
    root: int
    uid: int
    gid: int
    groups: Sequence[int]
    capabilities: int


def start(
    container: HostContainer,
    account: Account,
    module: str,
    arguments: Sequence[str] = (),
    pass_fds: Sequence[int] = (),
    **popen: Any,
) -> subprocess.Popen[bytes]:
    """Start ``python -m module TICKET ARGUMENTS…`` as a fresh process that can enter ``container`` as ``account``.

    ``popen`` goes to :class:`subprocess.Popen` (stdin, stdout, …). The child calls :func:`enter` with its argument 1.
    """
    namespaces = container.open_namespaces(list(NAMESPACES))
    root = container.open_root()
    capabilities = container.bounding_capabilities() if account.uid == 0 else 0
    ticket = Ticket(namespaces, root, account.uid, account.gid, account.groups, capabilities)
    descriptors = [root, *namespaces.values()]
    try:
        return subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-I", "-m", module, json.dumps(ticket.__dict__), *arguments],
            pass_fds=[*descriptors, *pass_fds],
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
            **popen,
        )
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def enter(text: str) -> None:
    """Enter the container that the ticket ``text`` names, and be its user with nothing beyond. Single thread only.

    Everything that will be used must be imported before. Raises OSError when the kernel refuses.
    """
    ticket = Ticket(**json.loads(text))
    libc = ctypes.CDLL(None, use_errno=True)
    for kind, flag in NAMESPACES.items():
        if kind in ticket.namespaces:
            _check(libc.setns(ticket.namespaces[kind], flag), f"enter the {kind} namespace")
    os.fchdir(ticket.root)
    os.chroot(".")
    os.chdir("/")
    for descriptor in (ticket.root, *ticket.namespaces.values()):
        os.close(descriptor)
    _become(libc, ticket)
    sys.path.clear()
    sys.meta_path.clear()
    sys.path_hooks.clear()


def _become(libc: ctypes.CDLL, ticket: Ticket) -> None:
    for number in range(LAST_CAPABILITY + 1):
        if not ticket.capabilities >> number & 1:
            libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)
    os.setgroups(list(ticket.groups))
    os.setresgid(ticket.gid, ticket.gid, ticket.gid)
    os.setresuid(ticket.uid, ticket.uid, ticket.uid)  # for others than root this drops every capability
    if ticket.uid == 0:
        _set_capabilities(libc, ticket.capabilities)
    _check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "give up gaining privileges")
    _check(libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "hide from debuggers")


def _set_capabilities(libc: ctypes.CDLL, mask: int) -> None:
    low, high = mask & 0xFFFFFFFF, mask >> 32
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    data = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)  # effective, permitted, inheritable; twice 32 bits
    _check(libc.capset(ctypes.byref(header), ctypes.byref(data)), "limit the capabilities")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot {what}: {os.strerror(number)}")

