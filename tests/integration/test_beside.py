"""Our gateway beside stock crunch-run, which dispatchers call through ``crunch-run-beside``; through the real ssh."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any

import pytest

from arv_ssh.trust import credentials
from crunch_sshd.runtimes import host_processes
from tests.conformance.engines import missing, podman
from tests.integration import own_sshd
from tests.integration.beside_site import Attempt, BesideSite, beside_site
from tests.integration.embedded_cluster import EmbeddedCluster, docker
from tests.stock.api import Failure
from tests.timing import DEADLINE, wait_for

HTTPD = r"""
mkdir -p /www/cgi-bin /www/directory; seq 1 100000 >/www/numbers; cd /www/cgi-bin
cat >ask <<'END'
#!/bin/sh
printf 'X-Arvados-Authorization-Response: mine\r\n\r\n'; echo "$HTTP_HOST $QUERY_STRING"; wc -c
END
chmod 755 ask; exec httpd -f -p 8080 -h /www
"""
"""A program that serves HTTP: a file, a directory, and a script that tells what it was asked and claims a proof."""


@pytest.fixture(scope="module")
def site(cluster: EmbeddedCluster) -> Iterator[BesideSite]:
    """The site."""
    with beside_site(cluster) as result:
        yield result


@pytest.fixture(scope="module")
def shared(site: BesideSite) -> Iterator[Attempt]:
    """A container with a web server, started by the cloud dispatcher, for tests that leave all as it is."""
    with site.attempt("sh", "-c", HTTPD) as job:
        assert job.cloud().returncode == 0
        job.wait_for_ours()
        yield job


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The ssh command line by which the cloud dispatcher reaches a node: this machine's own sshd."""
    return [*own_sshd.command(tmp_path_factory.mktemp("sshd")), "root@node"]


@pytest.fixture
def running(site: BesideSite) -> Iterator[Attempt]:
    """A container that the cloud dispatcher has started, with our gateway on its record."""
    with site.attempt() as job:
        assert job.cloud().returncode == 0
        job.wait_for_ours()
        yield job


def reported(directory: Path) -> list[dict[str, Any]]:
    """Return what stock's processes were started with, in the order of their pids."""
    found = sorted(directory.glob("*.json"), key=lambda path: int(path.stem))
    return [json.loads(path.read_text()) for path in found]


def test_cloud(site: BesideSite, node: list[str], tmp_path: Path) -> None:
    """The cloud dispatcher's call, by ssh, ends at once with stock's answer; users meet our gateway until stock ends.

    Stock has the words it would have had, no variable more, and the address that the dispatcher named.
    """
    with site.attempt() as job:
        done = job.cloud(f"--report={tmp_path}", ssh=node)  # which returns only if nothing holds its streams
        assert (done.returncode, done.stderr) == (0, b"")
        assert json.loads(done.stdout) == {"UUID": job.uuid, "PID": job.stock_pid()}
        address = job.wait_for_ours()
        found = job.ssh("hostname; exit 7")
        assert found.returncode == 7, found.stderr
        assert found.stdout.strip() == docker("inspect", "-f", "{{.Config.Hostname}}", job.uuid)
        assert address == job.record["gateway_address"] and address.startswith("127.0.0.1:")
        called, detached = reported(tmp_path)
        words = ["--runtime-engine=docker", *site.words, f"--report={tmp_path}", job.uuid]
        assert called["argv"] == ["--detach", "--stdin-config", *words]
        assert detached["argv"] == ["-no-detach", *called["argv"]]
        assert not [one for one in called["environ"] if one.startswith(("ARVADOS", "Gateway"))]
        docker("kill", job.uuid)
        job.wait_for_state("Complete")
        job.wait_until_nothing_is_left()


def test_no_secret_shows(shared: Attempt) -> None:
    """No argument list and no environment of the sidecar has a secret; it holds neither lock nor stream of the job."""
    pids = shared.processes("crunch-run-beside")
    assert len(pids) == 2
    gateway = shared.processes("crunch-run gateway")
    stock = host_processes.stat(shared.stock_pid())
    assert stock is not None
    for pid in pids + gateway:
        shown = b"".join(Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ"))
        assert shared.secret.encode() not in shown and shared.site.root_token.encode() not in shown
        assert host_processes.stat(pid).session != stock.session  # type: ignore[union-attr]
        links = [os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")]
        assert not [link for link in links if "crunch-run-" in link and "lock" in link]
        assert [os.readlink(f"/proc/{pid}/fd/{n}") for n in (0, 1)] == ["/dev/null"] * 2
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
    tokens = {seen.headers["authorization"].rpartition("/")[2] for seen in shared.site.api.asked(
        "PATCH", f"/arvados/v1/containers/{shared.uuid}")}  # fmt: skip
    assert [shared.site.api.container_tokens[token] for token in tokens] == [shared.uuid]


def test_sidecar_killed(running: Attempt) -> None:
    """The job goes on; the record has stock's gateway again, and ssh comes in through that one."""
    (sidecar,) = running.processes("crunch-run-beside of")
    os.kill(sidecar, signal.SIGKILL)
    running.wait_for_ours(3)
    addresses = running.addresses()
    assert addresses == [addresses[0], addresses[1], addresses[0]]
    running.wait_until_nothing_is_left()
    found = running.site.ssh(running.uuid, "-o", "StrictHostKeyChecking=accept-new", "hostname")
    assert found.returncode == 0, found.stderr
    assert host_processes.is_alive(running.stock_pid())


def test_gateway_killed(shared: Attempt) -> None:
    """Another one takes its place at the same address."""
    (gateway,) = shared.processes("crunch-run gateway")
    os.kill(gateway, signal.SIGKILL)
    wait_for(lambda: [pid for pid in shared.processes("crunch-run gateway") if pid != gateway])
    assert shared.ssh("exit 7").returncode == 7
    assert len(shared.addresses()) == 2


def test_record_refused(site: BesideSite, tmp_path: Path) -> None:
    """When the API refuses our address the sidecar ends, the job runs on, and sessions go to stock's gateway."""
    with site.attempt() as job:
        go = tmp_path / "go"
        assert job.cloud(f"--hold={go}").returncode == 0
        job.wait_for_state("Running")
        site.api.failures.append(Failure("PATCH", f"/arvados/v1/containers/{job.uuid}", 403, "no"))
        go.touch()
        wait_for(lambda: job.log.exists() and "the record cannot be kept" in job.log.read_text())
        job.wait_until_nothing_is_left()
        found = site.ssh(job.uuid, "-o", "StrictHostKeyChecking=accept-new", "hostname")
        assert found.returncode == 0, found.stderr
        assert job.record["state"] == "Running" and host_processes.is_alive(job.stock_pid())


def test_two_attempts_at_once(shared: Attempt) -> None:
    """A second call for a container that runs fails as stock's would, and takes nothing from the first."""
    others = set(shared.processes("crunch-run-beside"))
    done = shared.cloud()
    assert done.returncode == 1 and b"flock" in done.stderr
    wait_for(lambda: set(shared.processes("crunch-run-beside")) == others, "the second sidecar's end")
    assert shared.ssh("exit 7").returncode == 7
    assert len(shared.addresses()) == 2


def test_second_attempt_after_the_first(running: Attempt) -> None:
    """The sidecar ends with its stock; the container is then run again, with another gateway on its record."""
    first = running.addresses()[-1]
    os.kill(running.stock_pid(), signal.SIGKILL)
    running.wait_until_nothing_is_left()
    assert len(running.addresses()) == 2
    docker("rm", "--force", running.uuid)
    running.record.update(state="Locked", gateway_address="")
    assert running.cloud().returncode == 0
    assert running.wait_for_ours(4) != first
    assert running.ssh("exit 7").returncode == 7


def test_list_and_kill(running: Attempt) -> None:
    """``--list`` and ``--kill`` are stock's: the container is shown as it would be without us, and ended."""
    command = [str(running.site.stock), "--list"]
    alone = subprocess.run(command, input=b"", capture_output=True, timeout=DEADLINE)
    ours = subprocess.run(
        [running.beside, f"--stock={command[0]}", "--list"], input=b"", capture_output=True, timeout=DEADLINE,
    )  # fmt: skip
    assert running.uuid.encode() in alone.stdout.splitlines() and b"stale" not in alone.stdout
    assert (ours.returncode, ours.stdout, ours.stderr) == (alone.returncode, alone.stdout, alone.stderr)
    kill = [running.beside, f"--stock={command[0]}", "--kill", "15", running.uuid]
    subprocess.run(kill, timeout=DEADLINE, check=True)
    running.wait_for_state("Complete")
    running.wait_until_nothing_is_left()


class Relayed:
    """What a stock controller asks of a gateway besides sessions, one request a connection."""

    def __init__(self, job: Attempt) -> None:
        self._job = job
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname, self._context.verify_mode = False, ssl.CERT_NONE

    def __call__(self, method: str, target: str, body: bytes = b"", **headers: Any) -> tuple[HTTPResponse, bytes]:
        """Ask; return the answer, whose proof is right, and its body. Underscores in names are hyphens."""
        connection = HTTPSConnection(self._job.record["gateway_address"], context=self._context, timeout=DEADLINE)
        connection.connect()
        certificate: Any = connection.sock.getpeercert(binary_form=True)
        proof = credentials.request_auth(self._job.secret, certificate)
        connection.putrequest(method, target, skip_host="Host" in headers)
        given = {"X-Arvados-Container-Gateway-Uuid": self._job.uuid, "X-Arvados-Authorization": proof}
        for name, value in (given | headers | ({"Content-Length": str(len(body))} if body else {})).items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders(body or None)
        answer = connection.getresponse()
        proofs = answer.headers.get_all("X-Arvados-Authorization-Response")
        assert proofs == [credentials.respond_auth(self._job.secret, proof)]
        content = answer.read()
        connection.close()
        return answer, content


@pytest.fixture
def ask(shared: Attempt) -> Relayed:
    """Ask our gateway of the shared container for what stock's has."""
    return Relayed(shared)


def test_logs_are_relayed(shared: Attempt, ask: Relayed) -> None:
    """They are those of stock's gateway, whole, in part, as a listing; and what that one refuses is refused."""
    log = f"running {shared.uuid}\n".encode()
    answer, content = ask("GET", "/log/crunch-run.txt", X_Webdav_Source="/log")
    assert (answer.status, content) == (200, log)
    answer, content = ask("GET", "/log/crunch-run.txt", X_Webdav_Source="/log", Range="bytes=8-12")
    assert (answer.status, content) == (206, log[8:13])
    assert answer.headers["Content-Range"] == f"bytes 8-12/{len(log)}"
    answer, content = ask("PROPFIND", "/log/", X_Webdav_Source="/log", X_Webdav_Prefix="/p", Depth="1")
    assert answer.status == 207 and b"/p" in content
    assert ask("PUT", "/log/new", b"x", X_Webdav_Source="/log")[0].status == 405
    assert ask("GET", "/")[0].status == 404


def test_ports_are_relayed(ask: Relayed) -> None:
    """Range, redirect, Host and query reach their ends untouched; a header of the container's is no proof."""
    port: dict[str, Any] = {"X_Arvados_Container_Target_Port": "8080"}
    answer, content = ask("GET", "/numbers", Range="bytes=2-5", **port)
    assert (answer.status, content) == (206, b"2\n3\n")
    assert ask("GET", "/numbers", **port)[1] == b"".join(b"%d\n" % number for number in range(1, 100_001))
    answer, _ = ask("GET", "/directory", **port)
    assert answer.status == 302 and answer.headers["Location"] == "/directory/"
    answer, content = ask("POST", "/cgi-bin/ask?a=%20", b"x" * 3_000_000, Host="name.example", **port)
    assert (answer.status, content.split()) == (200, [b"name.example", b"a=%20", b"3000000"])
    assert ask("GET", "/", X_Arvados_Container_Target_Port="81")[0].status == 503


def test_record_keeper_killed(shared: Attempt) -> None:
    """Sessions go on to our gateway. The last test of the shared container, which has no keeper any more."""
    (keeper,) = shared.processes("crunch-run-beside record")
    os.kill(keeper, signal.SIGKILL)
    wait_for(lambda: not shared.processes("crunch-run-beside record"))
    assert shared.ssh("exit 7").returncode == 7
    assert len(shared.addresses()) == 2


@dataclass(frozen=True)
class Kind:
    """Who starts a job, with which engine, as which user."""

    dispatcher: str
    engine: str
    uid: int

    def popen(self) -> dict[str, Any]:
        """Return options of Popen for the job."""
        groups = [os.stat("/var/run/docker.sock").st_gid]
        return {"user": self.uid, "group": self.uid, "extra_groups": groups, "umask": 0o022} if self.uid else {}


ROOTS, USERS, NAMESPACES = Kind("slurm", "docker", 0), Kind("slurm", "docker", 1000), Kind("lsf", "singularity", 1000)


@pytest.mark.parametrize("kind", [ROOTS, USERS, NAMESPACES], ids=["root", "user", "namespace"])
def test_job_script(site: BesideSite, kind: Kind, tmp_path: Path) -> None:
    """The job's process is stock itself, with the job's signals and status; sessions come through a tunnel.

    Root and others have our gateway: by the engine's socket, or beside the leader of a namespace.
    """
    if kind.uid and (os.getuid() != 0 or not site.for_users):
        pytest.skip("other users may not read this Python, or these sources")
    reports = site.reports()
    with (
        site.attempt("sh", "-c", "while :; do sleep 1; done") as job,
        job.job(kind.dispatcher, f"--report={reports}", engine=kind.engine, popen=kind.popen()) as process,
    ):
        assert job.wait_for_ours() == f"tunnel https://{site.controller.address}"
        assert job.addresses()[0].startswith("127.0.0.1:")
        (called,) = reported(reports)
        given, engine = [*site.words, f"--report={reports}"], [f"--runtime-engine={kind.engine}"]
        assert called["argv"] == [*(given + engine if kind.dispatcher == "slurm" else engine + given), job.uuid]
        added = {one for one in called["environ"] if one.startswith("Gateway")}
        assert added == {f"GatewayAuthSecret={job.secret}", "GatewayAddress=127.0.0.1:0"}
        for pid in [*job.processes("crunch-run-beside"), *job.processes("crunch-run gateway")]:
            assert f"\nUid:\t{kind.uid}\t" in Path(f"/proc/{pid}/status").read_text()
        found = job.ssh("id -u; kill -0 1 && exit 7")
        assert (found.returncode, found.stdout) == (7, "0\n"), found.stderr
        process.terminate()
        assert process.wait(DEADLINE) == 137  # the double kills its container for it
        job.wait_until_nothing_is_left()


def test_sidecar_cannot_serve(site: BesideSite) -> None:
    """A gateway that cannot listen costs the job nothing: stock's is on the record."""
    with site.attempt() as job:
        assert job.cloud("--gateway-address=192.0.2.1").returncode == 0
        wait_for(lambda: job.log.exists() and "the sidecar cannot serve" in job.log.read_text())
        job.wait_for_state("Running")
        job.wait_until_nothing_is_left()
        assert len(job.addresses()) == 1


@pytest.mark.skipif(missing("runc") is not None, reason=f"no Podman: {missing('runc')}")
def test_podman(site: BesideSite) -> None:
    """Podman's socket serves as Docker's does: DOCKER_HOST of the job names it to stock and to us."""
    with podman("runc") as engine, site.attempt() as job:
        with job.job("slurm", DOCKER_HOST=engine.url) as process:
            job.wait_for_ours()
            found = job.ssh("id -u; exit 7")
            assert (found.returncode, found.stdout) == (7, "0\n"), found.stderr
            process.terminate()
            process.wait(DEADLINE)
        job.wait_until_nothing_is_left()
