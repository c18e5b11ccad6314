"""A container in memory: a Runtime whose processes are scripts, and SSH connections to the gateway's server."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable
from typing import Any

import paramiko

from arv_ssh.config.session_options import SessionOptions
from arv_ssh.errors import Forbidden
from crunch_sshd.audit.channel_audit import ConnectionAudit
from crunch_sshd.forwarding.broker import BrokerError, Found, Listening
from crunch_sshd.gateway.connection import Connection, Login
from crunch_sshd.runtimes import Account, Command, Output, Process, Runtime, Terminal
from crunch_sshd.ssh.memory import Room

SECRET = "18318f9250e79d8c20e74b6f44987190e8edabd0d9d8052c6d99b9d10de317a9"
CREDENTIAL = "the session's credential"
DEADLINE = 20.0
"""Seconds that any wait of these tests may take; none of them should take one."""

ROOT = Account("root", 0, 0, "/root", "/bin/sh", "")
CRUNCH = Account("crunch", 1000, 1000, "/home/crunch", "/bin/sh", "crunch")


class ScriptedProcess(Process):
    """A process that says what the test puts, takes as much stdin as the test allows, and notes what is done to it."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self.stdin = bytearray()
        self.calls: list[str] = []
        self.room: int | None = None
        self.broken = False
        self.hung_up = threading.Event()
        self.stdin_closed = threading.Event()
        self.closed = threading.Event()
        self.changed = threading.Condition()
        self._output: queue.Queue[tuple[Output, bytes] | None | Exception] = queue.Queue()
        self._unread: tuple[Output, bytes] | None = None
        self._status: queue.Queue[int | Exception] = queue.Queue()

    # The test's side.

    def say(self, data: bytes, stream: Output = Output.STDOUT) -> None:
        self._output.put((stream, data))

    def fail(self, error: Exception) -> None:
        self._output.put(error)

    def end(self, status: int = 0) -> None:
        self._status.put(status)
        self._output.put(None)

    def allow(self, room: int | None) -> None:
        """Take ``room`` more bytes of stdin, or any number."""
        with self.changed:
            self.room = room
            self.changed.notify_all()

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for ``condition`` over what is noted here."""
        with self.changed:
            assert self.changed.wait_for(condition, DEADLINE), self.calls

    # The gateway's side.

    def read(self, room: Room) -> tuple[Output, int] | None:
        if self._unread is None:
            output = self._output.get()
            if isinstance(output, Exception):
                raise output
            if output is None:
                return None
            self._unread = output
        stream, data = self._unread
        size = room.fill(data)
        self._unread = (stream, data[size:]) if size < len(data) else None
        return stream, size

    def write(self, data: bytes | memoryview) -> int:
        with self.changed:
            if self.broken:
                raise BrokenPipeError("nobody reads")
            size = len(data) if self.room is None else min(len(data), self.room)
            if self.room is not None:
                self.room -= size
            self.stdin += data[:size]
            self.changed.notify_all()
            return size

    def wait_writable(self, timeout: float) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: self.room != 0 or self.closed.is_set(), timeout)

    def close_stdin(self) -> None:
        self.stdin_closed.set()
        self._note("close_stdin")

    def close_output(self) -> None:
        self._note("close_output")

    def resize(self, terminal: Terminal) -> None:
        self._note(f"resize {terminal.columns}x{terminal.rows}")

    def signal(self, name: str) -> None:
        self._note(f"signal {name}")

    def wait(self) -> int:
        status = self._status.get()
        if isinstance(status, Exception):
            raise status
        return status

    def hang_up(self) -> None:
        self._note("hang_up")
        self.hung_up.set()
        self.end(129)

    def close(self) -> None:
        self.closed.set()
        self._output.put(None)
        with self.changed:
            self.changed.notify_all()

    def _note(self, call: str) -> None:
        with self.changed:
            self.calls.append(call)
            self.changed.notify_all()


class MemoryRuntime(Runtime):
    """A container with the users root and crunch; ``started`` gives the processes in the order of their start."""

    def __init__(self) -> None:
        self.started: queue.Queue[ScriptedProcess] = queue.Queue()
        self.processes: list[ScriptedProcess] = []
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.prepare: Callable[[ScriptedProcess], None] = lambda process: None

    def host(self) -> None:
        return None

    def directory(self) -> str:
        return "/"

    def obstacle(self, directory: str, account: Account) -> str:
        return ""

    def account(self, login_username: str) -> Account:
        if login_username in ("", "root"):
            return ROOT
        if login_username == "crunch":
            return CRUNCH
        raise Forbidden(f"container c has no user {login_username!r}")

    def start(self, command: Command) -> Process:
        assert self.gate.wait(DEADLINE)
        if self.error is not None:
            raise self.error
        process = ScriptedProcess(command)
        self.prepare(process)
        self.processes.append(process)
        self.started.put(process)
        return process

    def next(self) -> ScriptedProcess:
        return self.started.get(timeout=DEADLINE)


class LocalBroker:
    """A broker without a container. What it connects to is the near end of a pair; the test has the far one."""

    def __init__(self) -> None:
        self.far: queue.Queue[socket.socket] = queue.Queue()
        self.error: BrokerError | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.asked = threading.Semaphore(0)
        self.removed: list[str] = []
        self.closed = threading.Event()
        self.directory = ""

    def resolve(self, host: str) -> list[Found]:
        return [Found("127.0.0.1", True)]

    def connect(self, addresses: list[str], port: int) -> socket.socket:
        self.asked.release()
        assert self.gate.wait(DEADLINE)
        if self.error is not None:
            raise self.error
        near, far = socket.socketpair()
        self.far.put(far)
        return near

    def connect_unix(self, path: str) -> socket.socket:
        return self.connect([path], 0)

    def listen(self, host: str, port: int) -> Listening:
        assert self.gate.wait(DEADLINE)
        if self.error is not None:
            raise self.error
        sock = socket.create_server(("127.0.0.1", port))
        return Listening(1, [sock], port=sock.getsockname()[1])

    def listen_unix(self, path: str) -> Listening:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(path)
        sock.listen()
        return Listening(2, [sock], path=path)

    def listen_agent(self) -> Listening:
        return self.listen_unix(f"{self.directory}/agent")

    def remove(self, listening: Listening) -> None:
        self.removed.append(listening.path)

    def close(self) -> None:
        self.closed.set()
        self.gate.set()

    def next(self) -> socket.socket:
        sock = self.far.get(timeout=DEADLINE)
        sock.settimeout(DEADLINE)
        return sock


class Link:
    """One SSH connection: the gateway's server on one end of a socketpair, paramiko's client on the other.

    ``wanted`` are the client's own lists, by their names in paramiko's SecurityOptions.
    """

    def __init__(
        self,
        runtime: Runtime,
        login: Login,
        audit: ConnectionAudit | None = None,
        options: SessionOptions | None = None,
        wanted: dict[str, tuple[str, ...]] | None = None,
    ) -> None:
        self.ended = threading.Event()
        near, far = socket.socketpair()
        self.server = Connection(
            far, SECRET, login, runtime, lambda connection: self.ended.set(), audit=audit, options=options
        )
        self.server.start()
        # The packet size of OpenSSH; paramiko's window is smaller, which is no matter.
        self.client = paramiko.Transport(near, default_max_packet_size=32 * 1024)
        for kind, names in (wanted or {}).items():
            setattr(self.client.get_security_options(), kind, names)
        self.client.start_client(timeout=DEADLINE)

    @property
    def transport(self) -> Any:
        """The server's paramiko transport."""
        return self.server._transport

    def open(self, command: str | bytes | None = None) -> paramiko.Channel:
        """Open a session channel, and start ``command`` in it if there is one."""
        channel = self.client.open_session(timeout=DEADLINE)
        channel.settimeout(DEADLINE)
        if command is not None:
            channel.exec_command(command)
        return channel

    def close(self) -> None:
        self.client.close()
        self.server.close()
        assert self.ended.wait(DEADLINE), "the server's transport has not ended"
        for thread in (self.client, self.transport):
            thread.join(DEADLINE)
            assert not thread.is_alive()


def login(name: str = "", *, credential: str = CREDENTIAL, detach_keys: bytes = b"") -> Login:
    """Return what a controller has proven."""
    account = CRUNCH if name == "crunch" else ROOT
    return Login(name, account, credential, detach_keys, "req-1")


def read_to_end(channel: paramiko.Channel) -> tuple[bytes, bytes, int]:
    """Return stdout, stderr and the exit status."""
    out, err = bytearray(), bytearray()
    while data := channel.recv(65536):
        out += data
    while data := channel.recv_stderr(65536):
        err += data
    return bytes(out), bytes(err), channel.recv_exit_status()
