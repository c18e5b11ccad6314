"""The Docker runtime: executes through the engine's API, as ``docker exec`` does.

Owns everything specific to Docker: exec create, start, inspect and resize, the stream with its frames, and reading
files of the container. Works wherever the engine's socket does; sends signals itself where it may, else through the
container's shell.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import select
import socket
import tarfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from arv_ssh.errors import ArvSshError, NotFound
from crunch_sshd.runtimes import (
    Account,
    Command,
    Output,
    Process,
    Runtime,
    Terminal,
    accounts,
    bundle,
    host_processes,
)
from crunch_sshd.runtimes.control_thread import ControlThread
from crunch_sshd.runtimes.docker_engine import DockerClient, engine_errors, is_program, open_stream, path_exists
from crunch_sshd.runtimes.docker_frames import DockerFrames
from crunch_sshd.runtimes.host_container import LIMIT, HostContainer
from crunch_sshd.runtimes.start_failure import start_failed
from crunch_sshd.runtimes.terminal_name import NAME_TERMINAL
from crunch_sshd.ssh.memory import Room, untouched

logger = logging.getLogger(__name__)

READ_SIZE = 256 * 1024
ARCHIVE_HEADERS = 16 * 1024
"""Bytes allowed before the content of an archive's first file: more than its headers need, whatever the names."""
POLL_FIRST, POLL_LONGEST = 0.005, 0.25
"""Seconds between looks at an exec whose stream has ended, doubling from the first to the longest."""
NEVER_TYPED = ",".join(["ctrl-^", "ctrl-_"] * 8)
"""A detach sequence that no user types. Docker has no "off": empty means its default, which would swallow Ctrl-P."""
DETACH_BYTES = b"\x1e\x1f" * 8
"""The same as the engine reports it (API ``exec/{id}/json``, DetachKeys): an exec that has it is ours; no other has."""
BOOTSTRAP = f'stty rows "$1" cols "$2" 2>/dev/null; shift 2; {NAME_TERMINAL}'
"""Sets the size before the program's first look at it. Engines before API 1.42 can only resize a running exec."""
FAILED_STARTS = (b"OCI runtime exec failed", b"cannot exec", b"failed to create", b"Error: runc: ", b"Error: crun: ")
"""How the output begins when an exec never started; the last two are Podman's."""
FAILED_START_PATIENCE = 1.0
"""Seconds for an engine to learn that an exec has ended, once its output says that it did not start."""


class DockerRuntime(Runtime):
    """Executes in the engine's container ``container_id`` (or name), which users know as ``name``."""

    def __init__(self, client: DockerClient, container_id: str, name: str) -> None:
        self._client = client
        self._name = name
        with engine_errors(f"container {container_id}"):
            facts = client.api.inspect_container(container_id)
            components = client.api.version().get("Components") or []
        self._is_podman = any(one.get("Name") == "Podman Engine" for one in components)
        self._container: str = facts["Id"]
        self._directory: str = facts["Config"].get("WorkingDir") or "/"
        self._host = _host_container(facts["State"]["Pid"], self._container)
        namespace = host_processes.pid_namespace(self._host.pid) if self._host is not None else None
        self._identity = host_processes.ContainerIdentity(self._container, namespace)

    def host(self) -> HostContainer | None:
        return self._host

    def directory(self) -> str:
        return self._directory

    def obstacle(self, directory: str, account: Account) -> str:
        if self._host is not None or directory == "/":
            return super().obstacle(directory, account)
        return "" if path_exists(self._client, self._container, directory) else os.strerror(errno.ENOENT)

    def account(self, login_username: str) -> Account:
        with engine_errors(f"container {self._name}"):
            config = self._client.api.inspect_container(self._container)["Config"]
        passwd, group_file = self._read_file("/etc/passwd"), self._read_file("/etc/group")
        find = partial(accounts.find, passwd, group_file, config.get("User") or "", self._name)
        own = find("") if self._is_podman else None
        account = accounts.with_home(find(login_username), bundle.environment(config.get("Env")), own)
        account = accounts.with_shell(account, self._is_program)
        if self._host is None or self._host.bundle is None:
            return account
        return accounts.with_groups(account, passwd, group_file, self._host.bundle)

    def _is_program(self, path: str) -> bool:
        if self._host is not None:
            return self._host.is_program(path)
        return is_program(self._client, self._container, path)

    def _read_file(self, path: str) -> str:
        """Return the beginning of a regular file of the container, or "" where it has none."""
        if self._host is not None:
            return self._host.read_text(path)
        try:
            with engine_errors(path):
                chunks, _ = self._client.api.get_archive(self._container, path)
                archive = _beginning(chunks, LIMIT + ARCHIVE_HEADERS)
        except NotFound:
            return ""
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            member = tar.next()
        if member is None or not member.isreg():
            return ""
        content = archive[member.offset_data : member.offset_data + min(member.size, LIMIT)]
        return content.decode("utf-8", "replace")

    def start(self, command: Command) -> Process:
        terminal = command.terminal
        argv = list(command.argv)
        if terminal is not None and command.account.sh is not None:
            argv = [command.account.sh, "-c", BOOTSTRAP, "sh", str(terminal.rows), str(terminal.columns), *argv]
        with engine_errors(f"container {self._container}"):
            created = self._client.api.exec_create(
                self._container,
                argv,
                stdin=True,
                tty=terminal is not None,
                environment=command.environment,
                user=command.account.runtime_user,
                workdir=command.directory,
                detach_keys=NEVER_TYPED,
            )
            body: dict[str, Any] = {"Detach": False, "Tty": terminal is not None}
            if terminal is not None and self._is_podman:
                body |= {"h": terminal.rows, "w": terminal.columns}
            stream, early = open_stream(self._client, f"/exec/{created['Id']}/start", body)
        process = DockerProcess(
            self._client, self._container, self._identity, created["Id"], argv[0], stream, early, terminal
        )
        if terminal is not None and not self._is_podman:
            process.resize(terminal)
        return process


def _beginning(chunks: Iterator[bytes], limit: int) -> bytes:
    """Return at least ``limit`` bytes of a stream, if it has as many, and not much more."""
    found = bytearray()
    for chunk in chunks:
        found += chunk
        if len(found) >= limit:
            break
    return bytes(found)


def _host_container(pid: int, container_id: str) -> HostContainer | None:
    """Return the container by its first process, if that is on this host and we may look into it."""
    if container_id not in host_processes.control_groups(pid):
        return None  # the engine is on another machine, and the pid is another process's here
    try:
        return HostContainer(pid, bundle.find(container_id))
    except (PermissionError, FileNotFoundError):
        return None


class DockerProcess(Process):
    """One exec of the engine and its hijacked stream."""

    def __init__(
        self,
        client: DockerClient,
        container_id: str,
        identity: host_processes.ContainerIdentity,
        exec_id: str,
        program: str,
        stream: socket.socket,
        early: bytes,
        terminal: Terminal | None,
    ) -> None:
        self._client = client
        self._container = container_id
        self._identity = identity
        self._exec = exec_id
        self._program = program
        self._stream = stream
        self._tty = terminal is not None
        self._frames = DockerFrames(tty=self._tty)
        self._frames.feed(early)
        self._stream_read, self._unread = Output.STDOUT, b""
        # Reused for every read: a new object of this size would be made, faulted in and given back for each key.
        self._received = untouched(READ_SIZE)
        self._controls = ControlThread()
        self._heard = False
        self._output_closed = False
        self._breaks = 0
        self._next_break = 0.0
        self._closed = threading.Event()

    # Output.

    def read(self, room: Room) -> tuple[Output, int] | None:
        if not self._unread:
            if (output := self._wanted_output()) is None:
                return None
            self._stream_read, self._unread = output
        size = room.fill(self._unread)
        self._unread = self._unread[size:]
        return self._stream_read, size

    def _wanted_output(self) -> tuple[Output, bytes] | None:
        while (output := self._next_output()) is not None:
            if not self._heard:
                self._heard = True
                self._raise_if_never_started(output[1])
            if not self._output_closed or output[0] is Output.STDERR:
                return output
            if self._tty:
                return None  # what is not read any more holds its writer up, as with sshd
            self._break_pipe()
        return None

    def _break_pipe(self) -> None:
        """Do to the writer of this output what the kernel would do if we, and not the engine, had the pipe."""
        if time.monotonic() < self._next_break or (leader := self._pid()) is None:
            return
        session = host_processes.session_of(leader)
        host_processes.break_pipe(session, self._identity, self._kill, self._breaks)
        self._breaks += 1
        self._next_break = time.monotonic() + host_processes.HANG_UP_STEP

    def _next_output(self) -> tuple[Output, bytes] | None:
        while (output := self._frames.next_output()) is None:
            if not self._receive():
                if self._frames.is_cut and not self._closed.is_set():
                    raise ArvSshError("the Docker engine cut the output short; the command may still run")
                return None
        return output

    def _receive(self) -> bool:
        try:
            size = self._stream.recv_into(self._received)
        except OSError as error:
            # A unix socket is reset only after everything sent has been read: Podman closes it with input unread.
            unread_input = isinstance(error, ConnectionResetError) and self._stream.family == socket.AF_UNIX
            if self._closed.is_set() or unread_input:
                return False
            raise ArvSshError(f"the connection to the Docker engine was lost ({error.strerror or error})") from error
        self._frames.feed(self._received[:size])
        return bool(size)

    def _raise_if_never_started(self, text: bytes) -> None:
        """Tell a failed start, which the engine reports as output, from a program's: the exec never had a pid."""
        if not text.startswith(FAILED_STARTS):
            return
        deadline = time.monotonic() + FAILED_START_PATIENCE
        state = self._inspect()
        while state["Running"] and time.monotonic() < deadline and not self._closed.wait(POLL_FIRST):
            state = self._inspect()  # Podman says so a moment before its state does
        if not state["Running"] and not state.get("Pid") and state["ExitCode"]:
            raise start_failed(text.decode("utf-8", "replace"), self._program)

    # Input.

    def write(self, data: bytes | memoryview) -> int:
        try:
            return self._stream.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise BrokenPipeError(error.errno, "the process takes no more input") from error

    def wait_writable(self, timeout: float) -> bool:
        poll = select.poll()
        try:
            poll.register(self._stream, select.POLLOUT)
        except ValueError:
            return True  # closed: write will say so
        return bool(poll.poll(timeout * 1000))

    def close_stdin(self) -> None:
        if self._tty:
            return  # a terminal has one end for both directions; sshd leaves it open too
        try:
            self._stream.shutdown(socket.SHUT_WR)
        except OSError:
            logger.debug("the process ended before its stdin was closed")

    # Control.

    def close_output(self) -> None:
        self._output_closed = True

    def resize(self, terminal: Terminal) -> None:
        if self._tty:
            self._controls.put_newest(lambda: self._resize(terminal))

    def _resize(self, terminal: Terminal) -> None:
        if not terminal.rows or not terminal.columns or self._pid() is None:
            return
        try:
            with engine_errors("the terminal's size"):
                self._client.api.exec_resize(self._exec, height=terminal.rows, width=terminal.columns)
        except ArvSshError as error:
            logger.debug("%s", error)  # the program ended meanwhile; its output says so

    def signal(self, name: str) -> None:
        number = host_processes.NAMES.get(name)
        if number is not None:
            self._controls.put(lambda: self._signal_foreground(number))

    def _signal_foreground(self, number: int) -> None:
        pid = self._pid()
        targets = host_processes.signal_targets(pid, self._identity) if pid is not None else []
        if targets:
            self._kill(targets, number)

    # The end.

    def wait(self) -> int:
        state = self._inspect()
        pause = POLL_FIRST
        while state["Running"]:
            if self._closed.wait(pause):
                break
            if self._tty and self._output_closed and not host_processes.is_alive(state.get("Pid") or 0):
                self._discard_output()  # Podman says that the exec has ended once all of it has been read
            pause = min(2 * pause, POLL_LONGEST)
            state = self._inspect()
        if state["ExitCode"] is None:
            raise ArvSshError("the session was ended before its program")
        return int(state["ExitCode"])

    def hang_up(self) -> None:
        leader = self._pid()
        if leader is not None:
            host_processes.hang_up(host_processes.session_of(leader), self._identity, self._kill)

    def close(self) -> None:
        self._closed.set()
        self._controls.close()
        try:
            self._stream.shutdown(socket.SHUT_RDWR)  # wakes a reader; close alone would not
        except OSError:
            pass  # the engine was faster
        self._stream.close()

    def _discard_output(self) -> None:
        while self._receive():
            self._frames.next_output()

    def _inspect(self) -> dict[str, Any]:
        with engine_errors("the command's state"):
            state: dict[str, Any] = self._client.api.exec_inspect(self._exec)
        return state

    def _pid(self) -> int | None:
        """Return the exec's pid on the host once it has one; None when it ended before. Works after :meth:`close`."""
        pause = POLL_FIRST
        while True:
            try:
                state = self._inspect()
            except NotFound:
                return None
            if state.get("Pid"):
                return int(state["Pid"])
            if not state["Running"] and state["ExitCode"] is not None:
                return None
            time.sleep(pause)
            pause = min(2 * pause, POLL_LONGEST)

    def _kill(self, pids: list[int], number: int) -> None:
        try:
            host_processes.kill(pids, number)
        except PermissionError:
            self._kill_inside(pids, number)

    def _kill_inside(self, pids: list[int], number: int) -> None:
        """Send the signal with the container's own shell, as root there: this gateway itself is not root."""
        inside = [host_processes.pid_inside(abs(pid)) for pid in pids]
        words = [f"-{one}" if pid < 0 else f"{one}" for pid, one in zip(pids, inside, strict=True) if one]
        script = f"kill -{number} -- {' '.join(words)}"
        with engine_errors("ending the session's processes"):
            created = self._client.api.exec_create(self._container, ["/bin/sh", "-c", script], user="0")
            self._client.api.exec_start(created["Id"])
