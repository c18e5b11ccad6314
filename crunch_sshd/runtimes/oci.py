"""The OCI runtime itself: ``runc exec`` or ``crun exec``, without the engine in between.

Owns the process description (the container's own, with the user's changes), the pipes and the terminal. It is
faster than the engine's API: the program's output comes straight from its pipe. Needs root on the container's host.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import resource
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

from arv_ssh.errors import ArvSshError, Unavailable
from arv_ssh.processes.child_exit import exit_status
from crunch_sshd.inside.program import LOST
from crunch_sshd.runtimes import (
    Account,
    Command,
    Output,
    Process,
    Runtime,
    StartFailed,
    Terminal,
    accounts,
    bundle,
    confinement,
    host_processes,
    program_start,
    terminal_modes,
    terminal_name,
)
from crunch_sshd.runtimes.bundle import State
from crunch_sshd.runtimes.host_container import HostContainer
from crunch_sshd.runtimes.host_process import HostProcess, widen
from crunch_sshd.runtimes.orphans import Orphans
from crunch_sshd.runtimes.program_start import NotReported, Program, Started, TooLate
from crunch_sshd.runtimes.start_failure import start_failed

logger = logging.getLogger(__name__)

START_TIMEOUT = 60.0
"""Seconds for the runtime to start a program; a swapping node takes its time."""
RUN = "/run"
PR_SET_CHILD_SUBREAPER = 36

orphans = Orphans()
"""For all containers: there is one subreaper, this process."""
_libc = ctypes.CDLL(None, use_errno=True)


def find(container_id: str, name: str) -> OciRuntime | None:
    """Return the runtime of a container if this process may use it: as root, with the state at a known place."""
    if os.geteuid() != 0:
        return None
    try:
        known = bundle.find_state(container_id)
    except LookupError as error:
        raise Unavailable(f"container {name} is not known to the runtime: {error}") from error
    if known is None:
        return None
    try:
        found = OciRuntime(known, container_id, name)
        if found.has_own_processes():
            return found
    except (FileNotFoundError, ProcessLookupError) as gone:
        raise Unavailable(f"container {name} has ended: its first process is gone") from gone
    found.host().close()
    return None


class OciRuntime(Runtime):
    """Executes in the container with the full id ``container_id``, with the runtime that has its ``state``.

    Users know the container as ``name``.
    """

    def __init__(self, state: State, container_id: str, name: str) -> None:
        self._command = [state.program, "--root", state.root]
        self._container = container_id
        self._name = name
        self._bundle = bundle.read(state.facts["bundle"])
        self._host = HostContainer(state.facts["pid"], self._bundle)
        self._identity = host_processes.ContainerIdentity(container_id, host_processes.pid_namespace(self._host.pid))
        self._process = self._bundle.process
        # The exec's parent ends at once; the exec's status comes to us only if orphans do (as with containerd's shim).
        if _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            raise Unavailable(f"container {name}: this kernel gives no orphans to a process that asks for them")

    def has_own_processes(self) -> bool:
        """Say whether the container has a pid namespace of its own.

        In the host's, any process a session leaves behind would come to this one as an orphan, and stay a zombie.
        """
        namespaces = self._host.open_namespaces(["pid"])
        for descriptor in namespaces.values():
            os.close(descriptor)
        return bool(namespaces)

    def host(self) -> HostContainer:
        return self._host

    def directory(self) -> str:
        return self._process.get("cwd") or "/"

    def account(self, login_username: str) -> Account:
        passwd, group_file = self._host.read_text("/etc/passwd"), self._host.read_text("/etc/group")
        find = partial(accounts.find, passwd, group_file, str(self._process["user"]["uid"]), self._name)
        own = None if self._bundle.is_dockers else find("")
        account = accounts.with_home(find(login_username), self._bundle.environment, own)
        account = accounts.with_shell(account, self._host.is_program)
        return accounts.with_groups(account, passwd, group_file, self._bundle)

    def get_ready(self) -> None:
        program_start.get_ready()

    def start(self, command: Command) -> Process:
        started = self._started_directly(command) if self._is_plain(command) else None
        if started is None:
            return self._start_by_runtime(command)
        return HostProcess(
            started.pid, started.stdin, started.outputs, self._hang_up(started.pid),
            tty=command.terminal is not None, identity=self._identity,
        )  # fmt: skip

    def _started_directly(self, command: Command) -> Started | None:
        """Return a program that was started without the OCI runtime; None when nothing was executed."""
        try:
            return self._start_directly(command)
        except TooLate:
            raise
        except (StartFailed, Unavailable, OSError) as failure:
            # The OCI runtime either can, or says in its own words why not.
            logger.debug("container %s: a program was not started directly: %s", self._name, failure)
            if isinstance(failure, NotReported) or (isinstance(failure, StartFailed) and failure.exit_status == LOST):
                orphans.expect_one()
            return None

    def _is_plain(self, command: Command) -> bool:
        """Say whether it is known here what the OCI runtime would make of a command, in every dimension."""
        return (
            self._bundle.is_plain
            and command.argv[0].startswith("/")
            and not accounts.has_numbers_as_names(self._host.read_text("/etc/group"))
        )

    def _start_directly(self, command: Command) -> Started:
        """Start a program without the OCI runtime, held to all that it would be held to by it."""
        account = command.account
        environment = self._environment(command)
        program = Program(
            command.argv,
            {os.fsencode(name): os.fsencode(value) for name, value in environment.items()},
            command.directory or self.directory(), "root",
            root_goes=True, own_terminal=True,
            confinement=replace(self._host.confinement(account), groups=tuple(self._additional(account))),
            no_new_privs=bool(self._process.get("noNewPrivileges")),
            owner=account.uid,
            identity=self._identity,
        )  # fmt: skip
        with orphans.start():
            started = program_start.start(self._host, self._name, program, command.terminal)
            orphans.is_program(started.pid)
        return started

    def _environment(self, command: Command) -> dict[str, str]:
        return self._bundle.environment | {"HOME": command.account.home} | command.environment

    def _start_by_runtime(self, command: Command) -> Process:
        try:
            # In /run, where runtimes keep their own state: TMPDIR can be too long for a unix socket's path.
            with tempfile.TemporaryDirectory(prefix="arv-ssh-", dir=RUN) as directory, _in_memory(
                json.dumps(self._describe(command))
            ) as process:
                place = _ExecFiles(Path(directory), process.fileno(), command.argv[0])
                if command.terminal is None:
                    return self._start_with_pipes(place)
                return self._start_with_terminal(place, command.terminal)
        except OSError as error:
            raise Unavailable(f"container {self._name}: nothing can be started ({error.strerror})") from error

    def _describe(self, command: Command) -> dict[str, Any]:
        """Return the OCI process (runtime-spec, config.md "process"): the container's own, with exec's changes."""
        account, terminal = command.account, command.terminal
        process = dict(confinement.without_more_than_bounding(self._process, account.uid))
        process["env"] = [f"{name}={value}" for name, value in self._environment(command).items()]
        has_shell = terminal is not None and account.sh is not None
        process["args"] = terminal_name.naming(command.argv) if has_shell else list(command.argv)
        process["cwd"] = command.directory or process.get("cwd") or "/"
        process["user"] = {"uid": account.uid, "gid": account.gid, "additionalGids": self._additional(account)}
        process["rlimits"] = self._limits()
        process["terminal"] = terminal is not None
        if terminal is not None:
            process["consoleSize"] = {"height": terminal.rows, "width": terminal.columns}
        return process

    def _additional(self, account: Account) -> list[int]:
        """Return the supplementary groups; Podman's exec leaves the user's own out (runc takes numbers for names)."""
        return [one for one in account.groups if self._bundle.is_dockers or one != account.gid]

    def _limits(self) -> list[dict[str, Any]]:
        """Return the description's limits, and that of descriptors in any case: this process has raised its own."""
        described: list[dict[str, Any]] = self._process.get("rlimits") or []
        if any(one["type"] == "RLIMIT_NOFILE" for one in described):
            return described
        inherited = {number: values for number, *values in self._host.inherited_limits()}
        soft, hard = inherited[resource.RLIMIT_NOFILE]
        return [*described, {"type": "RLIMIT_NOFILE", "soft": soft % 2**64, "hard": hard % 2**64}]

    def _start_with_pipes(self, place: _ExecFiles) -> Process:
        ours, theirs = [], []
        try:
            for reading in (True, False, False):
                reader, writer = os.pipe()
                theirs.append(reader if reading else writer)
                ours.append(writer if reading else reader)
                widen(reader)
            pid = self._exec(place, [], *theirs)
        except BaseException:
            for descriptor in ours:
                os.close(descriptor)
            raise
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        outputs = {ours[1]: Output.STDOUT, ours[2]: Output.STDERR}
        return HostProcess(pid, ours[0], outputs, self._hang_up(pid), tty=False, identity=self._identity)

    def _start_with_terminal(self, place: _ExecFiles, terminal: Terminal) -> Process:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener, open(os.devnull, "r+b") as nothing:
            path = str(place.directory / "console")
            listener.bind(path)
            listener.listen(1)
            listener.settimeout(START_TIMEOUT)
            console = _Console(listener, terminal)
            null = nothing.fileno()
            try:
                pid = self._exec(place, ["--console-socket", path], null, null, null)
            except BaseException:
                console.discard()
                raise
            master = console.take()
        hang_up = self._hang_up(pid)
        return HostProcess(pid, master, {master: Output.STDOUT}, hang_up, tty=True, identity=self._identity)

    def _exec(self, place: _ExecFiles, options: list[str], stdin: int, stdout: int, stderr: int) -> int:
        log, pid_file = place.directory / "log.json", place.directory / "pid"
        arguments = [
            *self._command, "--log", str(log), "--log-format", "json",
            "exec", "--detach", "--process", f"/proc/self/fd/{place.process}", "--pid-file", str(pid_file),
            *options, self._container,
        ]  # fmt: skip
        try:
            with orphans.start():
                started = subprocess.Popen(  # noqa: S603 - our own arguments
                    arguments, stdin=stdin, stdout=stdout, stderr=stderr, pass_fds=[place.process],
                    # crun leaves the program in the session and the process group in which crun itself was started.
                    start_new_session=True,
                )  # fmt: skip
                if not exit_status(started, START_TIMEOUT):
                    pid = int(pid_file.read_text(encoding="ascii"))
                    orphans.is_program(pid)
                    return pid
        except subprocess.TimeoutExpired as error:
            orphans.expect_one()
            raise Unavailable(
                f"container {self._name} did not start the program within {START_TIMEOUT:g} s; is it paused?"
            ) from error
        if self._command[0].endswith("crun"):
            orphans.expect_one()
        raise _start_failure(log, place.program)

    def _hang_up(self, pid: int) -> Callable[[], None]:
        session = host_processes.session_of(pid)  # now, while the pid is surely still this process's
        return lambda: host_processes.hang_up(session, self._identity, host_processes.kill)


@dataclass(frozen=True)
class _ExecFiles:
    """Where one start keeps its files; ``process`` is the descriptor of the process's description.

    The description is in memory only: the container's environment may hold secrets, and a disk would keep them.
    """

    directory: Path
    process: int
    program: str


def _in_memory(text: str) -> IO[str]:
    file = open(os.memfd_create("process", os.MFD_CLOEXEC), "w+", encoding="utf-8")
    file.write(text)
    file.flush()
    return file


class _Console:
    """Waits for the terminal's master that the runtime sends (runc's docs/terminals.md), and sets its modes at once."""

    def __init__(self, listener: socket.socket, terminal: Terminal) -> None:
        self._listener = listener
        self._terminal = terminal
        self._master: int | None = None
        self._thread = threading.Thread(target=self._receive, name="console", daemon=True)
        self._thread.start()

    def _receive(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # the runtime failed before it had a terminal; its log says why
        with connection:
            connection.settimeout(START_TIMEOUT)
            try:
                _, descriptors, _, _ = socket.recv_fds(connection, 4096, 1, socket.MSG_CMSG_CLOEXEC)
            except OSError:
                return  # likewise
        if descriptors:
            self._master = descriptors[0]
            terminal_modes.apply(self._master, self._terminal.modes)
            terminal_modes.resize(self._master, self._terminal)

    def take(self) -> int:
        self._thread.join()
        if self._master is None:
            raise ArvSshError("the container runtime gave no terminal for the session")
        return self._master

    def discard(self) -> None:
        try:
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the accept
        except OSError:
            pass  # it was not waiting any more
        self._thread.join()
        if self._master is not None:
            os.close(self._master)


def _start_failure(log: Path, program: str) -> StartFailed:
    """Return what the runtime's log says, in a shell's words and with a shell's exit status."""
    try:
        lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        lines = []
    errors = [line["msg"] for line in lines if line.get("level") == "error"]
    reason = str(errors[-1]) if errors else "the container runtime failed without saying why"
    return start_failed(reason, program)
