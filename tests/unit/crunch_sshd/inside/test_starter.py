"""The ready process: what its forks are given, and what happens when it is gone."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from crunch_sshd.inside import start
from crunch_sshd.inside import starter as starters
from crunch_sshd.inside.ready import MAX_DESCRIPTORS
from crunch_sshd.inside.starter import Starter
from crunch_sshd.runtimes import control_groups
from tests.timing import wait_for

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root may change its root")

PROGRAM = "crunch_sshd.inside.program"
OWN = {
    name: int(value, 16)
    for name, _, value in (line.partition(":") for line in Path("/proc/self/status").read_text().splitlines())
    if name.startswith("Cap")
}


@pytest.fixture
def starter() -> Iterator[Starter]:
    """A starter whose ready process is ended with the test."""
    found = Starter()
    yield found
    found.close()


def job(root: int, report: int, *argv: str) -> dict[str, Any]:
    """Return a job that enters nothing and gives up nothing."""
    return {
        "argv": [os.fsencode(word) for word in argv], "environment": {b"WHAT": b"a job's"}, "directory": None,
        "root_goes": False, "terminal": False, "no_new_privs": False, "namespaces": {}, "root": root, "cwd": root,
        "report": report, "doors": [], "unified": None,
        "limits": [], "umask": 0o22, "uid": 0, "gid": 0, "groups": os.getgroups(), "filters": [],
        "oom_score_adj": int(Path("/proc/self/oom_score_adj").read_text()),
        "capabilities": OWN,
    }  # fmt: skip


@contextmanager
def started(
    starter: Starter, *argv: str, doors: tuple[int, ...] = (), unified: int | None = None, module: str = PROGRAM
) -> Iterator[tuple[int, int, str]]:
    """Yield the first child's pid, the reading end of the program's output, and the report."""
    root = os.open("/", os.O_PATH)
    (reports, report), (reader, writer), null = os.pipe(), os.pipe(), os.open(os.devnull, os.O_RDWR)
    try:
        wanted = job(root, report, *argv) | {"doors": list(doors), "unified": unified}
        child = starter.start(module, wanted, [null, writer, writer])
        for descriptor in (report, writer):
            os.close(descriptor)
        said = b"".join(iter(lambda: os.read(reports, 1000), b"")).decode()
        yield child, reader, said
        os.waitpid(child, 0)
    finally:
        for descriptor in (root, reports, reader, null):
            os.close(descriptor)


def children() -> set[str]:
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):
            found |= set((task / "children").read_text().split())
    return found


def output(reader: int) -> bytes:
    return b"".join(iter(lambda: os.read(reader, 1000), b""))


def test_a_program(starter: Starter) -> None:
    """It is a child of this process, with the job's words, variables and streams, and no other descriptor."""
    script = "echo $0 $WHAT $PPID; ls /proc/self/fd; env"
    with started(starter, "/bin/sh", "-c", script, "word") as (_, reader, report):
        pid = int(report.split()[1])
        first, *rest = output(reader).decode().splitlines()
        assert os.waitpid(pid, 0) == (pid, 0)
    assert first == f"word a job's {os.getpid()}"
    assert rest[:4] == ["0", "1", "2", "3"]  # ls itself has the directory open
    assert {line for line in rest[4:] if not line.startswith(("PWD=", "SHLVL=", "_=", "OLDPWD="))} == {"WHAT=a job's"}


def test_no_program(starter: Starter) -> None:
    """What cannot be executed is reported in a shell's words, with its status."""
    with started(starter, "/nowhere") as (_, _, report):
        failure, pid_line = sorted(report.splitlines())  # two processes write them, in any order
        assert failure == "failed 127 /nowhere: No such file or directory"
        os.waitpid(int(pid_line.split()[1]), 0)


def test_a_null_byte(starter: Starter) -> None:
    """What no program can be given is reported, and nothing is written to the session's outputs."""
    with started(starter, "/bin/echo", "a\0b") as (_, reader, report):
        failure, pid_line = sorted(report.splitlines())  # two processes write them, in any order
        assert failure == "failed 126 embedded null byte"
        os.waitpid(int(pid_line.split()[1]), 0)
        assert output(reader) == b""


def test_hidden(starter: Starter) -> None:
    """Nobody without CAP_SYS_PTRACE can look into the ready process: its files in /proc are not its user's."""
    starter.prepare()
    ready = starter._ready
    assert ready is not None
    comm = Path(f"/proc/{ready._process.pid}/cmdline")
    wait_for(lambda: b"inside.ready" in comm.read_bytes(), "the ready process")
    with started(starter, "/bin/true") as (_, _, report):
        os.waitpid(int(report.split()[1]), 0)
    assert b"SECRET" not in Path(f"/proc/{ready._process.pid}/environ").read_bytes()
    status = Path(f"/proc/{ready._process.pid}/status").read_text()
    assert "Threads:\t1\n" in status


def test_killed(starter: Starter) -> None:
    """A killed ready process is replaced, and nothing is left of it."""
    before = children()
    for _ in range(3):
        with started(starter, "/bin/echo", "on") as (_, reader, report):
            assert output(reader) == b"on\n"
            os.waitpid(int(report.split()[1]), 0)
        assert starter._ready is not None
        os.kill(starter._ready._process.pid, signal.SIGKILL)
        last = starter._ready._process.pid
    assert children() - before <= {str(last)}


def test_stopped(starter: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ready process that gives no answer is replaced; sessions do not wait for it for ever."""
    monkeypatch.setattr(starters, "ANSWER_TIMEOUT", 1)
    starter.prepare()
    ready = starter._ready
    assert ready is not None
    os.kill(ready._process.pid, signal.SIGSTOP)
    with started(starter, "/bin/echo", "on") as (_, reader, report):
        assert output(reader) == b"on\n"
        os.waitpid(int(report.split()[1]), 0)
    assert starter._ready is not ready
    assert ready._process.poll() == -signal.SIGKILL


@pytest.fixture
def groups() -> Iterator[dict[str, str]]:
    """Hierarchy → directory of a new control group in each hierarchy that has no rules for its members."""
    mounted = control_groups.mounts(Path("/proc/self/mountinfo").read_text())
    ours = control_groups.memberships(Path("/proc/self/cgroup").read_text())
    found = {}
    for hierarchy in {"", "pids", "freezer"} & ours.keys():
        directory = control_groups.group_directory(hierarchy, ours[hierarchy], mounted)
        if directory is not None:
            found[hierarchy] = f"{directory}/arv-ssh-test-{os.getpid()}"
            os.mkdir(found[hierarchy])
    yield found
    for directory in found.values():
        procs = Path(directory, "cgroup.procs")
        wait_for(lambda: not procs.read_text(), "the programs' ends")  # noqa: B023 - called at once
        os.rmdir(directory)


def test_control_groups(starter: Starter, groups: dict[str, str]) -> None:
    """A program is in the groups of both versions, by the doors that need no wait, and has no door left open."""
    doors = control_groups.open_doors(groups)
    script = "cat /proc/self/cgroup; ls /proc/self/fd"
    given, unified = tuple(doors.doors), doors.unified
    with started(starter, "/bin/sh", "-c", script, doors=given, unified=unified) as (_, reader, report):
        said = output(reader).decode()
        os.waitpid(int(report.split()[1]), 0)
    member = control_groups.memberships(said)
    assert groups
    assert {hierarchy for hierarchy, group in member.items() if "/arv-ssh-test-" in group} == groups.keys()
    assert said.endswith("\n0\n1\n2\n3\n")
    close(doors)


def test_born_in_a_group(groups: dict[str, str]) -> None:
    """The kernel begins the process in a group of version 2; only where it cannot, the process moves by itself."""
    code = (
        "import os, sys; from crunch_sshd.inside import ready; pid, is_joined = ready._born(int(sys.argv[1]));"
        "is_there = '/arv-ssh-test-' in open('/proc/self/cgroup').read();"
        "os.write(1, f'{pid} {is_joined} {is_there}\\n'.encode())"
    )
    doors = control_groups.open_doors(groups)
    assert doors.unified is not None
    for directory, is_joined in ((doors.unified, True), (doors.doors[0] if doors.doors else 0, False)):
        command = [sys.executable, "-c", code, str(directory)]
        said = subprocess.check_output(command, text=True, pass_fds=[directory]).splitlines()
        (pid,) = (int(line.split()[0]) for line in said if not line.startswith("0 "))
        os.waitpid(pid, 0)  # a sibling of the one that forked it
        assert f"0 {is_joined} {is_joined}" in said
    close(doors)


def close(doors: control_groups.Doors) -> None:
    for descriptor in (*doors.doors, doors.unified):
        if descriptor is not None:
            os.close(descriptor)


def test_a_group_that_cannot_be_joined(starter: Starter) -> None:
    """The reason is reported; the process ends by itself, and has not begun anything."""
    starter.prepare()
    before = children()
    group = os.open("/", os.O_RDONLY)
    for doors, unified, reason in (
        ((group,), None, "Bad file descriptor"), ((), group, "No such file or directory"),
    ):  # fmt: skip
        with started(starter, "/bin/echo", "never", doors=doors, unified=unified) as (_, reader, report):
            assert report == f"failed 255 the container's control group cannot be joined: {reason}\n"
            assert output(reader) == b""
    os.close(group)
    assert children() == before


def test_nothing_left_open(starter: Starter) -> None:
    """Each start closes what it opened, and so does the end."""
    with started(starter, "/bin/true") as (_, _, report):
        os.waitpid(int(report.split()[1]), 0)
    before = os.listdir("/proc/self/fd")
    with started(starter, "/bin/true") as (_, _, report):
        os.waitpid(int(report.split()[1]), 0)
    assert os.listdir("/proc/self/fd") == before
    starter.close()
    assert len(os.listdir("/proc/self/fd")) == len(before) - 1


CHILD = """
import ctypes, gc, os, sys

def main(job):
    print(job["words"], gc.isenabled(), sorted(os.environ), sys.argv[1:], os.getsid(0) == os.getpid(), os.getppid())
    there = [one for one in range(100) if os.path.exists(f"/proc/self/fd/{one}")]
    print(there == sorted([0, 1, 2, job["root"], *job["doors"]]))
    print("dumpable" if ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) else "hidden")  # PR_GET_DUMPABLE
    sys.stdout.flush()
    if job["words"] == "raise":
        raise ValueError("nobody expected this")
    if job["words"] == "crash":
        os.kill(os.getpid(), 11)
    return 3
"""


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that the ready process can import."""
    (tmp_path / "a_child.py").write_text(CHILD, encoding="utf-8")
    for package in ("crunch_sshd", "arv_ssh"):
        (tmp_path / package).symlink_to(Path(start.PACKAGES) / package)
    monkeypatch.setattr(start, "PACKAGES", str(tmp_path))
    monkeypatch.setenv("SECRET", "of the gateway")
    return "a_child"


def ran(starter: Starter, module: str, words: str) -> tuple[list[str], int]:
    """Return the lines that a fork wrote, and its exit status, or its signal as a negative number."""
    (reader, writer), null = os.pipe(), os.open(os.devnull, os.O_RDWR)
    try:
        job = {"words": words, "namespaces": {}, "root": null, "doors": [reader]}
        pid = starter.start(module, job, [null, writer, writer])
        os.close(writer)
        said = output(reader).decode().splitlines()
        return said, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        os.close(reader)
        os.close(null)


def test_a_module(starter: Starter, child: str) -> None:
    """Each fork of a module's is a process like a fresh one, with the job's descriptors only; its end is its own."""
    for words, status in (("a", 3), ("raise", 1), ("b", 3)):
        (first, second, third, *more), found = ran(starter, child, words)
        assert first.startswith(f"{words} True ['LC_ALL', 'PATH', 'TZ'] ") and first.endswith(f"True {os.getpid()}")
        assert (second, third, found) == ("True", "hidden", status)
        assert more[-1:] == (["ValueError: nobody expected this"] if words == "raise" else [])


def reaped(before: set[str]) -> list[int]:
    """Wait for the children that are not in ``before``; return their exit statuses."""
    return [os.waitstatus_to_exitcode(os.waitpid(int(pid), 0)[1]) for pid in children() - before]


DYING_READY = """
import os
from crunch_sshd.inside import ready
from crunch_sshd.inside.ready import main

born = ready._born

def dying(control_group):
    pid, is_joined = born(control_group)
    if pid and not os.path.exists({mark!r}):
        open({mark!r}, "w").close()
        os.kill(os.getpid(), 9)
    return pid, is_joined

ready._born = dying
"""


def test_killed_between_a_fork_and_its_answer(child: str, tmp_path: Path) -> None:
    """A fork that the gateway has not heard of does nothing: another one does the job, once."""
    (tmp_path / "dying_ready.py").write_text(DYING_READY.format(mark=str(tmp_path / "died")), encoding="utf-8")
    starter = Starter("dying_ready")
    before = children()
    try:
        lines, status = ran(starter, child, "a")
        assert (len(lines), status) == (3, 3)
        assert (tmp_path / "died").exists()
        assert starter._ready is not None
        assert reaped(before | {str(starter._ready._process.pid)}) == [1]
    finally:
        starter.close()


DYING_PROGRAM = """
import os
from crunch_sshd.inside import linux, program

fork = linux.fork_as_sibling

def dying():
    pid = fork()
    if pid:
        os.kill(os.getpid(), 9)
    return pid

def main(job):
    linux.fork_as_sibling = dying
    program.main(job)
"""


def test_a_program_that_was_not_reported(starter: Starter, child: str, tmp_path: Path) -> None:
    """Nothing is executed that the gateway does not know of, and would have executed once more."""
    (tmp_path / "dying_program.py").write_text(DYING_PROGRAM, encoding="utf-8")
    starter.prepare()
    before = children()
    with started(starter, "/bin/echo", "never", module="dying_program") as (_, reader, report):
        assert output(reader) == b""
        assert report == "failed 255 the process that starts it ended; is the container out of memory?\n"
    assert reaped(before) == [255]


def test_more_descriptors_than_come_through(starter: Starter, child: str) -> None:
    """A job whose descriptors the ready process cannot take does not begin; the next one does."""
    null = os.open(os.devnull, os.O_RDWR)
    job = {"words": "", "namespaces": {}, "root": null, "doors": [null] * MAX_DESCRIPTORS}
    with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
        starter.start(child, job, [null, null, null])
    ready = starter._ready
    os.close(null)
    assert ran(starter, child, "a")[1] == 3
    assert starter._ready is ready


def test_a_low_limit_closes_nothing_less() -> None:
    """What is to be closed is closed, also where the container's own limit is lower than its number."""
    code = (
        "import os, resource; from crunch_sshd.inside import linux; os.dup2(0, 50);"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (10, 10)); linux.close_all_but([]); os.fstat(50)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.endswith("Bad file descriptor\n")


def test_no_such_module(starter: Starter, child: str) -> None:
    """What cannot be imported is an error, and the ready process goes on."""
    with pytest.raises(OSError, match=os.strerror(errno.ENOEXEC)):
        ran(starter, "no_such_module", "")
    ready = starter._ready
    assert ran(starter, child, "a")[1] == 3
    assert starter._ready is ready


def test_crash(starter: Starter, child: str) -> None:
    """After a crash the next fork has other addresses; after any other end it need not."""
    ran(starter, child, "a")
    ready = starter._ready
    starter.ended(signal.SIGKILL)
    starter.ended(0)
    assert starter._ready is ready
    assert ran(starter, child, "crash")[1] == -signal.SIGSEGV
    starter.ended(signal.SIGSEGV)
    assert ran(starter, child, "a")[1] == 3
    assert starter._ready is not None and starter._ready is not ready


def test_nothing_random_is_shared() -> None:
    """No module that the forks share makes random numbers by itself: two forks would make the same."""
    modules = "crunch_sshd.inside.ready, crunch_sshd.inside.sftp.__main__, crunch_sshd.inside.broker.process"
    program = f"import sys; sys.path.append({start.PACKAGES!r}); import {modules}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "crunch_sshd.inside.broker.process" in loaded
    assert loaded & {"random", "_random", "secrets", "uuid", "tempfile", "ssl", "_ssl", "_hashlib"} == set()
