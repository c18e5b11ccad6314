"""The life of controller processes: how they find each other, come, go, and change their config."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from arv_ssh.cli import certificates
from arv_ssh.processes import process_lock
from tests.integration.controllers import (
    CLUSTER_ID,
    Controller,
    ControllerProcess,
    controller,
    ssh_config,
    start,
    write_config,
)
from tests.integration.embedded_cluster import EmbeddedCluster
from tests.timing import DEADLINE, wait_for

POLICY = {"Mode": "default-on", "Admin": True, "User": True}
MIB = 1 << 20


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=DEADLINE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(DEADLINE)
        self.sock.connect(str(self._path))


def get(path: Path, target: str, token: str) -> tuple[int, Any]:
    """Ask the private socket at ``path``; return status and JSON."""
    connection = UnixConnection(path)
    connection.request("GET", target, headers={"Authorization": f"Bearer {token}"})
    answer = connection.getresponse()
    result = answer.status, json.loads(answer.read())
    connection.close()
    return result


def test_private_socket(cluster: EmbeddedCluster, tmp_path: Path) -> None:
    """A controller answers on a private socket as on its port, to those with the right token, and removes it."""
    with controller(cluster, tmp_path, POLICY, ManagementToken="the-management-token") as running:
        (path,) = (tmp_path / "run").glob("*.sock")
        assert get(path, "/_health/ping", "the-management-token") == (200, {"health": "OK"})
        assert get(path, "/_health/ping", "another")[0] == 403
        assert running.root.current_user()["is_admin"]
    assert not path.exists()


class TestWorkers:
    """Several processes on one port."""

    def test_life(self, cluster: EmbeddedCluster, tmp_path: Path) -> None:
        """Each worker is a process that serves; one that dies is started again; all end with SIGTERM."""
        config = write_config(cluster, tmp_path, POLICY)
        options = ["--listen", "127.0.0.1:0", "--workers", "2"]
        with start(cluster, config, tmp_path / "log", options) as supervisor:
            controller = supervisor.wait_until_it_listens(2)
            run_dir = tmp_path / "run"
            first, second = (process_lock.holder_pid(path) for path in sorted(run_dir.glob("*.lock")))
            assert first and second and supervisor.popen.pid not in (first, second)
            os.kill(first, signal.SIGKILL)
            (ended,) = supervisor.wait_for_event("a worker ended; starting another")
            assert ended["status"] == -signal.SIGKILL
            assert controller.root.current_user()["is_admin"]
            supervisor.wait_for_event("controller is listening", 3)
            # What the dead one left is gone, and the new one has its place.
            pids = {process_lock.holder_pid(path) for path in run_dir.glob("*.lock")}
            assert len(pids) == 2 and second in pids and first not in pids
            supervisor.popen.terminate()
            assert supervisor.popen.wait(DEADLINE) == 0
        assert not run_dir.exists()

    def test_killed_supervisor(self, cluster: EmbeddedCluster, tmp_path: Path) -> None:
        """Workers do not outlive their supervisor by more than their sessions."""
        config = write_config(cluster, tmp_path, POLICY)
        options = ["--listen", "127.0.0.1:0", "--workers", "2"]
        with start(cluster, config, tmp_path / "log", options) as supervisor:
            supervisor.wait_until_it_listens(2)
            supervisor.popen.kill()
            wait_for(lambda: not (tmp_path / "run").exists(), "the workers to end")


class TestReload:
    """SIGHUP."""

    @pytest.mark.parametrize("workers", [1, 2])
    def test_policy(self, cluster: EmbeddedCluster, tmp_path: Path, busybox: str, workers: int) -> None:
        """The files are read again, the overlay too; a broken one is refused in one sentence and the old one stays."""
        config = write_config(cluster, tmp_path, POLICY)
        overlay = tmp_path / "overlay.yml"
        overlay.write_text("Clusters: {}\n")
        token = cluster.directory.token_file("active").read_text().strip()
        options = ["--listen", "127.0.0.1:0", "--config", str(overlay), "--workers", str(workers)]
        with start(cluster, config, tmp_path / "log", [*options, "--drain-timeout", "0"]) as process:
            controller = process.wait_until_it_listens(workers)
            assert controller.status(busybox, token)[0] == 101

            access = {"ShellAccess": {"Mode": "disabled"}}
            overlay.write_text(yaml.safe_dump({"Clusters": {CLUSTER_ID: {"Containers": access}}}))
            process.popen.send_signal(signal.SIGHUP)
            process.wait_for_event("config reloaded", workers)
            assert controller.status(busybox, token)[0] == 503

            overlay.write_text("Clusters: {zzzzz: {Containers: {ShellAccess: {Mode: perhaps}}}}\n")
            process.popen.send_signal(signal.SIGHUP)
            refused = process.wait_for_event("new config refused; keeping the old one", workers)
            assert "Mode is 'perhaps'" in refused[0]["error"]
            assert controller.status(busybox, token)[0] == 503

    def test_certificate(self, cluster: EmbeddedCluster, tmp_path: Path) -> None:
        """A renewed certificate is used from then on; one that cannot be read leaves the old one in use."""
        tls = {name: str(tmp_path / name.lower()) for name in ("Certificate", "Key")}
        shutil.copy(cluster.directory.server_certificate, tls["Certificate"])
        shutil.copy(cluster.directory.server_key, tls["Key"])
        config = write_config(cluster, tmp_path, POLICY, TLS={name: f"file://{path}" for name, path in tls.items()})
        with start(cluster, config, tmp_path / "log", ["--listen", "127.0.0.1:0"]) as process:
            serving = process.wait_until_it_listens()
            issued = certificates.issue(CLUSTER_ID)
            Path(tls["Certificate"]).write_bytes(issued.server)
            Path(tls["Key"]).write_bytes(b"")
            process.popen.send_signal(signal.SIGHUP)
            (refused,) = process.wait_for_event("new config refused; keeping the old one")
            assert tls["Key"] in refused["error"]
            serving.connect().close()
            Path(tls["Key"]).write_bytes(issued.server_key)
            process.popen.send_signal(signal.SIGHUP)
            process.wait_for_event("config reloaded")
            (tmp_path / "ca").write_bytes(issued.authority)
            Controller(serving.address, tmp_path / "ca", "", serving.log).connect().close()


def refusal(cluster: EmbeddedCluster, directory: Path, *options: str, **environment: str) -> str:
    """Run a controller that does not start; return the one line that it says."""
    config = write_config(cluster, directory, POLICY)
    program = [str(Path(sys.executable).with_name("arv-ssh")), "controller", "--config", str(config)]
    # LISTEN_PID must be the process's own.
    shell = ["sh", "-c", 'LISTEN_PID=$$ exec "$@"', "sh"]
    done = subprocess.run(
        [*shell, *program, "--run-dir", str(directory / "run"), *options],
        capture_output=True, text=True, timeout=DEADLINE, stdin=subprocess.DEVNULL, env=os.environ | environment,
    )  # fmt: skip
    assert done.returncode != 0
    (line,) = done.stderr.splitlines()
    assert line.startswith("arv-ssh: ") and not (directory / "run").exists()
    return line


@pytest.mark.parametrize(
    ("options", "environment", "words"),
    [
        (["--workers", "0"], {}, "--workers 0: it must be a whole number from 1"),
        (["--workers", "1000000"], {}, "--workers 1000000: it must be a whole number from 1"),
        (["--drain-timeout", "-1"], {}, "--drain-timeout -1.0: it must be a number of seconds from 0"),
        (["--listen", "127.0.0.1:0", "--listen-fd", "3"], {}, "give one of them"),
        (["--listen-fd", "77"], {}, "file descriptor 77, named by --listen-fd, is not a listening TCP socket"),
        (["--listen-fd", "1"], {}, "file descriptor 1, named by --listen-fd, is not a listening TCP socket"),
        ([], {"LISTEN_FDS": "many"}, "LISTEN_FDS is 'many'; it must be the number of sockets"),
        ([], {"LISTEN_FDS": "0"}, "LISTEN_FDS is '0'; it must be the number of sockets"),
        ([], {"LISTEN_FDS": "1"}, "file descriptor 3, named by LISTEN_FDS, is not a listening TCP socket"),
    ],
)
def test_refusals(
    cluster: EmbeddedCluster, tmp_path: Path, options: list[str], environment: dict[str, str], words: str
) -> None:
    """What cannot be obeyed is said in one line, and nothing is started."""
    assert words in refusal(cluster, tmp_path, *options, **environment)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_taken_port(cluster: EmbeddedCluster, tmp_path: Path, workers: str) -> None:
    """A port that another cluster's controller, or anybody else, uses is named."""
    (tmp_path / "other").mkdir()
    with controller(cluster, tmp_path / "other", POLICY) as other:
        line = refusal(cluster, tmp_path, "--listen", other.address, "--workers", workers)
    assert f"cannot listen on {other.address}: Address already in use" in line


def test_foreign_run_directory(cluster: EmbeddedCluster, tmp_path: Path) -> None:
    """A run directory that others may enter ends the supervisor too, with the worker's one sentence and its status."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o755)
    config = write_config(cluster, tmp_path, POLICY)
    for workers in ("1", "2"):
        log = tmp_path / f"log{workers}"
        with start(cluster, config, log, ["--listen", "127.0.0.1:0", "--workers", workers]) as process:
            assert process.popen.wait(DEADLINE) == 78
        assert "with mode 0700" in log.read_text() and "Traceback" not in log.read_text()


class Succession:
    """A controller and the one that takes its place on the same port."""

    def __init__(self, start_one: Callable[[str, int], ControllerProcess], processes: int) -> None:
        self._start_one = start_one
        self._processes = processes

    def start(self, log: str, port: int = 0) -> tuple[ControllerProcess, Controller]:
        """Start a controller that logs to ``log``; return it when all its processes serve."""
        process = self._start_one(log, port)
        return process, process.wait_until_it_listens(self._processes)


@contextmanager
def reuse_port(cluster: EmbeddedCluster, directory: Path) -> Iterator[Succession]:
    """Each process binds the port itself (SO_REUSEPORT)."""
    config = write_config(cluster, directory, POLICY)
    with ExitStack() as running:
        yield Succession(
            lambda log, port: running.enter_context(
                start(cluster, config, directory / log, ["--listen", f"127.0.0.1:{port}"])
            ),
            processes=1,
        )


@contextmanager
def socket_activation(cluster: EmbeddedCluster, directory: Path) -> Iterator[Succession]:
    """Both get the same listening socket, as systemd passes it, and have two workers that are left to end alone."""
    config = write_config(cluster, directory, POLICY)
    options = ["--workers", "2", "--leave-draining"]
    # What systemd does: the socket is descriptor 3, and LISTEN_PID is the process that exec makes the controller.
    program = (
        "import os, sys\n"
        "os.dup2(int(sys.argv[1]), 3)\n"
        "os.environ |= {'LISTEN_PID': str(os.getpid()), 'LISTEN_FDS': '1'}\n"
        "os.execv(sys.argv[2], sys.argv[2:])\n"
    )
    wrapper = [sys.executable, "-c", program]
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as running:
        fd = listener.fileno()
        yield Succession(
            lambda log, port: running.enter_context(
                start(cluster, config, directory / log, options, [*wrapper, str(fd)], pass_fds=(fd,))
            ),
            processes=2,
        )


WAYS = {"SO_REUSEPORT": reuse_port, "socket activation": socket_activation}


@pytest.fixture(params=WAYS)
def succession(request: pytest.FixtureRequest, cluster: EmbeddedCluster, tmp_path: Path) -> Iterator[Succession]:
    """Each way of which one controller takes another's place."""
    with WAYS[request.param](cluster, tmp_path) as result:
        yield result


def test_restart_in_mid_transfer(
    cluster: EmbeddedCluster, busybox: str, succession: Succession, tmp_path: Path
) -> None:
    """A transfer of 64 MiB each way outlives its controller's restart, whose successor gets the new sessions."""
    first, serving = succession.start("first.log")
    port = int(serving.address.rpartition(":")[2])
    options = ["-F", str(ssh_config(cluster, serving.address, tmp_path)), "-o", "ControlPath=none"]
    ssh = ["ssh", *options, busybox]
    blocks = [random.Random(number).randbytes(MIB) for number in range(64)]
    received = hashlib.sha256()

    def receive(output: Any) -> None:
        while block := output.read(MIB):
            received.update(block)

    with subprocess.Popen([*ssh, "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as transfer:
        assert transfer.stdin is not None
        reader = threading.Thread(target=receive, args=(transfer.stdout,))
        reader.start()
        for block in blocks[:32]:
            transfer.stdin.write(block)
        second, _ = succession.start("second.log", port)
        first.popen.terminate()
        first.wait_for_event("controller is draining")
        assert subprocess.run([*ssh, "echo new"], capture_output=True, timeout=DEADLINE).stdout == b"new\n"
        second.wait_for_event("session opened")
        for block in blocks[32:]:
            transfer.stdin.write(block)
        transfer.stdin.close()
        reader.join(DEADLINE)
        assert transfer.wait(DEADLINE) == 0
    assert received.digest() == hashlib.sha256(b"".join(blocks)).digest()
    (closed,) = first.wait_for_event("session closed")
    # How ssh left: it may end ssh-proxy before that has said goodbye, and then the session might go on elsewhere.
    assert closed["reason"] in ("client left", "gateway left", "controller stopping")
    first.wait_for_event("controller is stopping", len(first.events("controller is draining")))
    assert first.popen.wait(DEADLINE) == 0


@pytest.mark.parametrize("way", WAYS)
def test_connections_over_restarts(cluster: EmbeddedCluster, tmp_path: Path, way: str) -> None:
    """Connections that come all the while are served over three restarts."""
    served, lost = 0, []
    done = threading.Event()

    def connect(controller: Controller) -> None:
        nonlocal served
        while not done.is_set():
            try:
                with controller.connect() as connection:
                    connection.sendall(b"GET /_health/ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    assert connection.recv(4096).startswith(b"HTTP/1.1 401 ")
                served += 1
            except (OSError, AssertionError) as error:
                lost.append(repr(error))

    with WAYS[way](cluster, tmp_path) as succession:
        process, serving = succession.start("log0")
        port = int(serving.address.rpartition(":")[2])
        clients = [threading.Thread(target=connect, args=(serving,)) for _ in range(4)]
        for client in clients:
            client.start()
        try:
            for number in range(1, 4):
                successor, _ = succession.start(f"log{number}", port)
                process.popen.terminate()
                assert process.popen.wait(DEADLINE) == 0
                process = successor
        finally:
            done.set()
            for client in clients:
                client.join(DEADLINE)
    print(f"{way}: {served} served, {len(lost)} lost {lost[:3]}")
    assert served > 100
    assert not lost
