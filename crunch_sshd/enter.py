"""Entering a container: what a fresh, single-threaded process does to be a user inside it, and how one is started.

Owns the order in which privileges are given up. The gateway's side (:func:`start`) opens the namespaces and the root
and passes them on as descriptors; the child's side (:func:`enter`) joins them, and from then on can import nothing: the
files at its old paths are the container's now, and not to be trusted with code.

Every file transfer waits for such a child, so it starts fast: without ``site``, and with no import here that is not
needed (``dataclasses``, ``json`` and ``typing`` alone would double its start-up of some 20 ms).
"""

from __future__ import annotations

import ctypes
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence
    from typing import Any

    from crunch_sshd.host_container import HostContainer
    from crunch_sshd.runtimes import Account

PACKAGES = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
"""Where the child finds this package: it runs without ``site``, which knows of installed ones."""
BOOTSTRAP = (
    "import sys; sys.path.append(sys.argv.pop(1)); name = sys.argv.pop(1); "
    "sys.exit(__import__(name, fromlist=['main']).main())"
)
"""What the child runs. The packages come last on its path, so that nothing installed there hides the library."""

NAMESPACES = {"user": 0x10000000, "net": 0x40000000, "ipc": 0x08000000, "uts": 0x04000000, "mnt": 0x00020000}
"""The clone(2) flags for setns(2), in the order of entering: the user namespace gives the right to the others."""
PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
LAST_CAPABILITY = 63
"""Numbers above the kernel's last capability are refused with EINVAL, which is no failure."""
CAPABILITY_VERSION = 0x20080522
"""_LINUX_CAPABILITY_VERSION_3 of capset(2)."""


class Ticket:
    """What a child needs to enter: the namespaces' descriptors, the root's, and who to be; capabilities are root's."""

    def __init__(
        self, namespaces: dict[str, int], root: int, uid: int, gid: int, groups: Sequence[int], capabilities: int
    ) -> None:
        self.namespaces = namespaces
        self.root = root
        self.uid = uid
        self.gid = gid
        self.groups = groups
        self.capabilities = capabilities

    def encode(self) -> str:
        """Return the ticket as one word."""
        namespaces = ",".join(f"{kind}={descriptor}" for kind, descriptor in self.namespaces.items())
        groups = ",".join(map(str, self.groups))
        return f"{namespaces}:{self.root}:{self.uid}:{self.gid}:{groups}:{self.capabilities}"

    @classmethod
    def decode(cls, text: str) -> Ticket:
        """Return the ticket that :meth:`encode` made ``text`` of."""
        names, root, uid, gid, groups, capabilities = text.split(":")
        pairs = (pair.split("=") for pair in names.split(",") if pair)
        namespaces = {kind: int(descriptor) for kind, descriptor in pairs}
        return cls(namespaces, int(root), int(uid), int(gid), [int(one) for one in groups.split(",") if one],
                   int(capabilities))  # fmt: skip


def start(
    container: HostContainer,
    account: Account,
    module: str,
    arguments: Sequence[str] = (),
    pass_fds: Sequence[int] = (),
    **popen: Any,
) -> subprocess.Popen[bytes]:
    """Start ``module.main()`` in a fresh process that can enter ``container`` as ``account``.

    There ``sys.argv[1:]`` is the ticket, for :func:`enter`, and ``arguments``; the module may import the standard
    library and this package's own modules, no installed ones. ``popen`` goes to :class:`subprocess.Popen`.
    """
    import subprocess  # the child, which imports this module too, needs none

    namespaces = container.open_namespaces(list(NAMESPACES))
    root = container.open_root()
    capabilities = container.bounding_capabilities() if account.uid == 0 else 0
    # Once a user namespace is entered, its creator may have forbidden to change groups: they are taken on before.
    groups = container.groups_outside(account.groups) if "user" in namespaces else account.groups
    ticket = Ticket(namespaces, root, account.uid, account.gid, groups, capabilities)
    descriptors = [root, *namespaces.values()]
    try:
        return subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-I", "-S", "-c", BOOTSTRAP, PACKAGES, module, ticket.encode(), *arguments],
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
    ticket = Ticket.decode(text)
    libc = ctypes.CDLL(None, use_errno=True)
    os.setgroups(list(ticket.groups))
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
    os.setresgid(ticket.gid, ticket.gid, ticket.gid)
    os.setresuid(ticket.uid, ticket.uid, ticket.uid)
    # For others than root that has dropped all of them already, but not in a user namespace without a root.
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
