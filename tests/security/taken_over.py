"""What somebody does who has taken over the Python of a process that the gateway started inside a container.

Runs there in the place of the file server or the broker, with everything that these have: tries each way out, and says
which failed. The victim is a process of root's outside the container.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import signal
import socket
from collections.abc import Callable
from typing import Any

from crunch_sshd.inside import enter

SYS_TGKILL = {"x86_64": 234, "aarch64": 131, "riscv64": 131}
SYS_KILL = {"x86_64": 62, "aarch64": 129, "riscv64": 129}
PTRACE_ATTACH = 16
NEW_USER_NAMESPACE = 0x10000000


def attempts(victim: int, machine: str) -> dict[str, Callable[[], object]]:
    """Return what is tried, by its name; each is refused when it raises OSError or returns -1."""
    libc = ctypes.PyDLL(None, use_errno=True)
    return {
        "fork": os.fork,
        "execute": lambda: os.execv("/bin/true", ["true"]),
        "kill": lambda: libc.syscall(SYS_KILL[machine], victim, signal.SIGKILL),
        "tgkill": lambda: libc.syscall(SYS_TGKILL[machine], victim, victim, signal.SIGKILL),
        "signal by a descriptor": lambda: _own(victim, fcntl.F_SETOWN, victim),
        "trace": lambda: libc.ptrace(PTRACE_ATTACH, victim, None, None),
        "make a device": lambda: os.mknod("/tmp/device", 0o60600, os.makedev(7, 0)),
        "mount": lambda: libc.mount(b"none", b"/mnt", b"tmpfs", 0, None),
        "change the root": lambda: os.chroot("/tmp"),
        "make a namespace": lambda: libc.unshare(NEW_USER_NAMESPACE),
        "be another user": lambda: os.setuid(12345),
        "see the host's processes": lambda: os.listdir(f"/proc/{victim}"),
        "raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1),
        "packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0),
        "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0),
        "socket": lambda: socket.socket().close(),
    }


def _own(victim: int, command: int, argument: int) -> None:
    """Have the kernel send the victim a signal, SIGKILL if may be, when a pipe can be read."""
    reader, writer = os.pipe()
    fcntl.fcntl(reader, command, argument)
    fcntl.fcntl(reader, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(reader, fcntl.F_SETFL, os.O_ASYNC)
    os.write(writer, b"x")
    select.select([reader], [], [])


def main(job: dict[str, Any]) -> int:
    """Enter by the job; try everything against the victim in its argument; print what was refused."""
    (victim,) = job["arguments"]
    tried = attempts(int(victim), os.uname().machine)
    enter.enter(job)
    for name, attempt in tried.items():
        try:
            outcome = "refused" if attempt() == -1 else "done"
        except OSError:
            outcome = "refused"
        print(f"{name}: {outcome}", flush=True)
    return 0
