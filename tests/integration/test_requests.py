"""What a client can ask on a session and on a connection, and how sessions end, over the full path."""

from __future__ import annotations

import asyncio
import os
import queue
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, cast

import paramiko
import pytest
from paramiko import common
from paramiko.message import Message

from crunch_sshd.gateway.connection import Connection, Login
from crunch_sshd.runtimes.choose import choose
from crunch_sshd.runtimes.docker_engine import connect
from tests.integration.clients import USER, Way
from tests.integration.conftest import Ssh
from tests.integration.embedded_cluster import EmbeddedCluster, docker_container
from tests.integration.terminal import TerminalSession
from tests.timing import DEADLINE, wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="exit-signal and break need the runtime oci, and it root")

SESSIONS = 20
"""Sessions at once, more than sshd allows by default."""
OPEN_PROHIBITED, OPEN_UNKNOWN_TYPE = 1, 3


@pytest.fixture
def way(ssh: Ssh, debian: str) -> Way:
    """The way into the container of Debian."""
    return Way(ssh, debian)


class Asker:
    """A paramiko connection on which any request can be sent, and which notes the replies to them."""

    def __init__(self, transport: paramiko.Transport) -> None:
        self.transport = cast(Any, transport)
        self._replies: queue.Queue[bool] = queue.Queue()
        # paramiko itself closes a channel of which a request fails.
        table = dict(self.transport._channel_handler_table)
        table[common.MSG_CHANNEL_SUCCESS] = lambda channel, message: self._replies.put(True)
        table[common.MSG_CHANNEL_FAILURE] = lambda channel, message: self._replies.put(False)
        self.transport._channel_handler_table = table

    def session(self) -> paramiko.Channel:
        """Open a session channel."""
        channel: paramiko.Channel = self.transport.open_session(timeout=DEADLINE)
        channel.settimeout(DEADLINE)
        return channel

    def ask(self, channel: paramiko.Channel, kind: str, *fields: str | int) -> bool:
        """Send a channel request, and return whether it succeeded."""
        message = Message()
        message.add_byte(common.cMSG_CHANNEL_REQUEST)
        message.add_int(channel.remote_chanid)
        message.add_string(kind)
        message.add_boolean(True)
        for field in fields:
            if isinstance(field, int):
                message.add_int(field)
            else:
                message.add_string(field)
        self.transport._send_user_message(message)
        return self._replies.get(timeout=DEADLINE)

    def terminal(self, channel: paramiko.Channel) -> None:
        """Ask for a terminal."""
        assert self.ask(channel, "pty-req", "xterm", 80, 24, 0, 0, "")

    def works(self) -> bool:
        """Say whether the connection is still good for a session."""
        channel = self.session()
        return self.ask(channel, "exec", "exit 8") and channel.recv_exit_status() == 8


@pytest.fixture
def asker(way: Way) -> Iterator[Asker]:
    """A connection to Debian's container."""
    with way.by_paramiko() as transport:
        yield Asker(transport)


def read(channel: paramiko.Channel, end: bytes = b"") -> bytes:
    """Read a channel until ``end`` has come, or to its end."""
    seen = b""
    while not (end and end in seen):
        data = channel.recv(65536)
        if not data:
            break
        seen += data
    return seen


class TestEnvironment:
    """env requests (RFC 4254 §6.4)."""

    def test_refused_quietly(self, ssh: Ssh, container: str) -> None:
        """LANG and LC_* are set; any other variable is not, and ssh hears nothing of it."""
        wanted = "SetEnv=LANG=C.UTF-8 LC_COLOUR=blue COLOUR=red LD_PRELOAD=/x.so PATH=/nowhere"
        done = ssh("-o", wanted, container, "echo $LANG $LC_COLOUR [$COLOUR] [$LD_PRELOAD]; ls -d /tmp")
        assert (done.returncode, done.stdout, done.stderr) == (0, b"C.UTF-8 blue [] []\n/tmp\n", b"")

    def test_replies(self, asker: Asker) -> None:
        """A client that asks for replies gets success and failure."""
        channel = asker.session()
        assert asker.ask(channel, "env", "LC_ALL", "C")
        assert asker.ask(channel, "env", "TERM", "dumb")
        assert not asker.ask(channel, "env", "LD_LIBRARY_PATH", "/tmp")
        assert asker.ask(channel, "exec", "echo $LC_ALL $TERM [$LD_LIBRARY_PATH]")
        assert read(channel) == b"C dumb []\n"


class TestRefusals:
    """What nobody has heard of is refused, and the connection goes on."""

    def test_unknown_channel_request(self, asker: Asker) -> None:
        """An unknown request fails before a program starts, and while it runs."""
        channel = asker.session()
        assert not asker.ask(channel, "x11-req", "and more")
        assert asker.ask(channel, "exec", "cat")
        assert not asker.ask(channel, "nothing@example.org")
        channel.sendall(b"still here")
        channel.shutdown_write()
        assert read(channel) == b"still here"

    def test_unknown_channel_type(self, asker: Asker) -> None:
        """A channel of an unknown type is refused with RFC 4254's code for that."""
        with pytest.raises(paramiko.ChannelException) as refusal:
            asker.transport.open_channel("nothing@example.org", timeout=DEADLINE)
        assert refusal.value.code == OPEN_UNKNOWN_TYPE
        assert asker.works()

    def test_unknown_global_request(self, asker: Asker) -> None:
        """A global request of an unknown type gets a failure reply, as does a keepalive."""
        assert asker.transport.global_request("nothing@example.org", wait=True) is None
        assert asker.transport.global_request("keepalive@openssh.com", wait=True) is None
        assert asker.works()

    def test_second_program(self, asker: Asker) -> None:
        """A channel has one program; each way to ask for another is refused, and the first goes on."""
        channel = asker.session()
        assert asker.ask(channel, "exec", "cat; exit 4")
        assert not asker.ask(channel, "exec", "echo second")
        assert not asker.ask(channel, "shell")
        assert not asker.ask(channel, "subsystem", "sftp")
        channel.sendall(b"first")
        channel.shutdown_write()
        assert (read(channel), channel.recv_exit_status()) == (b"first", 4)

    def test_no_more_sessions(self, asker: Asker) -> None:
        """After no-more-sessions the open session goes on, and no other is opened."""
        channel = asker.session()
        asker.transport.global_request("no-more-sessions@openssh.com", wait=True)
        with pytest.raises(paramiko.ChannelException) as refusal:
            asker.session()
        assert refusal.value.code == OPEN_PROHIBITED
        assert asker.ask(channel, "exec", "exit 8") and channel.recv_exit_status() == 8


class TestSignals:
    """signal and break requests."""

    def test_signal_without_a_terminal(self, asker: Asker) -> None:
        """A signal reaches the program's process group."""
        channel = asker.session()
        assert asker.ask(channel, "exec", "trap 'echo usr1; exit 7' USR1; echo ready; while :; do sleep 0.1; done")
        read(channel, b"ready\n")
        assert asker.ask(channel, "signal", "USR1")
        assert (read(channel), channel.recv_exit_status()) == (b"usr1\n", 7)

    def test_signal_on_a_terminal(self, asker: Asker) -> None:
        """On a terminal a signal is for the foreground job, and the shell beneath it goes on."""
        channel = asker.session()
        asker.terminal(channel)
        assert asker.ask(channel, "exec", "bash --norc -i")
        channel.sendall(
            b'PS1=; bash -c \'trap "echo caught; exit 5" TERM; echo re""ady; while :; do sleep 0.1; done\'\r'
        )
        read(channel, b"ready\r\n")
        assert asker.ask(channel, "signal", "TERM")
        read(channel, b"caught\r\n")
        channel.sendall(b"echo shell $?; exit 9\r")
        assert b"shell 5\r\n" in read(channel)
        assert channel.recv_exit_status() == 9

    def test_signals_of_nobody(self, asker: Asker) -> None:
        """A signal before the program is refused; one of an unknown name does nothing."""
        channel = asker.session()
        assert not asker.ask(channel, "signal", "TERM")
        assert asker.ask(channel, "exec", "echo ready; cat")
        read(channel, b"ready\n")
        asker.ask(channel, "signal", "NOTHING")
        channel.shutdown_write()
        assert channel.recv_exit_status() == 0

    def test_break(self, asker: Asker) -> None:
        """A break is sent on a terminal, and refused where there is none."""
        piped, terminal = asker.session(), asker.session()
        asker.terminal(terminal)
        for channel in (piped, terminal):
            assert asker.ask(channel, "exec", "echo ready; read line")
            read(channel, b"ready")
        assert not asker.ask(piped, "break", 500)
        assert asker.ask(terminal, "break", 500)
        terminal.sendall(b"on\r")
        assert terminal.recv_exit_status() == 0


class TestExit:
    """How a session ends."""

    @pytest.mark.parametrize(("name", "number"), [("TERM", 15), ("KILL", 9), ("SEGV", 11), ("USR1", 10)])
    def test_death_by_signal(self, ssh: Ssh, container: str, name: str, number: int) -> None:
        """Death by signal n is 128 + n to stock ssh."""
        assert ssh(container, f"kill -{name} $$").returncode == 128 + number

    def test_exit_signal(self, way: Way) -> None:
        """A client that knows exit-signal is told which signal it was."""

        async def die(name: str) -> Any:
            async with way.by_asyncssh() as connection:
                return await connection.run(f"echo last; kill -{name} $$")

        for name in ("TERM", "KILL"):
            done = _run(die(name))
            assert done.stdout == "last\n"
            assert done.exit_signal is not None and done.exit_signal[0] == name

    @pytest.mark.parametrize("size", [100_000, 3_000_000])
    def test_slow_reader(self, asker: Asker, size: int) -> None:
        """With the client's window full, nothing is lost; not even when the program has ended long before."""
        channel = asker.transport.open_session(window_size=32768, timeout=DEADLINE)
        channel.settimeout(DEADLINE)
        assert asker.ask(channel, "exec", f"yes abcdefg | head -c {size}; echo; echo end; exit 3")
        assert asker.works()  # by now the window is full, and no neighbour minds
        seen = bytearray()
        while data := channel.recv(1000):
            seen += data
        assert bytes(seen) == b"abcdefg\n" * (size // 8) + b"\nend\n"
        assert channel.recv_exit_status() == 3

    def test_output_after_eof(self, way: Way) -> None:
        """All that a program says after the client's end of input arrives, and its status."""
        done = way.ssh(way.uuid, "cat >/dev/null; head -c 3000000 /dev/zero; exit 6", input=b"x")
        assert (done.returncode, len(done.stdout)) == (6, 3_000_000)


class TestRekey:
    """New keys in the middle of transfers."""

    def test_by_the_client(self, ssh: Ssh, debian: str) -> None:
        """Ten rekeys while data flows both ways change none of it."""
        data = os.urandom(20_000_000)
        done = ssh("-v", "-o", "RekeyLimit=1M", debian, "cat; exit 2", input=data)
        assert (done.returncode, done.stdout == data) == (2, True)
        assert done.stderr.count(b"SSH2_MSG_KEXINIT received") > 10

    def test_by_the_gateway(self, scratch: str) -> None:
        """The gateway asks stock ssh for new keys each megabyte, and data flows on both ways."""
        data = os.urandom(20_000_000)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = str(listener.getsockname()[1])
            serving = threading.Thread(target=self._serve, args=(listener, scratch))
            serving.start()
            trust = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
            done = subprocess.run(
                ["ssh", "-F", "none", "-v", *trust, "-p", port, f"{USER}@127.0.0.1", "busybox cat"],
                input=data, capture_output=True, timeout=DEADLINE,
            )  # fmt: skip
            serving.join(DEADLINE)
        assert (done.returncode, done.stdout == data) == (0, True), done.stderr
        assert done.stderr.count(b"SSH2_MSG_KEXINIT received") > 10

    def _serve(self, listener: socket.socket, uuid: str) -> None:
        """Serve one connection as a gateway does, with new keys each megabyte, which no setting could give."""
        ended = threading.Event()
        client, _ = listener.accept()
        with closing(connect()) as engine:
            # Not oci, which would have this process inherit what other tests orphan, and never wait for it.
            runtime = choose("docker", engine, docker_container(uuid), uuid)
            login = Login("", runtime.account(""), "", b"", "req-1")
            connection = Connection(client, "secret", login, runtime, lambda connection: ended.set())
            connection._transport.packetizer.REKEY_BYTES = 1 << 20
            connection.start()
            ended.wait(DEADLINE)


class TestConnection:
    """One connection with many sessions."""

    @contextmanager
    def master(self, ssh: Ssh, uuid: str, log: Path) -> Iterator[list[str]]:
        """Start a master without a session; give the options that use it and nothing else."""
        with tempfile.TemporaryDirectory(prefix="mux-") as directory, log.open("wb") as errors:
            path = f"{directory}/s"
            with ssh.start("-M", "-S", path, "-N", uuid, stderr=errors):
                wait_for(lambda: os.path.exists(path), "the master's socket")
                yield ["-S", path, "-o", "ProxyCommand=false"]

    def test_control_master(self, ssh: Ssh, container: str, tmp_path: Path) -> None:
        """Twenty sessions at once have each its own input, output and status, and there is room for another."""
        with self.master(ssh, container, tmp_path / "log") as shared, ExitStack() as stack:
            commands = [f"echo ready; cat; exit {number}" for number in range(SESSIONS)]
            sessions = [stack.enter_context(ssh.start(*shared, container, command)) for command in commands]
            for session in sessions:
                assert session.stdout and session.stdout.readline() == b"ready\n"
            assert ssh(*shared, container, "echo room").stdout == b"room\n"
            for number, session in enumerate(sessions):
                out, _ = session.communicate(b"input %d" % number, timeout=DEADLINE)
                assert (out, session.returncode) == (b"input %d" % number, number)

    def test_keepalive(self, ssh: Ssh, container: str) -> None:
        """A client that wants a sign of life each second gets it, and its quiet session goes on."""
        alive = ["-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=1"]
        done = ssh(*alive, container, "sleep 3.5; echo awake")
        assert (done.returncode, done.stdout, done.stderr) == (0, b"awake\n", b"")


class TestDetachKeys:
    """Leaving a program to itself, as docker attach does."""

    def shell(self, cluster: EmbeddedCluster, *arguments: str) -> TerminalSession:
        """Start ``arvados-client shell`` on a terminal."""
        program = Path(sys.executable).with_name("arvados-client")
        known = ["--known-hosts-dir", str(cluster.directory.root / "known_hosts")]
        return TerminalSession([str(program), "shell", "--settings", str(cluster.directory.env), *known, *arguments])

    def test_program_goes_on(self, cluster: EmbeddedCluster, ssh: Ssh, container: str) -> None:
        """The keys end the session with 0; the program stays, is not hung up, and can still write."""
        place = ssh(container, "mktemp -d /tmp/detach.XXXXXX").stdout.decode().strip()
        program = f"echo ready; until [ -e {place}/go ]; do sleep 0.1; done; echo to nobody; echo $? >{place}/done"
        with self.shell(cluster, "--detach-keys", "ctrl-p,ctrl-q", container, "-tt", program) as terminal:
            terminal.expect("ready")
            terminal.type("\x10\x11")
            assert terminal.wait() == 0
        ssh(container, f"touch {place}/go")
        wait_for(lambda: ssh(container, f"cat {place}/done").stdout == b"0\n", "the program to go on")
        ssh(container, f"rm -r {place}")

    def test_one_of_the_keys_is_typing(self, cluster: EmbeddedCluster, container: str) -> None:
        """A beginning of the sequence that goes on otherwise reaches the program, late and whole."""
        program = "stty raw -echo; echo ready; head -c 2 | od -An -tx1"
        with self.shell(cluster, "--detach-keys", "ctrl-p,ctrl-q", container, "-tt", program) as terminal:
            terminal.expect("ready")
            terminal.type("\x10x")
            terminal.expect("10 78")
            assert terminal.wait() == 0

    def test_off_by_default(self, cluster: EmbeddedCluster, container: str) -> None:
        """Without the flag both keys are the program's."""
        program = "stty raw -echo; echo ready; head -c 3 | od -An -tx1"
        with self.shell(cluster, container, "-tt", program) as terminal:
            terminal.expect("ready")
            terminal.type("\x10\x11x")
            terminal.expect("10 11 78")
            assert terminal.wait() == 0


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, DEADLINE))
