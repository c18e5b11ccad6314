"""Channels as exact as sshd's, with each runtime that an engine's container has: who reads no more, who is gone."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import asyncssh
import pytest

from crunch_sshd.ssh.descriptors import RESERVE
from tests.integration.clients import USER
from tests.integration.embedded_cluster import docker
from tests.integration.inside import SERVER, running_in
from tests.integration.proxies import free_port
from tests.timing import DEADLINE, wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the runtime oci needs root on the container's host")

MANY = 450
"""Connections at once: more than a gateway had room for when each of its limits was a number."""


STUBBORN = 'trap : HUP; trap "" TERM; while :; do sleep 0.2; done'
"""What ends by the last of the signals of a hang-up."""


class Gateway:
    """A container, and the gateway's SSH server for it alone on a TCP port, with one runtime."""

    def __init__(self, kind: str, container: str) -> None:
        self.kind = kind
        self.container = container
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.bare_gateway", container, "0", kind], stdout=subprocess.PIPE
        )
        assert self._process.stdout
        self.port = int(self._process.stdout.readline())

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def command(self, *arguments: str) -> list[str]:
        """Return ssh's command line; arguments are options, and then what to run there, or "" for nothing."""
        known = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
        *options, command = arguments
        words = ["ssh", "-F", "none", *options, *known, "-p", str(self.port), f"{USER}@127.0.0.1"]
        return [*words, command] if command else words

    @contextmanager
    def start(self, *arguments: str, **popen: Any) -> Iterator[subprocess.Popen[bytes]]:
        """Start ssh with pipes; it is killed at the end of the block if it still runs."""
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(self.command(*arguments), **(pipes | popen)) as process:
            try:
                yield process
            finally:
                process.kill()

    def run(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """Run ssh to its end."""
        return subprocess.run(
            self.command(*arguments), stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE
        )

    def inside(self, script: str) -> str:
        """Return what a script prints that the engine executes in the container."""
        return docker("exec", self.container, "sh", "-c", script)

    def kill(self, command_line: str) -> None:
        """End the container's processes with exactly this command line."""
        self.inside(f"ps -eo pid=,args= | grep ' {command_line}$' | sed 's/^ *//; s/ .*//' | xargs kill")

    def state(self, command_line: str) -> str:
        """Return the state (proc(5)) of the container's process with exactly this command line; "" for none."""
        found = self.inside("ps -eo stat=,args=").splitlines()
        return next((state for state, _, words in (line.strip().partition(" ") for line in found)
                     if words.strip() == command_line and not state.startswith("Z")), "")  # fmt: skip


@pytest.fixture(scope="module")
def container() -> Iterator[str]:
    """A container of Debian's."""
    name = docker("run", "--detach", "--rm", "arv-ssh/debian:test", "sleep", "1000000")
    yield name
    docker("rm", "--force", name)


@pytest.fixture(scope="module", params=["oci", "docker"])
def gateway(request: pytest.FixtureRequest, container: str) -> Iterator[Gateway]:
    """A gateway with each of the runtimes."""
    found = Gateway(request.param, container)
    yield found
    found.close()


class TestReaderThatLeaves:
    """A client whose stdout is closed, as in ``ssh UUID yes | head -1``."""

    def end_of(self, gateway: Gateway, command: str, *options: str) -> int:
        """Read one line of the command's output, then close it; return ssh's exit status."""
        with gateway.start(*options, command, stdin=subprocess.DEVNULL) as process:
            assert process.stdout
            assert process.stdout.readline() == b"y\n"
            process.stdout.close()
            return process.wait(DEADLINE)

    def test_program(self, gateway: Gateway) -> None:
        """The program is ended by SIGPIPE, and so is the session."""
        assert self.end_of(gateway, "yes") == 128 + signal.SIGPIPE
        assert not gateway.state("yes")

    def test_what_follows(self, gateway: Gateway) -> None:
        """The shell that waits for the program goes on, and its status is the session's."""
        assert self.end_of(gateway, "yes; echo $? >/tmp/followed; exit 3") == 3
        assert gateway.inside("cat /tmp/followed; rm /tmp/followed") == str(128 + signal.SIGPIPE)

    def test_program_that_ignores_it(self, gateway: Gateway) -> None:
        """A program that ignores SIGPIPE gets an error from its write, or is hung up where the engine has the pipe."""
        status = self.end_of(gateway, "trap '' PIPE; yes 2>/dev/null; exit 4")
        assert status == (4 if gateway.kind == "oci" else 128 + signal.SIGHUP)
        assert not gateway.state("yes")

    def test_quiet_program(self, gateway: Gateway) -> None:
        """A program that writes no more is not disturbed."""
        assert self.end_of(gateway, "echo y; sleep 1; exit 5") == 5

    def test_terminal(self, gateway: Gateway) -> None:
        """On a terminal the program waits once that is full, as with sshd, and ends with the client."""
        with gateway.start("-tt", "exec yes terminal", stdin=subprocess.DEVNULL) as process:
            assert process.stdout and process.stdout.readline() == b"terminal\r\n"
            process.stdout.close()
            wait_for(lambda: gateway.state("yes terminal").startswith("S"), "the program to wait")
            assert process.poll() is None
        wait_for(lambda: not gateway.state("yes terminal"), "its end")

    def test_file_server(self, gateway: Gateway) -> None:
        """The file server ends too."""
        with gateway.start("-s", "sftp") as process:
            assert process.stdin and process.stdout and process.stderr
            process.stdin.write(b"\0\0\0\x05\x01\0\0\0\x03")
            process.stdin.flush()
            assert process.stdout.read(9)[4:] == b"\x02\0\0\0\x03"
            process.stdout.close()

            def ended() -> bool:  # one answer tells ssh that its stdout is closed, and a later one the file server
                with suppress(BrokenPipeError):
                    process.stdin.write(b"\0\0\0\x0a\x10\0\0\0\x01\0\0\0\x01.")  # type: ignore[union-attr]
                    process.stdin.flush()  # type: ignore[union-attr]
                return process.poll() is not None

            wait_for(ended, "the session's end")
            assert (process.returncode, process.stderr.read()) == (0, b"")
            with suppress(BrokenPipeError):
                process.stdin.close()  # with what it could not write


class TestGoneClient:
    """What a client that is killed leaves."""

    def hang_up(self, gateway: Gateway, command: str, *running: str, options: tuple[str, ...] = ()) -> None:
        """Kill a client whose command has started the programs ``running``; return once its session is hung up."""
        with gateway.start(*options, f"sh -c '{STUBBORN}' & {command}", stdin=subprocess.DEVNULL) as process:
            for one in (*running, f"sh -c {STUBBORN}"):
                wait_for(lambda one=one: gateway.state(one), one)  # type: ignore[misc]
            process.kill()
        wait_for(lambda: not gateway.state(f"sh -c {STUBBORN}"), "the end")

    @pytest.mark.parametrize("options", [(), ("-tt",)], ids=["pipes", "terminal"])
    def test_nohup(self, gateway: Gateway, options: tuple[str, ...]) -> None:
        """What ignores SIGHUP goes on, with what it starts; the rest of the session ends."""
        command = "nohup sh -c 'sleep 8101; sleep 8102' >/dev/null 2>&1 & sleep 8103 & sleep 8104"
        self.hang_up(gateway, command, "sleep 8101", "sleep 8103", "sleep 8104", options=options)
        assert not gateway.state("sleep 8104") and not gateway.state("sleep 8103")
        assert gateway.state("sleep 8101")
        gateway.kill("sleep 8101")
        wait_for(lambda: gateway.state("sleep 8102"), "its next program")
        gateway.kill("sleep 8102")

    def test_foreground(self, gateway: Gateway) -> None:
        """A program in the foreground of a terminal that ignores SIGHUP goes on, and leaves no zombie at its end."""
        self.hang_up(gateway, "exec nohup sleep 8105", "sleep 8105", options=("-tt",))
        assert gateway.state("sleep 8105")
        gateway.kill("sleep 8105")
        wait_for(lambda: not gateway.state("sleep 8105") and not zombies(gateway.pid), "its end")


def can_connect(port: int) -> bool:
    """Say whether something listens at a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def zombies(parent: int) -> list[str]:
    """Return the states of the zombies that are children of a process."""
    listed = subprocess.run(["ps", "-o", "stat=", "--ppid", str(parent)], capture_output=True, text=True).stdout
    return [line for line in listed.splitlines() if line.startswith("Z")]


class TestMany:
    """Many of something on one connection."""

    def connected(self, gateway: Gateway, use: Any) -> Any:
        """Run ``use`` with a connection of asyncssh."""

        async def run() -> Any:
            async with asyncssh.connect(
                "127.0.0.1", gateway.port, username=USER, known_hosts=None, config=None, client_keys=None,
                agent_path=None,
            ) as connection:  # fmt: skip
                return await use(connection)

        return asyncio.run(asyncio.wait_for(run(), 2 * DEADLINE))

    def test_sessions(self, gateway: Gateway) -> None:
        """A hundred sessions at once have each their own input, output and status; the next is refused in words."""

        async def use(connection: asyncssh.SSHClientConnection) -> None:
            sessions = [await connection.create_process(f"cat; exit {number}") for number in range(100)]
            with pytest.raises(asyncssh.ChannelOpenError, match="has 100 sessions open, its limit") as refused:
                await connection.create_process("true")
            assert refused.value.code == asyncssh.OPEN_RESOURCE_SHORTAGE
            for number, session in enumerate(sessions):
                done = await session.communicate(f"input {number}")
                assert (done[0], session.returncode) == (f"input {number}", number)

        self.connected(gateway, use)

    def test_forwarded_connections(self, gateway: Gateway) -> None:
        """Hundreds of connections through one port are open at once, and each of them carries its own data."""

        async def talk(port: int, number: int, all_open: asyncio.Barrier) -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"%d" % number)
            first = await reader.readexactly(len(b"%d" % number))
            await all_open.wait()
            writer.write(b"!")
            writer.write_eof()
            rest = await reader.read()
            writer.close()
            return first + rest

        async def use(port: int) -> list[bytes]:
            all_open = asyncio.Barrier(MANY)
            return await asyncio.gather(*(talk(port, number, all_open) for number in range(MANY)))

        local = free_port()
        with running_in(gateway.container, SERVER, "echo", "127.0.0.1") as port:
            with gateway.start("-N", "-L", f"{local}:127.0.0.1:{port}", "-o", "LogLevel=INFO", "") as process:
                wait_for(lambda: can_connect(local), "ssh to listen")
                found = asyncio.run(asyncio.wait_for(use(local), DEADLINE))
                process.kill()
                assert process.stderr and b"open failed" not in process.stderr.read()
        assert found == [b"%d!" % number for number in range(MANY)]


    def test_descriptors_for_others(self, gateway: Gateway) -> None:
        """Forwarded connections take descriptors until the reserve is left; then they are refused; others log in."""

        async def use(connection: asyncssh.SSHClientConnection) -> None:
            with running_in(gateway.container, SERVER, "stuck", "127.0.0.1") as port:
                with pytest.raises(asyncssh.ChannelOpenError, match="no room for another connection") as refused:
                    opened = [await connection.open_connection("127.0.0.1", port) for _ in range(room)]
                    pytest.fail(f"{len(opened)} connections were open at once")
                done = await asyncio.to_thread(gateway.run, "echo served")
            assert refused.value.code == asyncssh.OPEN_RESOURCE_SHORTAGE
            assert (done.returncode, done.stdout) == (0, b"served\n"), done.stderr

        room = 60
        wait_for(lambda: len(os.listdir(f"/proc/{gateway.pid}/fd")) < room, "the end of what other tests opened")
        limits = resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (room + RESERVE, limits[1]))
        try:
            self.connected(gateway, use)
        finally:
            resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, limits)


def test_symbolic_link(gateway: Gateway) -> None:
    """A client that has OpenSSH's order of a link's paths for servers named OpenSSH makes the link that is meant."""

    async def use(connection: asyncssh.SSHClientConnection) -> None:
        async with connection.start_sftp_client() as sftp:
            await sftp.symlink("what is meant", "/tmp/link")

    TestMany().connected(gateway, use)
    assert gateway.inside("readlink /tmp/link; rm /tmp/link") == "what is meant"


def test_refused_remote_forwarding(gateway: Gateway) -> None:
    """A connection to a SOCKS port in the container that the client itself refuses to go on with ends at once."""
    ask = (
        "import socket, sys; s = socket.create_connection(('127.0.0.1', int(sys.argv[1])));"
        r"s.sendall(b'\5\1\0'); print(s.recv(2)); s.sendall(b'\5\1\0\1\x7f\0\0\1\0\x16'); print(s.recv(9))"
    )
    with gateway.start("-N", "-o", "LogLevel=INFO", "-R", "0", "-o", "PermitRemoteOpen=none", "") as process:
        assert process.stderr
        port = next(line.split()[2].decode() for line in process.stderr if line.startswith(b"Allocated port "))
        assert docker("exec", gateway.container, "timeout", "30", "python3", "-c", ask, port) == r"b'\x05\x00'" "\nb''"
