"""arv_ssh.connect() and arv_ssh.forward() as scripts use them, and what docs/python.md shows of them."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import arv_ssh
from arv_ssh.errors import ArvSshError, UsageError
from tests.integration.embedded_cluster import EmbeddedCluster
from tests.integration.terminal import TerminalSession
from tests.integration.test_errors import ARVADOS_CLIENT, refused_port
from tests.timing import DEADLINE

ROOT = Path(__file__).parents[2]
LISTENING = "until grep -q ':{port:04X} .* 0A ' /proc/net/tcp /proc/net/tcp6; do sleep 0.1; done"
"""Waits without a connection, which would be a server's only one."""
MEGABYTES = 8


def held() -> tuple[set[str], set[str]]:
    """Return the names of this process's threads, and its sockets and pipes."""
    links = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            links.add(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:
            pass  # the descriptor of the listing itself
    return {thread.name for thread in threading.enumerate()}, {link for link in links if ":[" in link}


@pytest.fixture(autouse=True)
def nothing_left(cluster: EmbeddedCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set the environment of a user of the cluster; after the test no thread and no socket is left."""
    for line in cluster.directory.env.read_text().splitlines():
        name, _, value = line.removeprefix("export ").partition("=")
        monkeypatch.setenv(name, value)
    before = held()
    yield
    assert held() == before


def receive_all(sock: socket.socket) -> bytes:
    """Return what comes up to the end."""
    sock.settimeout(DEADLINE)
    pieces = []
    while data := sock.recv(1 << 16):
        pieces.append(data)
    return b"".join(pieces)


def test_the_examples_of_the_docs(busybox: str) -> None:
    """Every example of docs/python.md does what it says, in one run."""
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    examples = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(examples) == 5
    names: dict[str, object] = {"UUID": busybox}
    for example in examples:
        exec(compile(example, "docs/python.md", "exec"), names)


def test_ends_after_an_error(busybox: str) -> None:
    """An exception in the block leaves nothing behind: neither the session nor what listens."""
    with pytest.raises(KeyError), arv_ssh.connect(busybox), arv_ssh.forward(busybox, 9) as port:
        raise KeyError
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_connection_ends_each_direction_by_itself(busybox: str) -> None:
    """A program that ends what it says first still gets the whole answer, megabytes of it."""
    serve = f"nc -l -p 7001 -e sh -c 'cat >/dev/null; head -c {MEGABYTES << 20} /dev/zero; echo end'"
    with arv_ssh.connect(busybox) as client, arv_ssh.forward(busybox, 7001) as port:
        server = client.exec_command(serve)  # kept: a channel that nobody refers to is closed
        assert client.exec_command(LISTENING.format(port=7001))[1].channel.recv_exit_status() == 0
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.sendall(b"question")
            sock.shutdown(socket.SHUT_WR)
            assert receive_all(sock) == bytes(MEGABYTES << 20) + b"end\n"
        assert server[1].channel.recv_exit_status() == 0


def test_a_connection_in_use_ends_with_the_block(busybox: str) -> None:
    """At the end of the block a connection that nobody closed is cut, and nothing waits for it."""
    with arv_ssh.connect(busybox) as client:
        server = client.exec_command("nc -ll -p 7002 -e cat", get_pty=True)
        assert client.exec_command(LISTENING.format(port=7002))[1].channel.recv_exit_status() == 0
        with arv_ssh.forward(busybox, "localhost:7002") as port:
            sock = socket.create_connection(("127.0.0.1", port))
            sock.settimeout(DEADLINE)
            sock.sendall(b"ping")
            assert sock.recv(4) == b"ping"
        with sock:
            assert sock.recv(4) == b""
        server[1].channel.close()


def test_nothing_listens_in_there(scratch: str, caplog: pytest.LogCaptureFixture) -> None:
    """A connection to a port where nothing listens is closed, and the log names the port; no shell is needed."""
    with arv_ssh.forward(scratch, 9) as port, socket.create_connection(("127.0.0.1", port)) as sock:
        assert receive_all(sock) == b""
    assert f"localhost:9 cannot be reached from {scratch}: Connect failed" in caplog.text


def test_the_local_port_is_taken(busybox: str) -> None:
    """A local port that is in use is said in one sentence."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ArvSshError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            with arv_ssh.forward(busybox, 80, port):
                pass


@pytest.mark.parametrize("remote", ["", "no port", "host:", "a:b:c", 0, 65536, "[::1]"])
def test_no_place_to_forward_to(remote: str | int) -> None:
    """What is no port and no HOST:PORT is refused before anything is connected."""
    with pytest.raises(UsageError, match="is not a forwarding target"), arv_ssh.forward("zzzzz-dz642-0", remote):
        pass


def test_a_request_leads_to_its_container_by_a_settings_file(
    cluster: EmbeddedCluster, busybox: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """settings_file takes the environment's place, and a container request's UUID leads to its container."""
    for name in ("ARVADOS_API_HOST", "ARVADOS_API_TOKEN", "SSL_CERT_FILE"):
        monkeypatch.delenv(name)
    request = cluster.api().list_all("container_requests", filters=[["container_uuid", "=", busybox]])[0]["uuid"]
    with arv_ssh.connect(request, settings_file=str(cluster.directory.env)) as client:
        assert client.container == busybox


def test_importing_the_package_is_light() -> None:
    """``import arv_ssh`` imports neither paramiko nor anything of the client; the functions are there all the same."""
    program = (
        "import sys, arv_ssh; print(*sys.modules); assert callable(arv_ssh.connect) and callable(arv_ssh.forward)\n"
        "try: arv_ssh.disconnect\n"
        "except AttributeError: print('none')"
    )
    out = subprocess.check_output([sys.executable, "-c", program], text=True, timeout=DEADLINE, cwd=ROOT)
    loaded = set(out.split())
    assert not loaded & {"paramiko", "sshtunnel", "socket", "ssl", "logging"} and out.endswith("none\n")


def test_ctrl_c_ends_the_command(busybox: str) -> None:
    """On a terminal Ctrl-C is the way to end ``forward``: status 0, and nothing but where it listened was said."""
    with TerminalSession([ARVADOS_CLIENT, "forward", busybox, "0:9"]) as session:
        session.expect(f"forwards to localhost:9 of {busybox}\r\n")
        session.type("\x03")
        assert session.wait() == 0
        assert session.seen == b"^C"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command(busybox: str, number: signal.Signals) -> None:
    """``forward`` says where it listens, names a connection that leads nowhere, and ends in order on Ctrl-C."""
    local = refused_port()
    command = [ARVADOS_CLIENT, "forward", busybox, f"{local}:9", "0:localhost:10"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True) as process:  # type: ignore[call-overload]
        try:
            assert process.stdout.readline() == f"127.0.0.1:{local} forwards to localhost:9 of {busybox}\n"
            assert process.stdout.readline().endswith(f" forwards to localhost:10 of {busybox}\n")
            with socket.create_connection(("127.0.0.1", local)) as sock:
                assert receive_all(sock) == b""
            process.send_signal(number)
            _, err = process.communicate(timeout=DEADLINE)
        finally:
            process.kill()
    assert process.returncode == 0
    assert err == f"arvados-client: localhost:9 cannot be reached from {busybox}: Connect failed\n"


def test_the_command_ends_with_the_container(cluster: EmbeddedCluster) -> None:
    """``forward`` does not outlive the session: when the container ends, so does it, with a status that is not 0."""
    uuid = cluster.run("sleep", "1000000")
    with subprocess.Popen(
        [ARVADOS_CLIENT, "forward", uuid, "0:80"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None and process.stdout.readline()
            os.kill(cluster.crunch_run_pid(uuid), signal.SIGTERM)
            _, err = process.communicate(timeout=DEADLINE)
        finally:
            process.kill()
    assert process.returncode == 255 and err.count("\n") == 1 and uuid in err, err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "needs a container's UUID and what to forward"),
        (("8888",), "'8888' is not LOCAL:REMOTE"),
        (("65536:80",), "'65536:80' is not LOCAL:REMOTE"),
        (("0:0",), "'0' is not a forwarding target"),
    ],
)
def test_the_command_line_is_wrong(words: tuple[str, ...], said: str) -> None:
    """A command line that makes no sense is one line on stderr that shows it."""
    command = [ARVADOS_CLIENT, "forward", "zzzzz-dz642-abcdeabcdeabcde", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 255 and done.stderr.count("\n") == 1 and said in done.stderr


