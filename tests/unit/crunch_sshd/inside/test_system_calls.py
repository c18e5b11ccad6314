"""The allow-lists, put on a real process: what its Python can still do if someone else has taken it over."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import crunch_sshd
from crunch_sshd.inside.system_calls import BROKER, FILE_SERVER
from crunch_sshd.runtimes import seccomp
from tests.timing import DEADLINE

PACKAGES = str(Path(crunch_sshd.__file__).parent.parent)
PROLOGUE = f"""
import sys; sys.path.append({PACKAGES!r})
import ctypes, errno, fcntl, mmap, os, signal, socket, threading
from crunch_sshd.inside import linux
victim, program = int(sys.argv[1]), bytes.fromhex(sys.argv[2])
linux.forbid_new_privileges()
linux.filter_system_calls(program, 0)
try:
    result = eval(sys.argv[3])
except OSError as error:
    result = errno.errorcode[error.errno]
os.write(1, repr(result).encode())
"""


def attempt(profile: dict[str, Any], expression: str) -> tuple[str, int | None]:
    """Return what ``expression`` comes to under the profile, and how the process ``victim`` fares."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"]) as victim:
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-S", "-c", PROLOGUE, str(victim.pid), seccomp.compiled(profile).program.hex(),
                 expression],
                capture_output=True, text=True, timeout=DEADLINE,
            )  # fmt: skip
            assert not done.stderr, done.stderr
            return done.stdout, victim.poll()
        finally:
            victim.kill()


FORBIDDEN = {
    "kill": "os.kill(victim, signal.SIGKILL)",
    "tgkill": "signal.pthread_kill(threading.get_ident(), signal.SIGTERM)",
    "a signal by way of a descriptor": "fcntl.fcntl(0, fcntl.F_SETOWN, victim)",
    "which signal that is": "fcntl.fcntl(0, fcntl.F_SETSIG, signal.SIGKILL)",
    "a process": "os.fork()",
    "a program": "os.execv('/bin/true', ['true'])",
    "another user": "os.setuid(1)",
    "a root": "os.chroot('/')",
    "a device file": "os.mknod('/tmp/d', 0o60600, os.makedev(7, 0))",
    "limits": "__import__('resource').setrlimit(7, (1, 1))",
    "a pidfd": "os.pidfd_open(victim)",
    "code": "mmap.mmap(-1, 4096, prot=mmap.PROT_EXEC | mmap.PROT_READ)",
    "a raw socket": "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
    "packets": "socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)",
    "netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM)",
}


@pytest.mark.parametrize("profile", [FILE_SERVER, BROKER], ids=["file server", "broker"])
@pytest.mark.parametrize("expression", FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_forbidden_to_both(profile: dict[str, Any], expression: str) -> None:
    """Neither can start a program, load code, become another user, or reach a process of the host by its pid."""
    assert attempt(profile, expression) == ("'ENOSYS'", None)


@pytest.mark.parametrize("expression", ["socket.socket()", "socket.socketpair()"])
def test_no_socket_for_the_file_server(expression: str) -> None:
    """The file server opens no socket of any kind."""
    assert attempt(FILE_SERVER, expression)[0] == "'ENOSYS'"


ALLOWED = {
    "a file": "os.close(os.open('/', os.O_RDONLY | os.O_CLOEXEC))",
    "flags": "os.set_blocking(0, False)",
    "a copy": "os.close(os.dup(1))",
    "a listing": "len(os.listdir('/')) and None",
}


@pytest.mark.parametrize("profile", [FILE_SERVER, BROKER], ids=["file server", "broker"])
@pytest.mark.parametrize("expression", ALLOWED.values(), ids=ALLOWED.keys())
def test_allowed_to_both(profile: dict[str, Any], expression: str) -> None:
    """What both are there for goes on."""
    assert attempt(profile, expression)[0] == "None"


@pytest.mark.parametrize("expression", ["socket.socket().close()", "threading.Thread(target=int).start()"])
def test_the_broker_has_sockets_and_threads(expression: str) -> None:
    """The broker makes sockets, each in a thread."""
    assert attempt(BROKER, expression)[0] == "None"


def test_what_is_forbidden_seems_missing() -> None:
    """The kernel answers as one that does not have the call, so that the C library takes another way."""
    assert FILE_SERVER["defaultErrnoRet"] == BROKER["defaultErrnoRet"] == errno.ENOSYS
