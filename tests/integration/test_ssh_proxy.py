"""ssh-proxy beside the real ssh: it ends when ssh ends, however that is, and when the far end is cut off."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from proxycommand import ssh_config
from tests.integration.embedded_cluster import EmbeddedCluster
from tests.integration.terminal import TerminalSession
from tests.timing import DEADLINE, SECOND, wait_for

CONNECTS = int(os.environ.get("ARV_SSH_TEST_CONNECTS", "40"))
"""Sessions after which nothing may be left: 1,000 by hand, fewer each time that all tests run."""


def proxies(marker: str) -> list[int]:
    """Return the pids of the ssh-proxy processes whose command line has ``marker``."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue  # it has ended since
        if "ssh-proxy" in words and marker in words:
            found.append(int(entry.name))
    return found


@pytest.fixture
def marked(cluster: EmbeddedCluster, tmp_path: Path) -> tuple[Callable[..., list[str]], str]:
    """Return ssh's command line with a known_hosts directory of the test's own, by which its ssh-proxy is told."""
    directory = str(tmp_path / "hosts")
    config = tmp_path / "config"
    config.write_text(ssh_config.block(str(cluster.directory.env), directory))

    def command(*arguments: str) -> list[str]:
        return ["ssh", "-F", str(config), *arguments]

    return command, directory


def wait_until_gone(pid: int) -> None:
    """Wait for the end of a process that is not ours to wait for. The far end keeps the line: it does not end it."""
    wait_for(lambda: _is_gone(pid), "ssh-proxy to end")


def _is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "SIGHUP", "SIGINT", "its terminal closes"])
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_ssh_dies(marked: tuple[Callable[..., list[str]], str], busybox: str, how: str, busy: bool) -> None:
    """Whatever ends ssh ends its ssh-proxy, while bytes flow too."""
    command, marker = marked
    remote = "echo here; exec cat /dev/zero" if busy else "echo here; exec sleep 1000"
    if how == "its terminal closes":
        with TerminalSession(command("-t", busybox, remote)) as session:
            session.expect("here")
            (pid,) = proxies(marker)
            # What closes the terminal is the end of this block, which kills nothing when ssh has gone by itself.
            session.close_terminal()
            wait_until_gone(pid)
        return
    with subprocess.Popen(command(busybox, remote), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as ssh:
        assert ssh.stdout and ssh.stdout.readline() == b"here\n"
        (pid,) = proxies(marker)
        ssh.send_signal(getattr(signal, how))
        wait_until_gone(pid)
        ssh.stdout.close()


def test_shared_connection_dies(marked: tuple[Callable[..., list[str]], str], busybox: str, tmp_path: Path) -> None:
    """The ssh-proxy of a connection that goes on by itself ends with that connection."""
    command, marker = marked
    own = ["-o", "ControlMaster=auto", "-o", f"ControlPath={tmp_path}/c", "-o", "ControlPersist=100"]
    if len(f"{tmp_path}/c") > 80:
        pytest.fail("the test's directory is too long for a socket")
    subprocess.run(command(*own, busybox, "true"), check=True, timeout=DEADLINE, stdin=subprocess.DEVNULL)
    (pid,) = proxies(marker)
    check = command(*own, "-O", "check", busybox)
    said = subprocess.run(check, capture_output=True, text=True, timeout=DEADLINE).stderr
    os.kill(int(said.partition("pid=")[2].partition(")")[0]), signal.SIGKILL)
    wait_until_gone(pid)


def test_no_orphans(marked: tuple[Callable[..., list[str]], str], busybox: str) -> None:
    """After many sessions, some of them killed, none of their processes is left."""
    command, marker = marked

    def connect(number: int) -> None:
        with subprocess.Popen(
            command(busybox, "echo here"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as ssh:
            if number % 4 == 3:
                wait_for(lambda: ssh.poll() is not None or number % 8 == 3 or proxies(marker), "ssh-proxy")
                ssh.kill()
                ssh.communicate(timeout=DEADLINE)
            else:
                out, err = ssh.communicate(timeout=DEADLINE)
                assert (ssh.returncode, out) == (0, b"here\n"), err

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(connect, range(CONNECTS)))
    wait_for(lambda: not proxies(marker), "the last ssh-proxy to end", 5 * SECOND)


class TestCut:
    """A far end that vanishes: its network is cut, and no packet says so."""

    ADDRESS = "198.51.100"
    """A network for documentation (RFC 5737), so that it is nobody's."""

    @pytest.fixture
    def namespace(self) -> Iterator[str]:
        """A network namespace that reaches this machine by one cable; its name, and that of the cable's end."""
        if os.geteuid() != 0:
            pytest.skip("a network namespace needs root")
        name = f"cut{os.getpid()}"
        steps = [
            ["netns", "add", name],
            ["link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b", "netns", name],
            ["address", "add", f"{self.ADDRESS}.1/24", "dev", f"{name}a"],
            ["link", "set", f"{name}a", "up"],
            ["-n", name, "address", "add", f"{self.ADDRESS}.2/24", "dev", f"{name}b"],
            ["-n", name, "link", "set", f"{name}b", "up"],
        ]
        try:
            for step in steps:
                subprocess.run(["ip", *step], check=True, capture_output=True, timeout=DEADLINE)
            yield name
        finally:
            subprocess.run(["ip", "link", "delete", f"{name}a"], capture_output=True, timeout=DEADLINE)
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, timeout=DEADLINE)

    @pytest.mark.timeout(180)
    def test_cut(self, namespace: str, tmp_path: Path) -> None:
        """Cut off, an idle ssh-proxy and one that has bytes to send both end within 60 s, and say why."""
        relay = [sys.executable, "-c", _SERVER, f"{self.ADDRESS}.1", str(tmp_path)]
        with subprocess.Popen(relay, stdout=subprocess.PIPE) as server:
            try:
                assert server.stdout
                port = int(server.stdout.readline())
                environment = {
                    "ARVADOS_API_HOST": f"{self.ADDRESS}.1:{port}",
                    "ARVADOS_API_TOKEN": "x",
                    "SSL_CERT_FILE": str(tmp_path / "ca.pem"),
                    "HOME": str(tmp_path),
                    "PATH": os.environ["PATH"],
                }
                command = [
                    "ip", "netns", "exec", namespace, sys.executable, "-m", "proxycommand", "ssh-proxy",
                    "zzzzz-dz642-abcdeabcdeabcde",
                ]  # fmt: skip
                pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
                idle, busy = (
                    subprocess.Popen(command, env=environment, **pipes)  # type: ignore[call-overload]
                    for _ in range(2)
                )
                for proxy in (idle, busy):
                    assert proxy.stdout.readline() == b"SSH-2.0-x\r\n"
                subprocess.run(["ip", "link", "set", f"{namespace}a", "down"], check=True, timeout=DEADLINE)
                cut = time.monotonic()
                busy.stdin.write(b"into the void")
                busy.stdin.flush()
                for proxy in (idle, busy):
                    assert proxy.wait(max(1, cut + 60 - time.monotonic())) == 255
                    said = proxy.stderr.read().decode()
                    assert said.startswith("arvados-client: ") and said.count("\n") == 1
                    assert f"{self.ADDRESS}.1:{port}" in said
                    for stream in (proxy.stdin, proxy.stdout, proxy.stderr):
                        stream.close()
            finally:
                server.kill()


_SERVER = """
import sys, threading
from pathlib import Path
from tests.unit.controller_double import Double, make_certificate

def script(peer):
    peer.switch("X-Arvados-Ssh-Host-Key: ssh-ed25519 AAAA", glued=b"SSH-2.0-x\\r\\n")
    peer.recv_all()

make_certificate(Path(sys.argv[2]), sys.argv[1])
double = Double(Path(sys.argv[2]), script, sys.argv[1])
print(double.port, flush=True)
threading.Event().wait()
"""
