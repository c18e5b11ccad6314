"""Forwarding through stock ssh into real containers: every way that a user is promised, and what a failure says."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import select
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import yaml

from arv_ssh.processes import process_lock
from crunch_sshd.forwarding.broker import BrokerClient
from crunch_sshd.runtimes import Account, bundle, host_processes
from crunch_sshd.runtimes.host_container import HostContainer
from tests.integration.conftest import FOREVER, Ssh
from tests.integration.embedded_cluster import EmbeddedCluster, docker, docker_container
from tests.integration.inside import FETCH, NAME_SERVER, SERVER, execute, in_network, running
from tests.timing import DEADLINE, SECOND, wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the gateway needs root to enter a container's namespaces")


def fetch(ssh: Ssh, uuid: str, host: str, port: int, *options: str) -> bytes:
    """Return what a server that ``ssh -W`` reaches says first."""
    done = ssh(*options, "-W", f"{f'[{host}]' if ':' in host else host}:{port}", uuid)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refusal(ssh: Ssh, uuid: str, host: str, port: int, *options: str) -> str:
    """Return what ssh says of a connection that could not be made: the reason code in words, and the text."""
    done = ssh(*options, "-W", f"{host}:{port}", uuid)
    assert done.returncode == 255
    found = re.search(r"open failed: (.*)", done.stderr.decode())
    assert found, done.stderr
    return found[1].strip()


class Master:
    """One ssh connection without a session, that is told with ``ssh -O``."""

    def __init__(self, ssh: Ssh, uuid: str, *options: str) -> None:
        self._ssh = ssh
        self._uuid = uuid
        # Not below pytest's own directory: the path of a unix socket has 107 bytes at most.
        self._directory = tempfile.TemporaryDirectory(prefix="ssh-")
        self._socket = f"{self._directory.name}/master"
        arguments = ["-N", "-M", "-S", self._socket, "-o", "ExitOnForwardFailure=yes", *options, uuid]
        self._process = subprocess.Popen(
            ssh.command(*arguments), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        wait_for(self._is_up, "the connection")

    def _is_up(self) -> bool:
        assert self._process.poll() is None, self._process.communicate()
        return self("check", check=False).returncode == 0

    def __call__(self, action: str, *options: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        done = self._ssh("-S", self._socket, "-O", action, *options, self._uuid)
        assert not check or done.returncode == 0, done.stderr
        return done

    def listen(self, forward: str) -> int:
        """Have a port of the container's forwarded; return which."""
        return int(self("forward", "-R", forward).stdout or forward.split(":")[0])

    def close(self) -> None:
        self("exit", check=False)
        self._process.communicate(timeout=DEADLINE)
        self._directory.cleanup()

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate(timeout=DEADLINE)
        self._directory.cleanup()


@pytest.fixture
def master(ssh: Ssh, debian: str) -> Iterator[Callable[..., Master]]:
    """Open connections into the Debian container; they are closed after the test."""
    with ExitStack() as stack:

        def start(*options: str, uuid: str = debian) -> Master:
            one = Master(ssh, uuid, *options)
            stack.callback(one.close)
            return one

        yield start


@pytest.fixture
def short() -> Iterator[Path]:
    """Return a directory whose path is short enough for unix sockets."""
    with tempfile.TemporaryDirectory(prefix="ssh-") as directory:
        yield Path(directory)


@contextmanager
def host_server(answer: Callable[[socket.socket], None], address: str = "127.0.0.1") -> Iterator[int]:
    """Serve on this machine; give the port."""
    with socket.create_server((address, 0), backlog=256) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=one, args=(connection,), daemon=True).start()

        def one(connection: socket.socket) -> None:
            with connection:
                answer(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(DEADLINE)


def greet(connection: socket.socket) -> None:
    connection.sendall(b"hello from the client's side\n")


def repeat(connection: socket.socket) -> None:
    """Answer after the end of file: with what came."""
    connection.sendall(b"got " + b"".join(iter(lambda: connection.recv(65536), b"")))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), DEADLINE)


def read_all(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(65536), b""))


class TestDestinations:
    """What ``-W``, ``-L`` and ``-D`` reach."""

    def test_loopback(self, ssh: Ssh, debian: str) -> None:
        """The container's 127.0.0.1 is its own, not this machine's; the server may speak first."""
        with running(debian, SERVER, "greet", "127.0.0.1") as port:
            assert fetch(ssh, debian, "127.0.0.1", port) == b"hello from 127.0.0.1\n"
            assert fetch(ssh, debian, "localhost", port) == b"hello from 127.0.0.1\n"

    def test_loopback_of_ipv6(self, ssh: Ssh, debian: str) -> None:
        """The container's ::1 is reached, by address and as localhost."""
        if not Path("/proc/sys/net/ipv6").exists():
            pytest.skip("this machine's kernel has no IPv6")
        in_network(debian, "sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/lo/disable_ipv6")
        with running(debian, SERVER, "greet", "::1") as port:
            assert fetch(ssh, debian, "::1", port) == b"hello from ::1\n"
            assert fetch(ssh, debian, "localhost", port) == b"hello from ::1\n"

    def test_own_address_and_host_name(self, ssh: Ssh, debian: str) -> None:
        """The container's address on its network is reached, and its host name, which only its /etc/hosts knows."""
        address = docker("inspect", "-f", "{{.NetworkSettings.IPAddress}}", docker_container(debian))
        with running(debian, SERVER, "greet", address) as port:
            assert fetch(ssh, debian, address, port) == f"hello from {address}\n".encode()
            name = execute(debian, "hostname").strip()
            assert fetch(ssh, debian, name, port) == f"hello from {address}\n".encode()

    def test_routed_address(self, ssh: Ssh, debian: str) -> None:
        """What the container can route to is reached from the container: here this machine's end of its bridge."""
        bridge = docker("inspect", "-f", "{{.NetworkSettings.Gateway}}", docker_container(debian))
        address = docker("inspect", "-f", "{{.NetworkSettings.IPAddress}}", docker_container(debian))
        peers: list[str] = []

        def note(connection: socket.socket) -> None:
            peers.append(connection.getpeername()[0])
            greet(connection)

        with host_server(note, bridge) as port:
            assert fetch(ssh, debian, bridge, port) == b"hello from the client's side\n"
        assert peers == [address]

    def test_names_of_the_containers_resolver(self, ssh: Ssh, cluster: EmbeddedCluster) -> None:
        """Names are asked of the name server in the container's own network, with search domains, by UDP and TCP."""
        uuid = cluster.run(*FOREVER, image="arv-ssh/debian:test")
        conf = "nameserver 127.0.0.1\nsearch corp.example\noptions timeout:1 attempts:1\n"
        execute(uuid, "sh", "-c", f"printf '{conf}' > /etc/resolv.conf")
        with running(uuid, NAME_SERVER), running(uuid, SERVER, "greet", "127.0.0.1") as port:
            for name in ("svc", "svc.corp.example", "SVC.corp.example.", "big"):
                assert fetch(ssh, uuid, name, port) == b"hello from 127.0.0.1\n", name
            assert refusal(ssh, uuid, "none", port).endswith(f"connect to none port {port}: Name or service not known")
            assert refusal(ssh, uuid, "slow.corp.example", port).endswith("Temporary failure in name resolution")

    def test_without_a_network(self, ssh: Ssh, cluster: EmbeddedCluster) -> None:
        """A container without any network but its loopback is served like any other."""
        uuid = cluster.run(*FOREVER, image="arv-ssh/debian:test")
        docker("network", "disconnect", "bridge", docker_container(uuid))
        with running(uuid, SERVER, "greet", "127.0.0.1") as port:
            assert fetch(ssh, uuid, "localhost", port) == b"hello from 127.0.0.1\n"
            assert "Network is unreachable" in refusal(ssh, uuid, "192.0.2.1", 80)

    def test_network_none(self) -> None:
        """The same in a container that docker made with --network none: connecting, listening, names."""
        name = f"arv-ssh-test-none-{os.getpid()}"
        docker("run", "-d", "--name", name, "--network", "none", "arv-ssh/busybox:test", *FOREVER)
        try:
            pid, identifier = docker("inspect", "-f", "{{.State.Pid}} {{.Id}}", name).split()
            container = HostContainer(int(pid), bundle.find(identifier))
            broker = BrokerClient(container, Account("crunch", 1000, 1000, "/home/crunch", "/bin/sh", "crunch"))
            listening = broker.listen("localhost", 0)
            with broker.connect([one.address for one in broker.resolve("localhost")], listening.port) as near:
                far, _ = listening.sockets[0].accept()
                far.sendall(b"there")
                assert near.recv(10) == b"there"
                far.close()
            for sock in listening.sockets:
                sock.close()
            broker.close()
        finally:
            docker("rm", "-f", name)

    def test_image_without_anything(self, ssh: Ssh, scratch: str, master: Callable[..., Master]) -> None:
        """An image with one program and no files needs nothing more for forwarding, both ways."""
        assert refusal(ssh, scratch, "localhost", 1).endswith("connect to localhost port 1: Connection refused")
        with host_server(greet) as port:
            inside = master(uuid=scratch).listen(f"0:127.0.0.1:{port}")
            assert fetch(ssh, scratch, "127.0.0.1", inside) == b"hello from the client's side\n"

    def test_local_forwarding(self, debian: str, master: Callable[..., Master]) -> None:
        """-L: a port of this machine's leads to the container's server."""
        with running(debian, SERVER, "greet", "127.0.0.1") as port:
            local = free_port()
            master("-L", f"{local}:localhost:{port}")
            with connect(local) as sock:
                assert read_all(sock) == b"hello from 127.0.0.1\n"

    def test_dynamic_forwarding(self, debian: str, master: Callable[..., Master]) -> None:
        """-D: curl reaches the container's web server through SOCKS, by the name that the container gives it."""
        script = (
            "import http.server, sys, threading\n"
            "s = http.server.HTTPServer(('127.0.0.1', 0), http.server.SimpleHTTPRequestHandler)\n"
            "print(s.server_port, flush=True)\n"
            "threading.Thread(target=s.serve_forever, daemon=True).start()\n"
            "sys.stdin.read()\n"
        )
        with running(debian, script) as port:
            local = free_port()
            master("-D", str(local))
            url = f"http://localhost:{port}/etc/hostname"
            done = subprocess.run(
                ["curl", "-sS", "--socks5-hostname", f"127.0.0.1:{local}", url],
                capture_output=True, text=True, timeout=DEADLINE,
            )  # fmt: skip
            assert done.stdout == execute(debian, "cat", "/etc/hostname"), done.stderr


class TestFailures:
    """What ssh says when there is nothing to connect to: the reason code in words, then the text."""

    def test_refused(self, ssh: Ssh, container: str) -> None:
        """A port where nothing listens is "connect failed" (code 2) and says so."""
        expected = "connect failed: connect to 127.0.0.1 port 1: Connection refused"
        assert refusal(ssh, container, "127.0.0.1", 1) == expected

    def test_unknown_name(self, ssh: Ssh, debian: str) -> None:
        """A name that nobody knows is "connect failed" with the resolver's own words."""
        expected = "connect failed: connect to nothing.invalid port 80: "
        assert refusal(ssh, debian, "nothing.invalid", 80).removeprefix(expected) in (
            "Name or service not known", "Temporary failure in name resolution",
        )  # fmt: skip

    def test_port_zero(self, ssh: Ssh, debian: str) -> None:
        """Port 0 is none to connect to, and the connection lives on."""
        done = ssh("-o", "ControlPath=none", "-W", "127.0.0.1:0", debian)
        assert done.returncode == 255

    def test_stuck_connect_holds_up_nobody(self, ssh: Ssh, debian: str, master: Callable[..., Master]) -> None:
        """While one connection waits for an address that never answers, others are made at once."""
        stuck, live = free_port(), free_port()
        with (
            running(debian, SERVER, "full", "127.0.0.1") as full,
            running(debian, SERVER, "greet", "127.0.0.1") as port,
        ):
            master("-L", f"{stuck}:127.0.0.1:{full}", "-L", f"{live}:127.0.0.1:{port}")
            waiting = [connect(stuck) for _ in range(5)]
            with connect(live) as sock:
                assert read_all(sock) == b"hello from 127.0.0.1\n"
            for one in waiting:
                one.close()


class TestData:
    """How the data goes through."""

    def test_half_close_from_the_client(self, debian: str, master: Callable[..., Master]) -> None:
        """The server hears the client's end of file and still answers: 5 MB up, a digest down."""
        data = os.urandom(5_000_000)
        local = free_port()
        with running(debian, SERVER, "digest", "127.0.0.1") as port:
            master("-L", f"{local}:127.0.0.1:{port}")
            with connect(local) as sock:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
                assert read_all(sock) == hashlib.sha256(data).hexdigest().encode() + b"\n"

    def test_half_close_from_the_server(self, debian: str, master: Callable[..., Master]) -> None:
        """A server's end of file reaches the client, whose own data still reaches the server."""
        got: list[bytes] = []
        done = threading.Event()

        def first_the_end(connection: socket.socket) -> None:
            connection.shutdown(socket.SHUT_WR)
            got.append(read_all(connection))
            done.set()

        with host_server(first_the_end) as port:
            one = master()
            inside = one.listen(f"0:127.0.0.1:{port}")
            script = (
                "import socket, sys\n"
                f"s = socket.create_connection(('127.0.0.1', {inside}), 30)\n"
                "assert s.recv(10) == b''\n"
                "s.sendall(b'after the end')\n"
            )
            execute(debian, "python3", "-c", script)
            assert done.wait(DEADLINE)
        assert got == [b"after the end"]

    def test_a_hundred_channels(self, debian: str, master: Callable[..., Master]) -> None:
        """A hundred connections at once each carry their own bytes."""
        local = free_port()
        with running(debian, SERVER, "echo", "127.0.0.1") as port, ExitStack() as stack:
            master("-L", f"{local}:127.0.0.1:{port}")
            socks = [stack.enter_context(connect(local)) for _ in range(100)]
            for number, sock in enumerate(socks):
                sock.sendall(f"number {number}".encode() * 1000)
                sock.shutdown(socket.SHUT_WR)
            for number, sock in enumerate(socks):
                assert read_all(sock) == f"number {number}".encode() * 1000

    def test_stuck_channel_holds_up_nobody(self, debian: str, master: Callable[..., Master]) -> None:
        """A server that reads nothing fills its own window; a neighbour on the connection moves 20 MB meanwhile."""
        stuck_port, local = free_port(), free_port()
        data = os.urandom(20_000_000)
        with (
            running(debian, SERVER, "stuck", "127.0.0.1") as stuck,
            running(debian, SERVER, "digest", "127.0.0.1") as port,
        ):
            master("-L", f"{stuck_port}:127.0.0.1:{stuck}", "-L", f"{local}:127.0.0.1:{port}")
            with connect(stuck_port) as full:
                full.setblocking(False)
                fill(full)
                with connect(local) as sock:
                    sock.sendall(data)
                    sock.shutdown(socket.SHUT_WR)
                    assert read_all(sock) == hashlib.sha256(data).hexdigest().encode() + b"\n"

    def test_unix_socket_inside(self, debian: str, master: Callable[..., Master], short: Path) -> None:
        """-L with a path leads to a unix socket of the container's; a missing one is a failure of that connection."""
        near, none = short / "near", short / "none"
        with running(debian, SERVER, "digest", "/tmp/digest.sock"):
            master("-L", f"{near}:/tmp/digest.sock", "-L", f"{none}:/tmp/nothing.sock")
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(DEADLINE)
                sock.connect(str(near))
                sock.sendall(b"data")
                sock.shutdown(socket.SHUT_WR)
                assert read_all(sock) == hashlib.sha256(b"data").hexdigest().encode() + b"\n"
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(DEADLINE)
                sock.connect(str(none))
                assert read_all(sock) == b""


def fill(sock: socket.socket) -> None:
    """Send until nothing more is taken for a second."""
    while select.select([], [sock], [], SECOND)[1]:
        try:
            sock.send(bytes(65536))
        except BlockingIOError:
            continue


def is_listening(uuid: str, port: int) -> bool:
    """Say whether something listens at a port of a container's 127.0.0.1 (state 0A of /proc/net/tcp, proc(5))."""
    return f"0100007F:{port:04X} 00000000:0000 0A" in in_network(uuid, "cat", "/proc/net/tcp")


class TestRemote:
    """-R: listening inside the container."""

    def test_any_port_and_cancel(self, debian: str, master: Callable[..., Master]) -> None:
        """Port 0 gets a free port, which programs inside reach on the loopback; after cancel it is free again."""
        with host_server(repeat) as port:
            one = master()
            inside = one.listen(f"0:127.0.0.1:{port}")
            assert execute(debian, "python3", "-c", FETCH, "INET", "127.0.0.1", str(inside)) == "got from inside"
            assert is_listening(debian, inside)
            one("cancel", "-R", f"0:127.0.0.1:{port}")  # by the words that asked for it, says OpenSSH
            wait_for(lambda: not is_listening(debian, inside), "the port's end")
            assert one.listen(f"{inside}:127.0.0.1:{port}") == inside, "the connection lives on, the port is free"

    def test_every_address(self, debian: str, master: Callable[..., Master]) -> None:
        """-R *:0 listens on the container's own address too."""
        address = docker("inspect", "-f", "{{.NetworkSettings.IPAddress}}", docker_container(debian))
        with host_server(greet) as port:
            inside = int(master()("forward", "-R", f"*:0:127.0.0.1:{port}").stdout)
            with socket.create_connection((address, inside), DEADLINE) as sock:
                assert read_all(sock) == b"hello from the client's side\n"

    def test_port_in_use(self, debian: str, master: Callable[..., Master]) -> None:
        """A port that the container uses already is refused, and the connection lives on."""
        one = master()
        with running(debian, SERVER, "greet", "127.0.0.1") as port:
            assert one("forward", "-R", f"127.0.0.1:{port}:127.0.0.1:1", check=False).returncode != 0
        one("check")

    def test_unix_socket(self, debian: str, master: Callable[..., Master]) -> None:
        """-R with a path makes a socket for the user alone; it is gone after cancel, and after the connection."""
        with host_server(repeat) as port:
            one = master()
            one("forward", "-R", f"/tmp/remote.sock:127.0.0.1:{port}")
            assert execute(debian, "stat", "-c", "%a %F", "/tmp/remote.sock") == "600 socket\n"
            assert execute(debian, "python3", "-c", FETCH, "UNIX", "/tmp/remote.sock") == "got from inside"
            one("cancel", "-R", f"/tmp/remote.sock:127.0.0.1:{port}")
            wait_for(lambda: execute(debian, "find", "/tmp", "-name", "remote.sock") == "", "the socket's end")
            one("forward", "-R", f"/tmp/remote.sock:127.0.0.1:{port}")
            one.close()
            wait_for(lambda: execute(debian, "find", "/tmp", "-name", "remote.sock") == "", "the socket's end")

    def test_all_is_gone_with_the_connection(self, debian: str, master: Callable[..., Master]) -> None:
        """When ssh is killed, the listening ends and the broker's process too."""
        one = master()
        inside = one.listen("0:127.0.0.1:1")
        assert brokers(debian)
        one.kill()
        wait_for(lambda: not is_listening(debian, inside), "the port's end")
        wait_for(lambda: not brokers(debian), "the broker's end")


def brokers(uuid: str) -> list[int]:
    """Return the pids of processes of ours in a container's network: they are not in the container itself."""
    pid = docker("inspect", "-f", "{{.State.Pid}}", docker_container(uuid))
    network = os.readlink(f"/proc/{pid}/ns/net")
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                ours = b"crunch_sshd.inside.broker" in (entry / "cmdline").read_bytes()
                if ours and os.readlink(entry / "ns/net") == network:
                    found.append(int(entry.name))
            except OSError:
                continue  # it ended meanwhile
    return found


def _has_ended(pid: int) -> bool:
    """Say whether a process is gone, or a zombie that a lazy init has not yet taken notice of."""
    facts = host_processes.stat(pid)
    return facts is None or facts.state == "Z"


def test_gateway_killed(cluster: EmbeddedCluster, ssh: Ssh) -> None:
    """When crunch-run is killed, the broker removes what it made in the container, and ends."""
    uuid = cluster.run(*FOREVER, image="arv-ssh/debian:test")
    one = Master(ssh, uuid)
    one("forward", "-R", "/tmp/left.sock:127.0.0.1:1")
    assert execute(uuid, "ls", "/tmp/left.sock")
    (pid,) = brokers(uuid)
    os.kill(cluster.crunch_run_pid(uuid), signal.SIGKILL)
    wait_for(lambda: _has_ended(pid), "the broker's end")
    one.kill()


class TestAgent:
    """-A: the client's agent inside the container."""

    ASK = r"""
import os, socket, sys
def answer():
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(30)
    s.connect(os.environ["SSH_AUTH_SOCK"])
    s.sendall(b"\0\0\0\1\x0b")  # SSH_AGENTC_REQUEST_IDENTITIES
    data = b""
    while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "big"):
        data += s.recv(65536)
    return s, data
kept = [answer() for _ in range(int(sys.argv[1]))]
print(os.environ["SSH_AUTH_SOCK"], *{data.hex() for _, data in kept})
"""

    @pytest.fixture
    def agent(self, tmp_path: Path, short: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[bytes]:
        """Run an agent with one key; give the key's blob."""
        path = short / "agent"
        with subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL) as process:
            wait_for(path.exists, "the agent")
            monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
            key = tmp_path / "key"
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
            subprocess.run(["ssh-add", "-q", str(key)], check=True)
            yield base64.b64decode(key.with_suffix(".pub").read_text().split()[1])
            process.terminate()

    @pytest.mark.parametrize("user", ["root", "crunch"])
    def test_agent(self, ssh: Ssh, debian: str, agent: bytes, user: str) -> None:
        """The user's programs see the keys, through a socket and a directory that are the user's alone, 20 at once."""
        command = f"stat -c '%U %a' $SSH_AUTH_SOCK $(dirname $SSH_AUTH_SOCK); python3 -c '{self.ASK}' 20"
        done = ssh("-A", "-l", user, debian, command)
        assert done.returncode == 0, done.stderr
        lines = done.stdout.decode().splitlines()
        assert lines[:2] == [f"{user} 600", f"{user} 700"]
        path, *answers = lines[2].split()
        assert len(answers) == 1 and agent.hex() in answers[0]
        assert execute(debian, "sh", "-c", f"ls -d {path} $(dirname {path}) 2>&1 || true").count("No such file") == 2

    def test_other_users_are_kept_out(self, ssh: Ssh, debian: str, agent: bytes) -> None:
        """Another user of the container cannot reach the socket while it is there."""
        with ssh.start("-A", debian, "echo $SSH_AUTH_SOCK; cat") as process:
            assert process.stdout and process.stdin
            path = process.stdout.readline().decode().strip()
            script = f"import socket; s = socket.socket(socket.AF_UNIX); print(s.connect_ex({path!r}))"
            assert execute(debian, "python3", "-c", script, user="crunch").strip() == "13"
            process.communicate(timeout=DEADLINE)

    def test_without(self, ssh: Ssh, debian: str, agent: bytes) -> None:
        """Without -A there is no SSH_AUTH_SOCK."""
        assert ssh("-a", debian, "echo .$SSH_AUTH_SOCK.").stdout == b"..\n"

    def test_no_place_for_the_socket(self, ssh: Ssh, scratch: str, agent: bytes) -> None:
        """An image without /tmp has the socket where it can be made."""
        done = ssh("-A", scratch, "busybox sh -c 'ls -l $SSH_AUTH_SOCK'")
        assert done.returncode == 0 and done.stdout.startswith(b"srw-------"), done


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedCluster]:
    """A cluster with all switched off but local forwarding to two ports of the container itself."""
    result = EmbeddedCluster(tmp_path_factory.mktemp("strict") / "cluster")
    result.up()
    path = result.directory.config
    document = yaml.safe_load(path.read_text())
    document["Clusters"]["zzzzz"]["Containers"]["ShellAccess"]["Forwarding"] = {
        "Remote": False, "Unix": False, "Agent": False, "Destinations": ["container:1-2", "db.example:5432"],
    }  # fmt: skip
    path.write_text(yaml.safe_dump(document))
    process_lock.end(result.directory.dispatcher_lock, DEADLINE)
    result.up()
    yield result
    result.down()


class TestPolicy:
    """A cluster whose config switches forwarding off, kind by kind."""

    def test_each_kind(self, strict: EmbeddedCluster, short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is switched off is refused in words, as "administratively prohibited" (code 1); the rest works."""
        uuid = strict.run(*FOREVER)
        ssh = Ssh(strict)
        prohibited = "administratively prohibited: "
        assert refusal(ssh, uuid, "127.0.0.1", 2).endswith("Connection refused")
        assert refusal(ssh, uuid, "127.0.0.1", 3) == (
            f"{prohibited}forwarding to 127.0.0.1 port 3 is not allowed by this cluster's configuration"
        )
        assert refusal(ssh, uuid, "192.0.2.1", 1).startswith(prohibited)
        one = Master(ssh, uuid)
        assert one("forward", "-R", "0:127.0.0.1:1", check=False).returncode != 0
        assert one("forward", "-R", "/tmp/x.sock:127.0.0.1:1", check=False).returncode != 0
        near = short / "near"
        one("forward", "-L", f"{near}:/tmp/x.sock")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(DEADLINE)
            sock.connect(str(near))
            assert read_all(sock) == b""
        one.close()
        with subprocess.Popen(["ssh-agent", "-D", "-a", str(short / "a")], stdout=subprocess.DEVNULL) as agent:
            wait_for((short / "a").exists, "the agent")
            monkeypatch.setenv("SSH_AUTH_SOCK", str(short / "a"))
            done = ssh("-A", uuid, "echo .$SSH_AUTH_SOCK.")
            agent.terminate()
        assert (done.returncode, done.stdout) == (0, b"..\n")
