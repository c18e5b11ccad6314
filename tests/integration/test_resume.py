"""Sessions that outlive their connections: stock ssh notices nothing, or reads why there is nothing to go on with."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

import arv_ssh
from tests.integration.embedded_cluster import EmbeddedCluster
from tests.integration.people import ECHO, answers, ending
from tests.integration.resume_site import Site, resume_site
from tests.timing import DEADLINE, wait_for

BULK = 50 << 20
"""Bytes of a transfer: more than all buffers on the way, many times."""


@pytest.fixture(scope="module")
def site(cluster: EmbeddedCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two controllers and a breaker before the first one."""
    with resume_site(cluster, tmp_path_factory.mktemp("resume")) as one:
        yield one


@pytest.fixture(autouse=True)
def whole(site: Site) -> Iterator[None]:
    """Leave a way to the first controller to the next test."""
    yield
    site.breaker.target, site.breaker.refuses = site.first.address, False


class Exchange:
    """A transfer both ways at once, counted and hashed at both ends; one process does it, and threads feed it."""

    def __init__(self, process: subprocess.Popen[bytes], size: int = BULK) -> None:
        self.process = process
        self._size = size
        self._meant, self._got = hashlib.sha256(), hashlib.sha256()
        self.came = 0
        self._threads = [threading.Thread(target=work) for work in (self._feed, self._drain)]
        for thread in self._threads:
            thread.start()

    COMMAND = "tee /tmp/up | sha256sum >&2; cat /tmp/up"

    def _feed(self) -> None:
        assert self.process.stdin
        block = os.urandom(1 << 20)
        for _ in range(self._size >> 20):
            self.process.stdin.write(block)
            self._meant.update(block)
        self.process.stdin.close()

    def _drain(self) -> None:
        assert self.process.stdout
        while data := os.read(self.process.stdout.fileno(), 1 << 20):
            self._got.update(data)
            self.came += len(data)

    def check(self) -> None:
        """Wait for the end, and check that all came as it went."""
        for thread in self._threads:
            thread.join(DEADLINE)
        assert self.process.stderr
        said = self.process.stderr.read().decode()
        assert self.process.wait(DEADLINE) == 0, said
        assert said.split()[0] == self._meant.hexdigest() == self._got.hexdigest()


def test_a_session_goes_on(site: Site, container: str) -> None:
    """A program goes on after its connection was reset, and again: ssh sees all its output, and its exit status."""
    with site.user.session(container, command=ECHO) as session:
        before = site.breaker.connections
        for word in ("one", "two"):
            site.breaker.reset()
            answers(session, word)
        assert site.breaker.connections == before + 2
        assert session.stdin and session.stderr
        session.stdin.close()
        assert session.wait(DEADLINE) == 0 and session.stderr.read() == ""


def test_cut_fifty_times(site: Site, debian: str) -> None:
    """Bytes both ways, cut 50 times at random moments, by RST, by FIN, by silence, and by changed bytes: exact."""
    chance, cuts = random.Random(17), 0
    ways = [site.breaker.reset, site.breaker.end, site.breaker.garble] * 13 + [site.breaker.silence] * 11
    chance.shuffle(ways)
    with site.running(debian, Exchange.COMMAND, user=site.hasty_user) as process:
        exchange = Exchange(process)
        while process.poll() is None and cuts < len(ways):
            wanted = site.breaker.passed + chance.randint(1, BULK // 20)
            while site.breaker.passed < wanted and process.poll() is None:
                threading.Event().wait(0.001)
            ways[cuts]()
            cuts += 1
        exchange.check()
    assert cuts == 50


def test_who_only_stops_reading(site: Site, debian: str) -> None:
    """An ssh that is stopped while ssh-proxy reads on for it gets every byte in its order, and keeps its session."""
    with site.running(debian, "head -c 40000000 /dev/urandom | tee /tmp/slow; exec sha256sum /tmp/slow >&2") as process:
        assert process.stdout and process.stderr
        got = hashlib.sha256()
        got.update(process.stdout.read(1_000_000))
        before = site.breaker.passed
        process.send_signal(signal.SIGSTOP)
        wait_for(lambda: site.breaker.passed > before + 2_000_000 or _settled(site), "ssh-proxy to read what there is")
        process.send_signal(signal.SIGCONT)
        got.update(process.stdout.read())
        assert got.hexdigest() == process.stderr.read().split()[0].decode()


def _settled(site: Site) -> bool:
    """Say whether nothing passes for a while but signs of life."""
    before = site.breaker.passed
    threading.Event().wait(3.0)
    return site.breaker.passed - before < 1000


def test_without_it(site: Site, busybox: str) -> None:
    """With --no-resume a session ends with its connection."""
    proxy = f"arvados-client ssh-proxy --no-resume --known-hosts-dir {site.root}/home/known_hosts --user %r %h"
    with site.user.session(busybox, "-o", f"ProxyCommand={proxy}") as session:
        site.breaker.reset()
        assert "the connection to" in ending(session)


def test_output_while_nobody_is_connected(site: Site, busybox: str) -> None:
    """A program that ends while there is no connection: its output and its exit status arrive afterwards."""
    command = "echo ready; while [ ! -e /tmp/go ]; do sleep 0.1; done; head -c 3000000 /dev/zero; exit 44"
    with site.user.session(busybox, command=command) as session:
        with site.breaker.down():
            wait_for(lambda: site.sessions("waiting"), "the controller to miss the session")
            assert site.beside.ssh(busybox, "touch /tmp/go; sleep 1").returncode == 0
        out, err = session.communicate(timeout=DEADLINE)
        assert (session.returncode, len(out), err) == (44, 3_000_000, "")


def test_waiting_sessions_are_seen(site: Site, busybox: str) -> None:
    """While it waits, a session is listed as waiting, with since when; afterwards as open, by the same id."""
    with site.user.session(busybox, command=ECHO) as session:
        (before,) = site.sessions("open")
        with site.breaker.down():
            (waiting,) = wait_for(lambda: site.sessions("waiting"))
            assert waiting["id"] == before["id"] and waiting["waiting_since"] >= before["started"]
        answers(session, "back")
        (after,) = site.sessions("open")
        assert (after["id"], after["started"], after["waiting_since"]) == (before["id"], before["started"], None)
        assert after["bytes_to_client"] > waiting["bytes_to_client"]
    wait_for(lambda: not site.sessions("open") and not site.sessions("waiting"), "the session to leave")


HUPPED = "trap 'echo hupped >/tmp/hupped; exit' HUP; rm -f /tmp/hupped; echo ready; while :; do sleep 0.1; done"


@pytest.mark.parametrize("how", ["kill -9 of ssh", "kill -9 while nothing passes", "the terminal is closed", "-O exit"])
def test_who_leaves_has_left(site: Site, busybox: str, how: str) -> None:
    """A user who leaves in any way ends the session at once: the program has its SIGHUP, and nothing waits."""
    shared = ("-M", "-S", str(site.root / "left")) if how == "-O exit" else ()
    with site.user.session(busybox, *shared, command=HUPPED) as session:
        assert len(site.sessions("open")) == 1
        proxy = proxy_of(session)
        if shared:
            assert site.user.ssh("-S", str(site.root / "left"), "-O", "exit", busybox).returncode == 0
        elif how == "the terminal is closed":
            for pid in (proxy, session.pid):
                os.kill(pid, signal.SIGHUP)
        else:
            if how != "kill -9 of ssh":  # as behind an upload over a slow line: another connection brings the goodbye
                site.breaker.silence()
            session.kill()
        wait_for(lambda: not site.sessions("open") and not site.sessions("waiting"), "the session to end")
    wait_for(lambda: site.beside.ssh(busybox, "cat /tmp/hupped").stdout == "hupped\n", "the program to have SIGHUP")


def test_another_controller_takes_it(site: Site, debian: str) -> None:
    """kill -9 of the controller in mid-transfer: the other one has the session at once, and the bytes are exact."""
    with site.controller("victim") as victim:
        site.breaker.target = victim.address
        with site.running(debian, Exchange.COMMAND) as process:
            exchange = Exchange(process)
            wait_for(lambda: exchange.came > BULK // 4, "a part of the transfer")
            site.breaker.target = site.second.address
            os.kill(victim.pid, signal.SIGKILL)
            (taken,) = wait_for(lambda: site.sessions("open", site.second))
            exchange.check()
        assert taken["pid"] == site.second.pid


def test_rolling_restart(site: Site, busybox: str) -> None:
    """One controller after the other is told twice to end, and does so at once: a session goes on through the rest."""
    with ExitStack() as stack:
        leaving = stack.enter_context(site.controller("leaving"))
        site.breaker.target = leaving.address
        session = stack.enter_context(site.user.session(busybox, command=ECHO))
        for number in range(2):
            following = stack.enter_context(site.controller(f"following-{number}"))
            site.breaker.target = following.address
            os.kill(leaving.pid, signal.SIGTERM)
            os.kill(leaving.pid, signal.SIGTERM)
            answers(session, f"over there {number}")
            assert wait_for(lambda at=following: site.sessions("open", at))  # type: ignore[misc]
            assert "session.moved" not in leaving.log.read_text()
            leaving = following


def test_drained(site: Site, busybox: str) -> None:
    """A controller that has waited for its sessions for DrainTimeout ends, and they go on through another one."""
    with site.controller("drained", DrainTimeout=1) as drained:
        site.breaker.target = drained.address
        with site.user.session(busybox, command=ECHO) as session:
            site.breaker.target = site.second.address
            os.kill(drained.pid, signal.SIGTERM)
            assert wait_for(lambda: site.sessions("open", site.second), "the session to move on")
            answers(session, "over there")
        assert "session closed" in drained.log.read_text()


def test_shared_connections(site: Site, busybox: str) -> None:
    """All sessions of a shared connection survive together."""
    control = site.root / "cm"
    with site.user.session(busybox, "-M", "-S", str(control), command=ECHO) as first:
        with site.user.session(busybox, "-S", str(control), command=ECHO) as second:
            site.breaker.reset()
            answers(second, "second")
            answers(first, "first")


def test_interrupted_while_it_waits(site: Site, busybox: str) -> None:
    """Ctrl-C ends ssh at once, and ssh-proxy with it, while there is no connection."""
    with site.user.session(busybox, command=ECHO) as session:
        with site.breaker.down():
            wait_for(lambda: site.sessions("waiting"))
            proxy = proxy_of(session)
            for pid in (proxy, session.pid):
                os.kill(pid, signal.SIGINT)
            assert session.wait(DEADLINE) in (255, 130, -signal.SIGINT)
            wait_for(lambda: not os.path.exists(f"/proc/{proxy}"), "ssh-proxy to end")
            (left,) = site.sessions("waiting")
            site.first.root.kill_shell_session(left["id"], "its user has left")


def test_no_sign_of_life(site: Site, busybox: str) -> None:
    """A connection on which nothing comes any more is given up by both ends, and replaced; so it is by who was stopped
    for longer than the gateway waits, and goes on afterwards."""
    with site.user.session(busybox, command=ECHO) as silent:
        before = site.breaker.connections
        site.breaker.silence()
        with site.user.session(busybox, command=ECHO) as stopped:
            both = stopped.pid, proxy_of(stopped)
            for pid in both:
                os.kill(pid, signal.SIGSTOP)
            answers(silent, "again")
            wait_for(lambda: len(site.sessions("waiting")) == 1, "the gateway to give up the stopped one")
            for pid in both:
                os.kill(pid, signal.SIGCONT)
            answers(stopped, "awake")
        assert site.breaker.connections == before + 3


def proxy_of(ssh: subprocess.Popen[str]) -> int:
    """Return the pid of ssh's ssh-proxy."""
    return int(subprocess.run(["pgrep", "-P", str(ssh.pid)], capture_output=True, text=True, timeout=DEADLINE).stdout)


SERVE = """
import hashlib, os, socket
server = socket.create_server(("127.0.0.1", {port}))
data = os.urandom({size})
print(hashlib.sha256(data).hexdigest(), flush=True)
while True:
    connection, _ = server.accept()
    with connection:
        connection.sendall(data)
"""


def test_a_forwarded_port(site: Site, debian: str) -> None:
    """A forwarded connection in the middle of a download goes on, and brings every byte."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    serve = f"exec python3 -c '{SERVE.format(port=4712, size=20_000_000)}'"
    with site.running(debian, serve, "-L", f"127.0.0.1:{port}:127.0.0.1:4712") as process:
        assert process.stdout
        wanted = process.stdout.readline().strip().decode()
        assert downloaded(site, port) == wanted


def downloaded(site: Site, port: int) -> str:
    """Return the hash of what a local port brings, while the connection below is cut twice."""
    got, cuts = hashlib.sha256(), 2
    with socket.create_connection(("127.0.0.1", port), DEADLINE) as connection:
        while data := connection.recv(1 << 20):
            got.update(data)
            if cuts:
                cuts -= 1
                site.breaker.reset()
    return got.hexdigest()


def test_python(site: Site, debian: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """arv_ssh.connect() and arv_ssh.forward() go on, too."""
    for name, value in site.user.environment.items():
        monkeypatch.setenv(name, value)
    with arv_ssh.connect(debian) as client:
        stdin, stdout, _ = client.exec_command(ECHO)
        assert stdout.readline() == "ready\n"
        for word in ("one", "two"):
            site.breaker.reset()
            stdin.write(f"{word}\n")
            assert stdout.readline() == f"got {word}\n"
        stdin.close()
    serve = f"exec python3 -c '{SERVE.format(port=4713, size=2_000_000)}'"
    with site.running(debian, serve) as process, arv_ssh.forward(debian, 4713) as port:
        assert process.stdout
        wanted = process.stdout.readline().strip().decode()
        assert downloaded(site, port) == wanted
