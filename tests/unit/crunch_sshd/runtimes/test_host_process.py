"""A child's pipes and terminal: reading, writing and closing from three threads, and nothing left behind."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from crunch_sshd.runtimes import Output, Terminal, child, host_processes
from crunch_sshd.runtimes.host_process import PIPE_SIZE, HostProcess, widen
from tests.reading import read
from tests.timing import DEADLINE, wait_for


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def is_zombie(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return False


def spawn(script: str, stdin: int, stdout: int, stderr: int) -> int:
    """Start a shell as a runtime would: with its descriptors, and nobody else who waits for it."""
    return os.posix_spawn(
        "/bin/sh", ["sh", "-c", script], dict(os.environ), setsid=True, setsigdef=[signal.SIGPIPE],
        file_actions=[(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, stdout, 1),
                      (os.POSIX_SPAWN_DUP2, stderr, 2)],
    )  # fmt: skip


def with_pipes(script: str) -> tuple[HostProcess, int]:
    (in_reader, in_writer), (out_reader, out_writer), (err_reader, err_writer) = os.pipe(), os.pipe(), os.pipe()
    pid = spawn(script, in_reader, out_writer, err_writer)
    for descriptor in (in_reader, out_writer, err_writer):
        os.close(descriptor)
    outputs = {out_reader: Output.STDOUT, err_reader: Output.STDERR}
    return HostProcess(pid, in_writer, outputs, lambda: None, tty=False), pid


def with_terminal(script: str) -> tuple[HostProcess, int]:
    master, slave = pty.openpty()
    pid = spawn(script, slave, slave, slave)
    os.close(slave)
    return HostProcess(pid, master, {master: Output.STDOUT}, lambda: None, tty=True), pid


def read_all(process: HostProcess) -> tuple[bytes, bytes]:
    found = {Output.STDOUT: b"", Output.STDERR: b""}
    while (output := read(process)) is not None:
        found[output[0]] += output[1]
    return found[Output.STDOUT], found[Output.STDERR]


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No descriptor and no thread outlives a test here."""
    before, threads = descriptors(), set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - threads:
        thread.join(DEADLINE)
        assert not thread.is_alive(), thread.name
    assert descriptors() == before


def test_output_and_status() -> None:
    """Each output comes from its own pipe, and the status is the program's."""
    process, _ = with_pipes("cat; echo err >&2; exit 7")
    assert process.write(b"in") == 2
    process.close_stdin()
    assert read_all(process) == (b"in", b"err\n")
    assert process.wait() == 7
    assert process.wait() == 7
    assert process.death_signal() is None
    process.close()


def test_neither_output_waits_for_the_end_of_the_other() -> None:
    """While one never pauses, the other is read after at most one piece of it."""
    for other, flooded in ((Output.STDERR, Output.STDOUT), (Output.STDOUT, Output.STDERR)):
        process, _ = with_pipes(f"echo early >&{other.value + 1}; exec cat /dev/zero >&{flooded.value + 1}")
        flood = next(descriptor for descriptor, one in process._outputs.items() if one is flooded)
        pieces = []
        for _ in range(2):
            wait_for(partial(select.select, [flood], [], [], DEADLINE), "the flood")
            pieces.append((output[0], bytes(output[1][:6])) if (output := read(process)) else None)
        process.signal("KILL")
        process.close()
        assert (other, b"early\n") in pieces, flooded


@pytest.mark.parametrize("reading", [False, True], ids=["before a read", "during a read"])
def test_close_output(reading: bool) -> None:
    """A closed stdout is a broken pipe to who writes it; stderr goes on to its end."""
    process, _ = with_pipes("read line; echo lost; echo $? >&2; read line; exit 3")
    said: list[tuple[bytes, bytes]] = []
    reader = threading.Thread(target=lambda: said.append(read_all(process)))
    if reading:
        reader.start()
        wait_for(lambda: process._reading, "the reader")
    process.close_output()
    process.close_output()
    if not reading:
        reader.start()
    wait_for(lambda: Output.STDOUT not in process._outputs.values(), "the output's end")
    process.write(b"go\n")
    reader.join(DEADLINE)
    assert said == [(b"", b"")]
    assert (process.wait(), process.death_signal()) == (128 + signal.SIGPIPE, "PIPE")
    process.close()


def test_close_output_of_a_terminal() -> None:
    """Nothing more is read from the terminal, which takes input and a hang-up as before."""
    process, _ = with_terminal("echo ready; read line; exit 4")
    assert read(process) == (Output.STDOUT, b"ready\r\n")
    process.close_output()
    assert read(process) is None
    process.write(b"go\n")
    assert process.wait() == 4
    process.close()


def test_core_dump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A core dump is noted, and a signal without a name in RFC 4254 has sshd's name for such."""
    process, _ = with_pipes(f"cd {tmp_path}; ulimit -c 0; kill -BUS $$")
    assert read_all(process) == (b"", b"")
    assert (process.wait(), process.death_signal(), process.dumped_core()) == (135, "SIG@openssh.com", False)
    process.close()
    monkeypatch.setattr(os, "waitid", partial(_dumped, os.waitid))
    process, _ = with_pipes("kill -SEGV $$")
    assert read_all(process) == (b"", b"")
    assert (process.wait(), process.death_signal(), process.dumped_core()) == (139, "SEGV", True)
    process.close()


def _dumped(waitid: Callable[..., Any], *arguments: int) -> Any:
    """Say of a process that a signal has ended that it dumped core, which this machine may not let it do."""
    found = waitid(*arguments)
    if found is None or found.si_code != os.CLD_KILLED:
        return found
    return SimpleNamespace(si_code=os.CLD_DUMPED, si_status=found.si_status)


def test_death_by_signal() -> None:
    """Death by signal n is 128 + n, and the signal's name is known."""
    process, _ = with_pipes("kill -KILL $$")
    assert read_all(process) == (b"", b"")
    assert (process.wait(), process.death_signal()) == (137, "KILL")
    process.close()


def test_close_wakes_a_reader() -> None:
    """A blocked read returns None once another thread closes; the process goes on."""
    process, pid = with_pipes("read line; exit 3")
    seen: list[object] = []
    reader = threading.Thread(target=lambda: seen.append(read(process)))
    reader.start()
    wait_for(lambda: process._reading, "the reader")
    process.close()
    process.close()
    reader.join(DEADLINE)
    assert seen == [None]
    assert read(process) is None
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"), "the end of the process, whose stdin was closed")


def test_no_zombie_after_an_early_close() -> None:
    """A process that ends after its object was closed leaves no zombie."""
    process, pid = with_pipes("read line; exit 3")
    process.close()
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"), "the process's end")
    assert process.wait() == 3


def test_two_waiters() -> None:
    """Two threads that wait get the same status, and neither fails because the other was first."""
    process, pid = with_pipes("read line; exit 4")
    found: list[int] = []
    waiters = [threading.Thread(target=lambda: found.append(process.wait())) for _ in range(4)]
    for waiter in waiters:
        waiter.start()
    process.close_stdin()
    for waiter in waiters:
        waiter.join(DEADLINE)
    assert found == [4] * 4
    assert not is_zombie(pid)
    process.close()


def test_no_signal_after_the_end() -> None:
    """A signal after the status was taken reaches nobody: the pid may be another's by then."""
    process, _ = with_pipes("exit 0")
    process.wait()
    process.signal("KILL")
    process.signal("NOSUCH")
    process.close()


def test_write_after_the_end() -> None:
    """Input for a program that has ended is a broken pipe, and so is input after close."""
    process, _ = with_pipes("exit 0")
    process.wait()
    with pytest.raises(BrokenPipeError):
        while process.write(bytes(65536)):
            pass
    process.close()
    with pytest.raises(BrokenPipeError):
        process.write(b"x")
    assert process.wait_writable(0)


def test_a_full_pipe_takes_nothing() -> None:
    """Writing never blocks: a full pipe takes 0 bytes, and wait_writable says when it may take some."""
    process, _ = with_pipes("read line; sleep 0; cat >/dev/null")
    while process.write(bytes(65536)):
        pass
    assert not process.wait_writable(0)
    process.write(b"\n")
    process.signal("KILL")
    process.wait()
    process.close()


def test_terminal() -> None:
    """A terminal is read to its end, has the size it is given, and its stdin is not closed alone."""
    process, _ = with_terminal("read line; stty size; exit 5")
    process.resize(Terminal("xterm", 132, 43))
    process.close_stdin()
    assert process.write(b"go\n") == 3
    out, _ = read_all(process)
    assert out.endswith(b"43 132\r\n")
    assert process.wait() == 5
    process.close()
    process.resize(Terminal("xterm", 80, 24))
    assert not process.send_break()


def test_many_at_once() -> None:
    """Twenty processes closed from other threads while they are read leave no descriptor and no zombie."""
    started = [with_pipes("while :; do echo x; done") for _ in range(20)]
    readers = [threading.Thread(target=read_all, args=(process,)) for process, _ in started]
    for reader in readers:
        reader.start()
    for process, _ in started:
        process.close()
    for reader in readers:
        reader.join(DEADLINE)
    for _, pid in started:
        wait_for(partial(lambda pid: not os.path.exists(f"/proc/{pid}"), pid), "the process's end")


def test_lost_status() -> None:
    """A status that something else has taken is an error, never a 0."""
    from arv_ssh.errors import ArvSshError

    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (reader, writer), (in_reader, in_writer) = os.pipe(), os.pipe()
    os.close(writer)
    os.close(in_reader)
    process = HostProcess(ended.pid, in_writer, {reader: Output.STDOUT}, lambda: None, tty=False)
    with pytest.raises(ArvSshError, match="exit status was lost"):
        process.wait()
    process.close()


def test_signal_by_pidfd(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal for the process alone goes by its pidfd: by pid, it could reach another that has the pid by then."""
    process, pid = with_pipes("read line")
    monkeypatch.setattr(host_processes, "signal_targets", lambda leader, identity: [leader])
    monkeypatch.setattr(os, "kill", lambda *arguments: pytest.fail(f"os.kill{arguments}"))
    process.signal("TERM")
    assert (process.wait(), process.death_signal()) == (143, "TERM")
    process.signal("KILL")
    process.close()


def test_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that cannot be held is ended, and leaves neither a process nor a descriptor."""
    for spawned, name in ((with_pipes, "pidfd_open"), (with_terminal, "pidfd_open"), (with_pipes, "set_blocking")):
        pids: list[int] = []
        with monkeypatch.context() as patch:
            patch.setattr(os, name, _refuse)
            patch.setattr(child, "end", lambda pid, ends, end=child.end, pids=pids: (pids.append(pid), end(pid, ends)))
            with pytest.raises(OSError, match="Too many open files"):
                spawned("exec sleep 1000")
        wait_for(partial(lambda pid: not os.path.exists(f"/proc/{pid}"), *pids), "the process's end")


def _refuse(*_: object) -> None:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
def test_pipes_of_another_user() -> None:
    """Where a user has no right to more large pipes, a pipe stays as it is; sessions go on."""
    pid = os.fork()
    if pid == 0:
        status = 1
        with suppress(BaseException):
            os.setresuid(54321, 54321, 54321)
            sizes = []
            for _ in range(100):
                reader, _writer = os.pipe()
                widen(reader)
                sizes.append(fcntl.fcntl(reader, fcntl.F_GETPIPE_SZ))
            status = 0 if sizes[0] == PIPE_SIZE > sizes[-1] else 2
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
