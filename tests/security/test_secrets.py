"""Where the secrets of a cluster are after a day's work: with who must have them, and nowhere else."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from arv_ssh.trust import credentials
from tests.integration import controllers
from tests.integration.clients import transport_over
from tests.integration.embedded_cluster import docker_container
from tests.security.conftest import Site
from tests.timing import DEADLINE, wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root sees other users' processes")


@pytest.fixture(scope="module")
def used(site: Site) -> dict[str, bytes]:
    """All secrets by their names, each used: by ssh on a terminal, by a library, by a wrong and a right token."""
    root_token = site.controller.root_token
    assert site.ssh("-tt", "-o", "ControlPath=none", site.debian, "echo hello").returncode == 0
    answer, connection = site.controller.ask_for_session(site.debian, site.token())
    credential = answer.headers["x-arvados-ssh-user-credential"]
    with closing(connection), transport_over(connection) as transport:
        transport.start_client(timeout=DEADLINE)
        transport.auth_password("_", credential)
        transport.open_session(timeout=DEADLINE).close()
    wrong = f"v2/zzzzz-gj3su-000000000000000/{'wrongsecret' * 4}"
    assert site.controller.status(site.debian, wrong)[0] == 401
    assert site.controller.status(site.debian, site.token("spectator"))[0] == 404
    auth = site.controller.root.get("containers", site.debian)["auth_uuid"]
    found = {
        "SystemRootToken": root_token,
        "container's secret": site.secret(site.debian),
        "container's token": credentials.container_token(root_token, auth),
        "user credential": credential,
        "wrong token": "wrongsecret" * 4,
        "user's token": site.token().split("/")[2],
        "spectator's token": site.token("spectator").split("/")[2],
    }
    return {name: secret.encode() for name, secret in found.items()}


def holding(paths: Iterator[Path] | list[Path], secrets: dict[str, bytes]) -> set[tuple[str, Path]]:
    """Return which secret is in which file."""
    found = set()
    for path in paths:
        try:
            data = path.read_bytes()
        except OSError:
            continue  # a directory, a socket, a process that has ended
        found |= {(name, path) for name, secret in secrets.items() if secret in data}
    return found


def test_logs_audit_and_recordings(site: Site, used: dict[str, bytes]) -> None:
    """Nothing that is written of sessions holds a secret of any kind."""
    places = (site.cluster.directory.log, site.audit, site.recordings)
    files = [path for place in places for path in place.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} >= {".log", ".txt", ".jsonl", ".cast"}
    assert holding(files, used) == set()


def test_other_files(site: Site, used: dict[str, bytes]) -> None:
    """A file that holds a secret can be read by its owner alone; the database holds no token, only digests."""
    root = site.cluster.directory.root
    found = holding([path for path in root.rglob("*") if path.is_file()], used)
    assert ("SystemRootToken", site.cluster.directory.config) in found
    assert all(path.stat().st_mode & 0o077 == 0 for _, path in found), found
    assert not [path for _, path in found if ".sqlite" in path.name or path.suffix == ".db"]


def test_processes(site: Site, used: dict[str, bytes]) -> None:
    """No process on this machine shows one in its arguments, and none of ours in its environment."""
    processes = [path for path in Path("/proc").iterdir() if path.name.isdigit()]
    assert holding([path / "cmdline" for path in processes], used) == set()
    assert holding([path / "environ" for path in processes], used) == set()


def test_inside_the_container(site: Site, used: dict[str, bytes]) -> None:
    """Nor does the container's environment, seen from a session in it."""
    done = site.ssh(site.debian, "cat /proc/[0-9]*/environ; env; cat /proc/[0-9]*/cmdline")
    assert not [name for name, secret in used.items() if secret in done.stdout]


def unlimited() -> None:
    """Allow core dumps; for a child, before its program starts."""
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def dumps_core(process: subprocess.Popen[bytes]) -> bool:
    """Have a process crash; say whether the kernel made a core dump of it."""
    process.send_signal(signal.SIGSEGV)
    _, status = os.waitpid(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert os.WTERMSIG(status) == signal.SIGSEGV
    return os.WCOREDUMP(status)


@contextmanager
def program(
    site: Site, directory: Path, name: str, *arguments: str, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run one of this package's programs in ``directory``, with core dumps allowed."""
    own = {"PATH": os.environ["PATH"], "SSL_CERT_FILE": str(site.cluster.directory.ca)}
    with (directory / "output").open("wb") as output:
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name(name)), *arguments], cwd=directory, env=own | environment,
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, preexec_fn=unlimited,
        )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            process.wait(DEADLINE)


class TestCoreDumps:
    """Programs that know a secret leave no core dump when they crash; on this machine others do."""

    @pytest.fixture(autouse=True)
    def others_do(self, tmp_path: Path) -> None:
        process = subprocess.Popen(["sleep", "1000"], cwd=tmp_path, preexec_fn=unlimited)
        wait_for(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n", "sleep")
        assert dumps_core(process)
        for core in tmp_path.glob("core*"):
            core.unlink()

    def test_controller(self, site: Site, tmp_path: Path) -> None:
        log = tmp_path / "controller.log"
        file = controllers.write_config(site.cluster, tmp_path, {"Mode": "disabled"})
        options = ["--listen", "127.0.0.1:0"]
        with controllers.start(site.cluster, file, log, options, cwd=tmp_path, preexec_fn=unlimited) as process:
            process.wait_until_it_listens()
            assert not dumps_core(process.popen)
        assert not list(tmp_path.glob("core*"))

    def test_gateway(self, site: Site, tmp_path: Path) -> None:
        name = docker_container(site.debian)
        arguments = ["--container-uuid", site.debian, "--docker-container", name, "--gateway-auth-secret", "env:SECRET"]
        with program(site, tmp_path, "crunch-sshd", *arguments, SECRET="s" * 64) as process:
            wait_for(lambda: "127.0.0.1:" in (tmp_path / "output").read_text(), "the gateway")
            assert not dumps_core(process)

    def test_crunch_run(self, site: Site, tmp_path: Path) -> None:
        uuid = "zzzzz-dz642-000000000000000"
        with socket.create_server(("127.0.0.1", 0)) as api:
            host = f"127.0.0.1:{api.getsockname()[1]}"
            arguments = ["--gateway-auth-secret", "env:SECRET", uuid]
            known = {"SECRET": "s" * 64, "ARVADOS_API_HOST": host, "ARVADOS_API_TOKEN": "v2/a/b"}
            with program(site, tmp_path, "crunch-run", *arguments, **known) as process:
                api.settimeout(DEADLINE)
                connection, _ = api.accept()  # it asks for the container's record
                with connection:
                    assert not dumps_core(process)

    def test_dispatcher(self, site: Site, tmp_path: Path) -> None:
        # Another cluster's: a second dispatcher of this one would end the containers that it did not start.
        nowhere = {"Controller": {"ExternalURL": "https://127.0.0.1:1"}}
        file = controllers.write_config(site.cluster, tmp_path, {"Mode": "disabled"}, Services=nowhere)
        state = tmp_path / "state"
        arguments = ["--config", str(file), "--state-dir", str(state), "--log-dir", str(tmp_path / "log")]
        with program(site, tmp_path, "crunch-dispatch-local", *arguments) as process:
            wait_for((state / "dispatcher.lock").exists, "the dispatcher")
            assert not dumps_core(process)
