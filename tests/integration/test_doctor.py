"""arvados-client doctor: each step of the way made to fail, and named with what to do."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from arv_ssh.processes import process_lock
from proxycommand.diagnosis import ADVICE, TO_THE_TOKEN
from tests.integration.controllers import controller, new_user, submit
from tests.integration.embedded_cluster import EmbeddedCluster
from tests.integration.terminal import TerminalSession
from tests.integration.test_errors import ARVADOS_CLIENT, NO_SUCH_CONTAINER, make_container, refused_port
from tests.timing import DEADLINE, wait_for

Doctor = Callable[..., "Seen"]
WITHOUT_PROXY = [name for name in ADVICE if name != "proxy"]


class Seen:
    """What ``doctor --json`` said: the steps that passed, and the one that did not."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        report = json.loads(done.stdout)
        steps: list[dict[str, Any]] = report["steps"]
        self.passed = [step["step"] for step in steps if step["ok"]]
        self.failed = next((step for step in steps if not step["ok"]), None)
        assert done.returncode == (255 if self.failed else 0) and report["ok"] is (self.failed is None)
        assert done.stderr == ""
        assert all(step["seconds"] is None or 0 <= step["seconds"] < DEADLINE for step in steps)

    def stopped_at(self, name: str, words: str) -> None:
        """Check that the steps before ``name`` passed, and that it failed with ``words`` and something to do."""
        assert self.failed is not None, self.passed
        assert (self.failed["step"], self.failed["advice"]) == (name, ADVICE[name])
        assert words in self.failed["detail"]
        assert self.passed == WITHOUT_PROXY[: WITHOUT_PROXY.index(name)]


@pytest.fixture
def doctor(cluster: EmbeddedCluster, home: Path) -> Doctor:
    """Run ``doctor --json`` as a user of the cluster whose home is empty; keywords are variables of the environment."""

    def run(*words: str, **variables: str) -> Seen:
        return Seen(examine(cluster, home, "--json", *words, **variables))

    return run


def examine(cluster: EmbeddedCluster, home: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run ``doctor`` with the cluster's own settings, except for ``variables``."""
    lines = cluster.directory.env.read_text().splitlines()
    own = dict(line.removeprefix("export ").split("=", 1) for line in lines)
    env = {"HOME": str(home), "PATH": os.environ["PATH"], "PYTHONUTF8": "1"} | own | variables
    return subprocess.run(
        [ARVADOS_CLIENT, "doctor", *words], capture_output=True, text=True, timeout=2 * DEADLINE, env=env
    )


def test_all_is_well(doctor: Doctor, busybox: str) -> None:
    """With a UUID every step passes, down to a shell in the container; without one those to the token."""
    assert doctor(busybox).passed == WITHOUT_PROXY
    assert doctor().passed == list(name for name in TO_THE_TOKEN if name != "proxy")


def test_an_old_block(cluster: EmbeddedCluster, home: Path, busybox: str) -> None:
    """An ssh_config that gives up a lost connection before ssh-proxy does is told with what to do; ours is not."""
    ours = cluster.directory.ssh_config.read_text()
    config = home / ".ssh" / "config"
    config.parent.mkdir(mode=0o700, exist_ok=True)
    seen = {}
    for name, text in (
        ("ours", ours), ("old", re.sub("ServerAliveCountMax .*", "ServerAliveCountMax 4", ours)),
        ("without", re.sub("ServerAliveCountMax .*", "ServerAliveCountMax 4", ours).replace(
            " ssh-proxy ", " ssh-proxy --no-resume ")),
    ):  # fmt: skip
        config.write_text(text)
        command = ["ssh", "-F", str(config)]
        (home / "bin").mkdir(exist_ok=True)
        ssh = home / "bin" / "ssh"  # OpenSSH looks for the user's own file in the password database's home
        ssh.write_text(f'#!/bin/sh\nexec /usr/bin/{" ".join(command)} "$@"\n')
        ssh.chmod(0o755)
        done = examine(cluster, home, "--json", busybox, PATH=f"{home}/bin:{os.environ['PATH']}")
        steps = {step["step"]: step["detail"] for step in json.loads(done.stdout)["steps"]}
        seen[name] = steps["OpenSSH"]
    assert "gives up a lost connection after 120 s, ssh-proxy after 600 s" in seen["old"]
    assert "ssh-config --install" in seen["old"]
    assert "gives up" not in seen["ours"] and "gives up" not in seen["without"]


def test_for_people(cluster: EmbeddedCluster, home: Path, busybox: str) -> None:
    """A line for each step, with its time, and at the first failure one that says what to do."""
    lines = examine(cluster, home, busybox).stdout.splitlines()
    assert [line.split("  ")[0] for line in lines[: len(WITHOUT_PROXY)]] == [f"✓ {name}" for name in WITHOUT_PROXY]
    assert all(" ms  " in line for line in lines[: len(WITHOUT_PROXY)])
    assert lines[-1] == f"Everything works: ssh {busybox} gets you in."
    failed = examine(cluster, home, ARVADOS_API_TOKEN="nonsense", PYTHONUTF8="0", PYTHONIOENCODING="ascii")
    assert failed.returncode == 255
    assert failed.stdout.splitlines()[-2].startswith("FAILED token ")
    assert failed.stdout.splitlines()[-1].startswith("-> copy a current token")


def test_on_a_terminal(cluster: EmbeddedCluster, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal what passed is green and what failed is red, unless NO_COLOR is set."""
    settings = ("doctor", "--settings", str(cluster.directory.env))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PYTHONUTF8", "1")
    monkeypatch.setenv("ARVADOS_API_TOKEN", "nonsense")
    monkeypatch.delenv("NO_COLOR", raising=False)
    with TerminalSession([ARVADOS_CLIENT, *settings], size=(24, 200)) as session:
        session.expect("\x1b[32m✓\x1b[0m settings")
        session.expect("\x1b[31m✗\x1b[0m token")
        assert session.wait() == 255
    monkeypatch.setenv("NO_COLOR", "1")
    with TerminalSession([ARVADOS_CLIENT, *settings], size=(24, 200)) as session:
        session.expect("✗ token")
        assert session.wait() == 255


def test_where_the_settings_are_from(cluster: EmbeddedCluster, home: Path, busybox: str) -> None:
    """The file that a UUID's cluster has of its own is named, as a user would write its path."""
    own = home / ".config" / "arvados" / "zzzzz.conf"
    own.parent.mkdir(parents=True)
    own.write_text(cluster.directory.env.read_text())
    report = json.loads(examine(cluster, home, "--json", busybox, ARVADOS_API_HOST="").stdout)
    assert report["ok"] and report["steps"][0]["detail"].endswith(", from ~/.config/arvados/zzzzz.conf")


def test_no_settings(doctor: Doctor) -> None:
    """Without a host there is nowhere to go."""
    doctor(ARVADOS_API_HOST="").stopped_at("settings", "ARVADOS_API_HOST is not set")


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("", "no ssh program"),
        ("echo OpenSSH_8.3p1, OpenSSL 1.1.1k >&2", "OpenSSH_8.3p1, which is too old"),
        ("echo Sun_SSH_2.4 >&2", "which is not OpenSSH"),
    ],
)
def test_no_openssh_that_will_do(doctor: Doctor, tmp_path: Path, program: str, words: str) -> None:
    """No ssh, an old one and another one are told apart."""
    if program:
        (tmp_path / "ssh").write_text(f"#!/bin/sh\n{program}\n")
        (tmp_path / "ssh").chmod(0o755)
    doctor(PATH=str(tmp_path)).stopped_at("OpenSSH", words)


def test_wrong_host_name(doctor: Doctor) -> None:
    """A name that no DNS knows fails there."""
    doctor(ARVADOS_API_HOST="zzzzz.invalid").stopped_at("DNS", "zzzzz.invalid cannot be resolved")


def test_closed_port(doctor: Doctor) -> None:
    """A port where nothing listens fails at TCP."""
    port = refused_port()
    doctor(ARVADOS_API_HOST=f"127.0.0.1:{port}").stopped_at("TCP", f"127.0.0.1:{port}: connection refused")


def test_untrusted_certificate(doctor: Doctor, tmp_path: Path) -> None:
    """Without the cluster's CA its certificate is not trusted; a CA file that is not there is no fault of TCP."""
    doctor(SSL_CERT_FILE="").stopped_at("TLS", "is not trusted")
    missing = doctor(SSL_CERT_FILE=str(tmp_path / "missing.pem"))
    assert missing.failed is not None and missing.failed["step"] == "TLS" and "missing.pem" in missing.failed["detail"]


def test_a_proxy_that_refuses(doctor: Doctor) -> None:
    """A proxy is a step of its own where there is one, and so is one that cannot be understood."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        pid = os.fork()
        if not pid:
            connection, _ = listener.accept()
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            os._exit(0)
        seen = doctor(HTTPS_PROXY=f"http://127.0.0.1:{port}")
        os.waitpid(pid, 0)
    assert seen.failed is not None and seen.failed["step"] == "proxy" and "407" in seen.failed["detail"]
    assert seen.passed == ["settings", "OpenSSH", "DNS", "TCP"]
    wrong = doctor(HTTPS_PROXY="socks5://127.0.0.1:1")
    assert wrong.failed is not None and wrong.failed["step"] == "proxy"


def test_bad_token(doctor: Doctor) -> None:
    """A token of nobody fails there, and is not shown."""
    seen = doctor(ARVADOS_API_TOKEN="v2/zzzzz-gj3su-000000000000000/nonsense")
    seen.stopped_at("token", "does not accept the token")
    assert "nonsense" not in str(seen.failed)


@pytest.mark.parametrize(
    ("target", "words"),
    [(NO_SUCH_CONTAINER, "was not found"), ("zzzzz-dz642-typo", "not a container UUID"), ("none.arv", "no container")],
)
def test_no_such_container(doctor: Doctor, target: str, words: str) -> None:
    """What leads to no container fails at the record."""
    doctor(target).stopped_at("record", words)


@pytest.fixture
def queued_and_ended(cluster: EmbeddedCluster, tmp_path: Path) -> Iterator[tuple[dict[str, str], str, str]]:
    """Settings of a controller without a dispatcher, and a container that is Queued, and one that has ended."""
    database = {"Database": f"sqlite:///{tmp_path / 'db.sqlite'}"}
    with controller(cluster, tmp_path, {"Mode": "default-on", "User": True}, EmbeddedAPI=database) as running:
        user, token = new_user(running.root, "active")
        where = {"ARVADOS_API_HOST": running.address, "ARVADOS_API_TOKEN": token}
        queued, ended = (make_container(running, user, state) for state in ("Queued", "Complete"))
        yield where, queued, ended


def test_not_running(doctor: Doctor, queued_and_ended: tuple[dict[str, str], str, str]) -> None:
    """A container that waits, and one that is over, fail at the record with their state."""
    where, queued, ended = queued_and_ended
    doctor(queued, **where).stopped_at("record", f"{queued} is not running yet: it is Queued")
    doctor(ended, **where).stopped_at("record", f"{ended} has ended (Complete, exit 3, ")


@pytest.mark.parametrize(
    ("shell_access", "words"),
    [
        ({"Mode": "disabled"}, "shell access is disabled on this cluster"),
        ({"Mode": "default-off", "User": True}, "was not requested"),
    ],
)
def test_policy(
    cluster: EmbeddedCluster, tmp_path: Path, doctor: Doctor, busybox: str, shell_access: dict[str, Any], words: str
) -> None:
    """Where nobody may enter, and where this container was not meant to be entered, the policy says so."""
    with controller(cluster, tmp_path, shell_access) as other:
        doctor(busybox, ARVADOS_API_HOST=other.address).stopped_at("policy", words)


def test_dead_gateway(cluster: EmbeddedCluster, doctor: Doctor) -> None:
    """Where crunch-run was killed, the gateway cannot be reached."""
    uuid = cluster.run("sleep", "1000000")
    host, _, port = cluster.container(uuid)["gateway_address"].rpartition(":")
    dispatcher = process_lock.holder_pid(cluster.directory.dispatcher_lock)
    assert dispatcher is not None
    os.kill(dispatcher, signal.SIGSTOP)  # it would see at once that crunch-run is gone, and cancel the container
    try:
        os.kill(cluster.crunch_run_pid(uuid), signal.SIGKILL)
        wait_for(lambda: _refuses(host, int(port)), "the gateway's port to be closed")
        doctor(uuid).stopped_at("gateway", "cannot be reached")
    finally:
        os.kill(dispatcher, signal.SIGCONT)
    cluster.wait_for_state(uuid, "Cancelled")


def _refuses(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) != 0


def test_another_containers_gateway(
    cluster: EmbeddedCluster, tmp_path: Path, doctor: Doctor, busybox: str
) -> None:
    """A gateway that is another container's fails at the proofs."""
    database = {"Database": f"sqlite:///{tmp_path / 'db.sqlite'}"}
    with controller(cluster, tmp_path, {"Mode": "default-on", "User": True}, EmbeddedAPI=database) as other:
        user, token = new_user(other.root, "active")
        uuid = str(submit(other.root, user)["container_uuid"])
        other.root.lock(uuid)
        address = cluster.container(busybox)["gateway_address"]
        other.root.update("containers", uuid, {"state": "Running", "gateway_address": address})
        seen = doctor(uuid, ARVADOS_API_HOST=other.address, ARVADOS_API_TOKEN=token)
    seen.stopped_at("proofs", uuid)


def test_no_shell(doctor: Doctor, scratch: str) -> None:
    """An image without a shell fails at the last step, which says what works all the same."""
    doctor(scratch).stopped_at("exec", f"container {scratch} has no shell")


@pytest.mark.parametrize(
    ("words", "said"), [(("a", "b"), "doctor does not take 'b'"), (("--jsn",), "unknown option --jsn")]
)
def test_wrong_command_line(cluster: EmbeddedCluster, home: Path, words: tuple[str, ...], said: str) -> None:
    """A wrong command line is one line on stderr."""
    done = examine(cluster, home, *words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (255, "", 1) and said in done.stderr
