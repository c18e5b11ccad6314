"""Sessions that outlive their connections: stock ssh notices nothing, or reads why there is nothing to go on with."""

from __future__ import annotations

import hashlib
import os
import random
import shlex
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import arv_ssh
from arv_ssh.cli.cluster_up import USER_UUIDS
from arv_ssh.client.controller import AcceptedUpgrade, SessionOver
from arv_ssh.client.controller import Controller as ClientController
from arv_ssh.errors import BadGateway
from arv_ssh.resume.negotiation import Grant, read_grant
from tests.faults.network import Link
from tests.integration.controllers import controller
from tests.integration.embedded_cluster import EmbeddedCluster
from tests.integration.people import ECHO, Person, answers, ending
from tests.integration.proxies import PROXIES, haproxy
from tests.integration.resume_site import POLICY, Site, resumable, resume_site
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


HASTY = """
from arv_ssh.client import resuming
from arv_ssh.resume import core
core.ASK_AFTER, core.LOST_AFTER = 0.3, 1.0
resuming.TICK = resuming.ResumingRelay.check_interval = 0.1
"""
"""What makes an ssh-proxy ask for signs of life at once, and give up a silent connection after a second."""


@pytest.fixture(scope="module")
def hasty(site: Site) -> dict[str, str]:
    """The environment of an ssh-proxy that is not as patient."""
    (site.root / "hasty").mkdir()
    (site.root / "hasty" / "sitecustomize.py").write_text(HASTY)
    return {"PYTHONPATH": str(site.root / "hasty")}


def test_cut_fifty_times(site: Site, debian: str, hasty: dict[str, str]) -> None:
    """Bytes both ways, cut 50 times at random moments, by RST, by FIN, and by silence: exact."""
    chance, cuts = random.Random(17), 0
    ways = [site.breaker.reset, site.breaker.end] * 20 + [site.breaker.silence] * 10
    chance.shuffle(ways)
    with site.running(debian, Exchange.COMMAND, user=site.person("cut", hasty)) as process:
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
            assert Person.ssh(_beside(site), busybox, "touch /tmp/go; sleep 1").returncode == 0
        out, err = session.communicate(timeout=DEADLINE)
        assert (session.returncode, len(out), err) == (44, 3_000_000, "")


def _beside(site: Site) -> Person:
    """Return the same user, who comes to the first controller directly."""
    home = site.root / "beside"
    if home.exists():
        return BESIDE[0]
    BESIDE.append(Person(home, site.first, site.user.token))
    return BESIDE[0]


BESIDE: list[Person] = []


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


def test_killed_while_it_waits(site: Site, busybox: str) -> None:
    """An administrator's kill holds: the session cannot come back, its program is gone, and the user reads why."""
    with site.user.session(busybox, command="echo ready; exec sleep 4711") as session:
        with site.breaker.down():
            (waiting,) = wait_for(lambda: site.sessions("waiting"))
            site.first.root.kill_shell_session(waiting["id"], "the node is needed")
        assert "an administrator ended this session: the node is needed" in ending(session)
    wait_for(lambda: _beside(site).ssh(busybox, "ps | grep '[s]leep 4711'").returncode == 1, "the program to end")


def test_revoked_while_it_waits(site: Site, busybox: str) -> None:
    """A token that is revoked meanwhile brings nothing back, the user reads why, and the program ends without them."""
    root = site.cluster.api()
    made = root.create("api_client_authorizations", {"owner_uuid": USER_UUIDS["active"]})
    token = f"v2/{made['uuid']}/{made['api_token']}"
    user = Person(site.root / "revoked", site.first, token, ARVADOS_API_HOST=site.breaker.address)
    with user.session(busybox, command="echo ready; exec sleep 4712") as session:
        with site.breaker.down():
            wait_for(lambda: site.sessions("waiting"))
            root.delete("api_client_authorizations", made["uuid"])
        assert "can not go on: the API token is not valid" in ending(session)
    wait_for(lambda: _beside(site).ssh(busybox, "ps | grep '[s]leep 4712'").returncode == 1, "the program to end")
    wait_for(lambda: not site.sessions("waiting"), "the session to leave")


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
    wait_for(lambda: _beside(site).ssh(busybox, "cat /tmp/hupped").stdout == "hupped\n", "the program to have SIGHUP")


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


def test_hopeless(site: Site, busybox: str) -> None:
    """When it has been tried for --resume-for, ssh ends with 255 and one sentence with the reason."""
    proxy = f"arvados-client ssh-proxy --resume-for 1 --known-hosts-dir {site.root}/home/known_hosts --user %r %h"
    with site.user.session(busybox, "-o", f"ProxyCommand={proxy}") as session, site.breaker.down():
        said = ending(session)
    assert "had no connection for 1 s (--resume-for)" in said


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


class TestRefused:
    """Who may not go on with a session, and what the rightful owner has then: all of it."""

    @pytest.fixture
    def client(self, site: Site) -> ClientController:
        return resumable(site)

    @pytest.fixture
    def opened(self, client: ClientController, busybox: str) -> Iterator[tuple[AcceptedUpgrade, Grant]]:
        session = client.open_session(busybox, "_", "")
        grant = read_grant(session.resume)
        assert grant is not None
        yield session, grant
        session.connection.close()

    @staticmethod
    def refused(client: ClientController, container: str, asked: str) -> str:
        with pytest.raises((SessionOver, BadGateway)) as raised:
            client.resume_session(container, "_", asked, DEADLINE, DEADLINE)
        return str(raised.value)

    def test_all_that_is_wrong(
        self, site: Site, busybox: str, client: ClientController, opened: tuple[AcceptedUpgrade, Grant]
    ) -> None:
        """A stranger's token, a forged secret, a wrong offset, a replay: a sentence each, and the owner goes on."""
        _, grant = opened
        spectator = site.cluster.directory.token_file("spectator").read_text().strip()
        admin = site.cluster.directory.token_file("admin").read_text().strip()
        asked = grant.request(1, 0)
        assert "not found" in self.refused(resumable(site, spectator), busybox, asked)
        assert "another user's" in self.refused(resumable(site, admin), busybox, asked)
        assert "token" in self.refused(resumable(site, "v2/zzzzz-gj3su-000000000000000/x"), busybox, asked)
        forged = Grant(grant.session, "0" * 64, 600)
        assert "does not prove" in self.refused(client, busybox, forged.request(1, 0))
        assert "go on from there" in self.refused(client, busybox, grant.request(1, 1 << 40))
        accepted = client.resume_session(busybox, "_", asked, DEADLINE, DEADLINE)  # the first one that is right
        assert grant.answered(accepted.resume, 1) == 0
        assert "used before" in self.refused(client, busybox, asked)
        accepted.connection.close()

    def test_entering_is_switched_off(self, site: Site, busybox: str, opened: tuple[AcceptedUpgrade, Grant]) -> None:
        """Where nobody may enter any more, no session comes back."""
        with site.controller("closed", Mode="disabled") as closed:
            said = self.refused(resumable(site, at=closed), busybox, opened[1].request(1, 0))
        assert "disabled" in said

    def test_permission_is_lost(self, site: Site, busybox: str, opened: tuple[AcceptedUpgrade, Grant]) -> None:
        """Where the user may not enter any more, the session does not come back."""
        with site.controller("strict", User=False) as strict:
            said = self.refused(resumable(site, at=strict), busybox, opened[1].request(1, 0))
        assert "not allowed" in said or "administrator" in said


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


@pytest.mark.parametrize("name", sorted(PROXIES))
def test_behind_a_proxy(site: Site, busybox: str, name: str, tmp_path: Path) -> None:
    """Behind nginx and HAProxy, sessions of a controller that is killed go on through the other one."""
    with ExitStack() as stack:
        victim = stack.enter_context(site.controller(f"{name}-victim"))
        address = stack.enter_context(PROXIES[name](site.cluster, tmp_path, [victim.address, site.second.address]))
        user = Person(tmp_path / "home", victim, site.user.token, ARVADOS_API_HOST=address)
        sessions = [stack.enter_context(user.session(busybox, command=ECHO)) for _ in range(2)]
        assert len(site.sessions("open", victim)) == 1
        os.kill(victim.pid, signal.SIGKILL)
        for session in sessions:
            answers(session, "here")
        assert len(site.sessions("open", site.second)) == 2


def test_kept_awake(site: Site, busybox: str, tmp_path: Path, hasty: dict[str, str]) -> None:
    """A proxy that drops silent connections finds none: the layer says something now and then, though nobody types."""
    both = site.first, site.second
    with haproxy(site.cluster, tmp_path, [one.address for one in both], {"timeout client 24h": "timeout client 2s"}) \
            as address:  # fmt: skip
        user = Person(tmp_path / "home", site.first, site.user.token, ARVADOS_API_HOST=address)
        user.environment |= hasty
        with user.session(busybox, command=ECHO) as session:
            ((found,),) = (opened for one in both if (opened := site.sessions("open", one)))
            threading.Event().wait(5.0)
            answers(session, "awake")
            for one in both:
                assert not [line for line in one.log.read_text().splitlines() if found["id"] in line and "lost" in line]


FILE, PIPE = 500_000_000, 150_000_000
"""Bytes of each file that scp copies over a link that goes down, and of a pipe: it must still run then."""
DOWN = 20
"""Seconds that the link is down."""


@pytest.mark.timeout(8 * DEADLINE)
def test_the_link_is_down(site: Site, debian: str, tmp_path: Path) -> None:
    """A real network link that is down for 20 s amid scp both ways and a pipe: all three end with 0, and are exact."""
    if os.geteuid() != 0:
        pytest.skip("a network namespace needs root")
    link = Link(random.randrange(16384))
    with ExitStack() as stack:
        stack.callback(link.remove)
        link.make()
        (site.root / "abroad").mkdir()
        one = stack.enter_context(controller(site.cluster, site.root / "abroad", POLICY, host="0.0.0.0"))
        user = Person(
            tmp_path / "home", one, site.user.token, prefix=("ip", "netns", "exec", link.name),
            ARVADOS_API_HOST=f"{link.here}:{one.address.rpartition(':')[2]}", ARVADOS_API_HOST_INSECURE="1",
        )  # fmt: skip
        make = f"head -c {FILE // 100} /dev/urandom >/tmp/part; for i in $(seq 100); do cat /tmp/part; done >/tmp/big"
        made = user.ssh(debian, f"{make}; sha256sum </tmp/big; head -c {PIPE} /tmp/big | sha256sum")
        wanted, of_pipe = made.stdout.split()[0:3:2]
        scp = ["ip", "netns", "exec", link.name, "scp", "-q", "-F", str(tmp_path / "home" / "ssh_config")]
        first = subprocess.run(
            [*scp, f"{debian}:/tmp/part", str(tmp_path / "part")], env=user.environment, timeout=DEADLINE
        )
        assert first.returncode == 0
        with (tmp_path / "up").open("wb") as up:
            for _ in range(100):
                up.write((tmp_path / "part").read_bytes())
        piped = f"{shlex.join(user.command(debian, f'head -c {PIPE} /tmp/big'))} | sha256sum; exit ${{PIPESTATUS[0]}}"
        commands = (
            [*scp, str(tmp_path / "up"), f"{debian}:/tmp/up"], [*scp, f"{debian}:/tmp/big", str(tmp_path / "down")],
            ["bash", "-c", piped],
        )  # fmt: skip
        running = [
            stack.enter_context(subprocess.Popen(command, env=user.environment, stdout=subprocess.PIPE))
            for command in commands
        ]
        wait_for(lambda: (tmp_path / "down").exists() and (tmp_path / "down").stat().st_size > FILE // 10)
        assert all(process.poll() is None for process in running)
        with link.cut():
            threading.Event().wait(DOWN)
        assert [process.wait(3 * DEADLINE) for process in running] == [0, 0, 0]
        assert running[2].stdout and running[2].stdout.read().split()[0].decode() == of_pipe
        with (tmp_path / "down").open("rb") as down:
            assert hashlib.file_digest(down, "sha256").hexdigest() == wanted
        assert user.ssh(debian, "sha256sum </tmp/up; rm /tmp/up /tmp/big /tmp/part").stdout.split()[0] == wanted
