"""The runtime ``namespace`` beside processes that no engine knows: as Apptainer starts them, and as it must refuse."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from arv_ssh.config.session_options import INTERNAL_SFTP
from arv_ssh.errors import ConfigError, Forbidden, Unavailable
from crunch_sshd.inside.starter import READY, Starter
from crunch_sshd.runtimes import Command, Terminal, host_processes, program_start
from crunch_sshd.runtimes.namespace import NamespaceRuntime
from crunch_sshd.session import subsystems
from tests.conformance import stopped_child
from tests.conformance.places import NAME, Running
from tests.conformance.test_inside import child
from tests.timing import DEADLINE, wait_for

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="namespaces of others are entered by root only")

SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
AS_USER = ("setpriv", "--reuid=1000", "--regid=1000", "--groups=1000,2000", "--no-new-privs")
APPTAINER = (*AS_USER, "unshare", "--user", "--map-current-user", "--mount", "--ipc", "--pid", "--fork", "--kill-child")
"""What Apptainer without its setuid program does: a user namespace in which the user is the user."""
SETUID_APPTAINER = ("unshare", "--mount", *AS_USER, "--bounding-set=-all")
FAKEROOT = (*AS_USER, "unshare", "--user", "--map-root-user", "--mount")
PROGRAM = ("sh", "-c", "cd /usr/lib; umask 027; ulimit -n 300; echo up; read forever")

Contain = Callable[..., int]


@pytest.fixture
def contain() -> Iterator[Contain]:
    """Start a contained program below a prefix of commands; return its pid."""
    with ExitStack() as stack:

        def start(*prefix: str, program: tuple[str, ...] = PROGRAM) -> int:
            environment = {"PATH": os.environ["PATH"], "WHAT": "contained", "HOME": "/srv"}
            process = stack.enter_context(
                subprocess.Popen(
                    [*prefix, *program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
                    start_new_session=True,
                )
            )  # fmt: skip
            stack.callback(process.kill)
            assert process.stdout
            assert process.stdout.readline() == b"up\n"
            return innermost(process.pid)

        yield start


def innermost(pid: int) -> int:
    """Return the last of a line of only children: ``unshare --fork`` stays above its program."""
    while children := Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split():
        pid = int(children[0])
    return pid


def status(pid: int | str) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def run(runtime: NamespaceRuntime, script: str, terminal: Terminal | None = None) -> bytes:
    command = Command(["/bin/sh", "-c", script], runtime.account(""), {"MORE": "yes"}, terminal)
    result = Running(runtime.start(command)).result()
    assert (result.err, result.status) == (b"", 0)
    return result.out


@pytest.mark.parametrize("prefix", [APPTAINER, SETUID_APPTAINER, FAKEROOT], ids=["apptainer", "setuid", "fakeroot"])
def test_as_the_contained_process(contain: Contain, prefix: tuple[str, ...]) -> None:
    """A session has the contained process's ids, capabilities, no-new-privs, limits, place, umask and environment."""
    pid = contain(*prefix)
    runtime = NamespaceRuntime(pid, NAME)
    command = Command(["/bin/sh", "-c", "echo up; read line"], runtime.account(""), {"MORE": "yes"})
    process = runtime.start(command)
    running = Running(process)
    running.says(b"up")
    own = process._pid  # type: ignore[attr-defined]
    ours, theirs = status(own), status(pid)
    same = ("Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "Umask", "CapBnd", "CapInh", "CapAmb")
    assert {name: ours[name] for name in same} == {name: theirs[name] for name in same}
    for name in SETS:
        assert int(ours[name], 16) & ~int(theirs[name], 16) == 0, f"{name} is more"
    for kind in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup"):
        assert os.readlink(f"/proc/{own}/ns/{kind}") == os.readlink(f"/proc/{pid}/ns/{kind}")
    for name in ("cwd", "root"):
        assert os.readlink(f"/proc/{own}/{name}") == os.readlink(f"/proc/{pid}/{name}")
    for name in ("cgroup", "limits", "oom_score_adj"):
        assert Path(f"/proc/{own}/{name}").read_text() == Path(f"/proc/{pid}/{name}").read_text()
    environment = set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")) | {b"MORE=yes"}
    assert set(Path(f"/proc/{own}/environ").read_bytes().split(b"\0")) == environment
    process.hang_up()
    assert running.result().status == 129


@pytest.mark.parametrize("prefix", [APPTAINER, SETUID_APPTAINER, FAKEROOT], ids=["apptainer", "setuid", "fakeroot"])
def test_sftp(contain: Contain, prefix: tuple[str, ...]) -> None:
    """SFTP is served as the contained user too, and as no more."""
    pid = contain(*prefix)
    runtime = NamespaceRuntime(pid, NAME)
    process = subsystems.start(INTERNAL_SFTP, Command([], runtime.account("")), runtime)
    running = Running(process)
    process.write(bytes.fromhex("000000050100000003"))  # SSH_FXP_INIT, version 3
    running.says(bytes.fromhex("0200000003"))
    ours, theirs = status(process._pid), status(pid)  # type: ignore[attr-defined]
    assert [ours[name] for name in ("Uid", "Gid", "Groups")] == [theirs[name] for name in ("Uid", "Gid", "Groups")]
    for name in SETS:
        assert int(ours[name], 16) & ~int(theirs[name], 16) == 0, f"{name} is more"
    process.close_stdin()
    assert running.result().status == 0


def test_terminal_without_devpts(contain: Contain) -> None:
    """A session has a terminal of its own also where the container has the host's."""
    runtime = NamespaceRuntime(contain(*APPTAINER), NAME)
    out = run(runtime, "test -t 0 && stty size; echo here >/dev/tty", Terminal("xterm", 81, 25))
    assert out == b"25 81\r\nhere\r\n"


def test_hang_up(contain: Contain) -> None:
    """Hanging up ends the session's processes and nobody else's, in a pid namespace that is the host's too."""
    pid = contain(*SETUID_APPTAINER)
    runtime = NamespaceRuntime(pid, NAME)
    command = Command(["/bin/sh", "-c", "sleep 5001 & setsid sleep 5002 & echo $! up; wait"], runtime.account(""))
    running = Running(runtime.start(command))
    running.says(b"up")
    wait_for(lambda: any("sleep 5002" in line and "setsid" not in line for line in ps()), "a session of its own")
    running.process.hang_up()
    assert os.path.exists(f"/proc/{pid}")
    spared = [line.split()[0] for line in ps() if line.endswith("sleep 5002")]
    assert not [line for line in ps() if line.endswith("sleep 5001")]
    assert len(spared) == 1
    os.kill(int(spared[0]), 9)
    assert running.result().status == 129


def ps() -> list[str]:
    return subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout.splitlines()


def test_only_its_own_user(contain: Contain) -> None:
    """The contained user may log in, by number too, and is at home where its environment says; nobody else may."""
    runtime = NamespaceRuntime(contain(*SETUID_APPTAINER), NAME)
    for own in ("", "1000", "1000:1000"):
        account = runtime.account(own)
        assert (account.uid, account.gid, account.groups, account.home) == (1000, 1000, (1000, 2000), "/srv")
    for other in ("root", "0", "1001", "1000:2000", "0:1000"):
        with pytest.raises(Forbidden, match="runs as the user 1000:1000, and only that one can log in"):
            runtime.account(other)


def test_seccomp_is_refused(contain: Contain) -> None:
    """A container under a seccomp filter is refused with that reason."""
    with pytest.raises(ConfigError, match="runs under a seccomp filter, which Linux cannot put on a session too"):
        NamespaceRuntime(contain("setpriv", "--no-new-privs", "python3", "-c", SECCOMP, program=()), NAME)


SECCOMP = """
import ctypes, sys
class Filter(ctypes.Structure):
    _fields_ = [("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint)]
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.POINTER(Filter))]
allow = (Filter * 1)(Filter(0x06, 0, 0, 0x7fff0000))
assert ctypes.CDLL(None).prctl(22, 2, ctypes.byref(Program(1, allow))) == 0
print("up", flush=True)
sys.stdin.read()
"""
"""Puts a filter on itself that allows everything."""


def test_two_users_are_refused(contain: Contain) -> None:
    """A process with the ids of two users at once is not what a session could be."""
    borrowed = "import os, sys; os.setresuid(1000, 0, 0); print('up', flush=True); sys.stdin.read()"
    with pytest.raises(ConfigError, match="ids of two users at once"):
        NamespaceRuntime(contain("python3", "-c", borrowed, program=()), NAME)


def test_no_such_process() -> None:
    """A pid of nobody is refused at once."""
    with pytest.raises(ConfigError, match="there is no process 4194400 here"):
        NamespaceRuntime(4194400, NAME)


def test_ended(contain: Contain) -> None:
    """Once the contained process has ended there is no container to log in to."""
    pid = contain(*SETUID_APPTAINER)
    runtime = NamespaceRuntime(pid, NAME)
    account = runtime.account("")
    os.kill(pid, 9)
    wait_for(lambda: status(pid)["State"].startswith("Z"), "the end", DEADLINE)
    with pytest.raises(Unavailable):
        runtime.start(Command(["/bin/true"], account))


def test_ended_at_once(contain: Contain, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container that ends right after the start leaves no program that nobody waits for."""
    pid = contain(*APPTAINER)
    runtime = NamespaceRuntime(pid, NAME)
    real, pids = program_start.start, []

    def start(*arguments: Any) -> Any:
        started = real(*arguments)
        pids.append(started.pid)
        os.kill(pid, signal.SIGKILL)  # the first of its pid namespace: the kernel kills the others
        wait_for(lambda: not host_processes.is_alive(started.pid), "the program's end")
        monkeypatch.setattr(NamespaceRuntime, "_identity", ended)
        return started

    def ended(self: NamespaceRuntime) -> Any:
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))

    monkeypatch.setattr(program_start, "start", start)
    result = Running(runtime.start(Command(["/bin/sleep", "1000"], runtime.account("")))).result()
    assert (result.status, result.signal) == (128 + signal.SIGKILL, "KILL")
    assert not os.path.exists(f"/proc/{pids[0]}")


def test_nothing_to_overwrite(contain: Contain) -> None:
    """What a container can reach as /proc/PID/exe is a sealed copy, not the host's Python (CVE-2019-5736)."""
    runtime = NamespaceRuntime(contain(*SETUID_APPTAINER), NAME)
    out = run(runtime, "/proc/self/exe -c 'x' 2>/dev/null; echo shell")
    with open(f"/proc/{child(READY)}/exe", "rb") as executable:
        seals = fcntl.fcntl(executable, fcntl.F_GET_SEALS)
    assert seals & fcntl.F_SEAL_WRITE and seals & fcntl.F_SEAL_SEAL
    assert out == b"shell\n"


def test_nothing_more_to_take_over(contain: Contain, tmp_path: Path) -> None:
    """A process that the container's root stops and may trace as soon as it is there has no more than the container."""
    found = tmp_path / "capabilities"
    pid = contain(*OWN_PROCESSES, "python3", "-c", STOPPER, str(found), program=())
    runtime = NamespaceRuntime(pid, NAME)
    for _ in range(TRIES):
        assert run(runtime, "echo on") == b"on\n"
        if found.exists():
            break
    allowed = int(status(pid)["CapBnd"], 16)
    for line in found.read_text().split():  # there: some processes were stopped
        assert int(line, 16) & ~allowed == 0, f"{line} is more than {allowed:x}"


TRIES = 100
OWN_PROCESSES = (
    "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
    "setpriv", "--bounding-set=-all,+sys_ptrace,+kill",
)  # fmt: skip
STOPPER = """
import os, signal, sys
found, last = [], os.fork() or os._exit(0)  # a number near the next
os.waitpid(last, 0)
print("up", flush=True)
while len(found) < 15:
    for pid in range(last + 1, last + 9):
        try:
            os.kill(pid, signal.SIGSTOP)
        except ProcessLookupError:
            continue
        with open(f"/proc/{pid}/status") as file:
            found += [line.split()[1] for line in file if line.startswith(("CapPrm", "CapEff", "CapBnd"))]
        os.kill(pid, signal.SIGCONT)
        last = pid
with open(sys.argv[1] + ".new", "w") as file:
    file.write(" ".join(found))
os.rename(sys.argv[1] + ".new", sys.argv[1])
sys.stdin.read()
"""
"""Stops each process that appears in its pid namespace, and notes what it could do at that moment."""


def test_stopped_before_it_started(contain: Contain, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that somebody inside stops before it starts is given up, and leaves no process."""
    starter = Starter(stopped_child.__name__)
    starter.prepare()
    monkeypatch.setattr(program_start, "START_TIMEOUT", 1.0)
    monkeypatch.setattr(program_start, "starter", starter)
    runtime = NamespaceRuntime(contain(*SETUID_APPTAINER), NAME)
    own = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    before = own.read_text()
    with pytest.raises(Unavailable, match="did not start the program within 1 s"):
        run(runtime, "echo on")
    wait_for(lambda: own.read_text() == before, "the end of what was stopped")
    starter.close()


FORGED = ("", "pid 1\n", "pid x\n", "pid -1\n", "pid 0\n", "failed x y\n", "failed 1\n", "pid")


@pytest.mark.parametrize("report", FORGED)
def test_forged_report(contain: Contain, report: str) -> None:
    """A report with a process that is no child of ours, or that makes no sense, is no start."""
    with pytest.raises(Unavailable, match="ended the session's program before it started"):
        program_start._started(NAME, report, NamespaceRuntime(contain(*SETUID_APPTAINER), NAME)._identity())


def test_forged_pid_is_not_killed(contain: Contain) -> None:
    """Whoever stops a session's program and writes to its report names no other process of the gateway's."""
    identity = NamespaceRuntime(contain(*OWN_PROCESSES), NAME)._identity()
    with subprocess.Popen(["sleep", "1000"]) as other:
        assert program_start._pid(f"pid {other.pid}\n", identity) is None
        other.terminate()


def test_no_secret_in_arguments(contain: Contain, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the command nor the environment is ever an argument or the environment of the child on the host."""
    seen: list[object] = []
    popen = subprocess.Popen

    def noted(*arguments: object, **options: object) -> object:
        seen.append((arguments, options["env"]))
        return popen(*arguments, **options)  # type: ignore[call-overload]

    runtime = NamespaceRuntime(contain(*SETUID_APPTAINER), NAME)
    starter = Starter()
    monkeypatch.setattr(program_start, "starter", starter)
    monkeypatch.setattr(subprocess, "Popen", noted)
    assert run(runtime, "echo secret-word $WHAT") == b"secret-word contained\n"
    assert seen and "secret-word" not in repr(seen) and "contained" not in repr(seen)
    starter.close()


def test_programs_are_there() -> None:
    """The tests here need setpriv and unshare of util-linux."""
    assert shutil.which("setpriv") and shutil.which("unshare")
