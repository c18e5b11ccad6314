"""A site of stock Arvados with crunch-run-beside in crunch-run's place: doubles of its API, crunch-run and dispatchers.

Our controller, ssh, the engine and the containers are real.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from arv_ssh.config import cluster_config
from arv_ssh.trust import credentials
from crunch_sshd.runtimes import host_processes
from tests.integration.controllers import Controller, started, write_config
from tests.integration.embedded_cluster import EmbeddedCluster, docker
from tests.stock import dispatchers
from tests.stock.api import StockApi, stock_api
from tests.timing import DEADLINE, wait_for

ROOT = Path(__file__).parents[2]
ACTIVE = "zzzzz-tpzed-xurymjxw79nv3jz"
SLEEP = ("sleep", "1000000")
_numbers = itertools.count(1)


class Attempt:
    """One container of the site, and what runs for it on this host."""

    def __init__(self, site: BesideSite, uuid: str) -> None:
        self.site = site
        self.uuid = uuid
        self.secret = credentials.container_secret(site.root_token, uuid)
        self.log = site.directory / "log" / f"{uuid}.log"
        self.beside = str(site.beside)

    @property
    def record(self) -> dict[str, Any]:
        """The container's record."""
        return self.site.api.containers[self.uuid]

    @property
    def variables(self) -> dict[str, str]:
        """What the dispatcher tells in variables, with the address at which it expects the gateway."""
        return self.site.variables | {"GatewayAddress": "127.0.0.1:0", "GatewayAuthSecret": self.secret}

    def words(self, *more: str) -> list[str]:
        """Return the arguments that the site configures."""
        return [f"--log={self.log}", *self.site.words, *more]

    def cloud(self, *more: str, ssh: Sequence[str] = ()) -> subprocess.CompletedProcess[bytes]:
        """Have the cloud dispatcher start it."""
        command = f"{self.beside} --stock {self.site.stock}"
        return dispatchers.cloud(command, self.words(*more), self.uuid, self.variables, ssh)

    def job(
        self, kind: str, *more: str, engine: str = "docker", popen: Mapping[str, Any] | None = None, **variables: str
    ) -> subprocess.Popen[bytes]:
        """Have Slurm or LSF start it, with ``variables`` of the job."""
        words, given = self.words(f"--stock={self.site.stock}", *more), self.site.variables | variables
        return dispatchers.job(
            kind, self.site.directory, self.beside, words, self.uuid, given, self.secret, engine, **(popen or {})
        )

    def addresses(self) -> list[str]:
        """Return the gateway addresses that were written to the record so far: stock's, then ours."""
        path = f"/arvados/v1/containers/{self.uuid}"
        changes = [seen.json["container"] for seen in self.site.api.asked("PATCH", path)]
        return [change["gateway_address"] for change in changes if "gateway_address" in change]

    def wait_for_ours(self, number: int = 2) -> str:
        """Wait until the record has had that many addresses; return the last."""
        try:
            return wait_for(lambda: found[-1] if len(found := self.addresses()) >= number else None, "our address")
        except AssertionError as error:
            raise AssertionError(f"{error}; {self._told()}") from None

    def wait_for_state(self, state: str) -> None:
        wait_for(lambda: self.record["state"] == state, f"the state {state}")

    def _told(self) -> str:
        return f"the sidecar's log: {self.log.read_text() if self.log.exists() else 'none'}"

    def processes(self, title: str) -> list[int]:
        """Return the pids of this container's processes whose words begin with ``title``."""
        found = []
        for one in host_processes.processes():
            try:
                words = Path(f"/proc/{one.pid}/cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if self.uuid in words and words.startswith(title) and one.state != "Z":
                found.append(one.pid)
        return found

    def stock_pid(self) -> int:
        """Return the pid of stock's process that runs the container."""
        return int(json.loads(Path(f"/var/lock/crunch-run-{self.uuid}.lock").read_text())["PID"])

    def ssh(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the container through stock ssh."""
        return self.site.ssh(self.uuid, *command)

    def wait_until_nothing_is_left(self) -> None:
        """Wait until the sidecar's processes have ended."""
        ours = ("crunch-run-beside", "crunch-run gateway")
        wait_for(lambda: not any(self.processes(title) for title in ours), "the sidecar's end")


class BesideSite:
    """The site: ``stock`` is its crunch-run, ``words`` what that one has to be told in every call."""

    def __init__(self, cluster: EmbeddedCluster, directory: Path, api: StockApi, controller: Controller) -> None:
        self.directory = directory
        self.api = api
        self.controller = controller
        self.root_token = cluster_config.load(cluster.directory.config).system_root_token
        self._ca = cluster.directory.ca
        python = _everybodys_python(directory)
        self.for_users = python != Path(sys.executable)
        self.stock = _program(python, directory / "crunch-run", "tests.stock.crunch_run_program")
        self.beside = _program(python, directory / "crunch-run-beside", "crunch_sshd.beside.launch")
        pair = directory / "certificate.pem", directory / "key.pem"
        for path, source in zip(pair, _server_pair(cluster), strict=True):
            path.write_bytes(source.read_bytes())  # the key is nobody's secret here: users' jobs read it
        self.words = [f"--certificate={pair[0]}", f"--key={pair[1]}"]
        self.variables = {
            "ARVADOS_API_HOST": controller.address, "ARVADOS_API_TOKEN": self.root_token,
            "ARVADOS_API_HOST_INSECURE": "1",
        }  # fmt: skip
        self._configure_ssh()

    def _configure_ssh(self) -> None:
        settings = self.directory / "settings.conf"
        settings.write_text(f"ARVADOS_API_HOST={self.controller.address}\nARVADOS_API_TOKEN=secret\n")
        client = Path(sys.executable).with_name("arvados-client")
        command = [str(client), "ssh-config", "--settings", str(settings), "--output-dir", str(self.directory),
                   "--no-control-master"]  # fmt: skip
        subprocess.run(command, check=True, timeout=DEADLINE, env=self._environment)

    @property
    def _environment(self) -> dict[str, str]:
        return {"SSL_CERT_FILE": str(self._ca), "HOME": str(self.directory), "PATH": os.environ["PATH"]}

    def reports(self) -> Path:
        """Return an empty directory that all may write to."""
        directory = self.directory / "log" / f"reports-{next(_numbers)}"
        directory.mkdir()
        directory.chmod(0o777)
        return directory

    def ssh_command(self, uuid: str, *command: str) -> list[str]:
        return ["ssh", "-F", str(self.directory / "ssh_config"), uuid, *command]

    def ssh(self, uuid: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a container through stock ssh."""
        return subprocess.run(
            self.ssh_command(uuid, *command), capture_output=True, text=True, timeout=DEADLINE,
            stdin=subprocess.DEVNULL, env=self._environment,
        )  # fmt: skip

    @contextmanager
    def attempt(self, *command: str) -> Iterator[Attempt]:
        """Give a Locked container that runs ``command``; what is left of it is ended."""
        uuid = f"zzzzz-dz642-stock{os.getpid() % 10**7:07}{next(_numbers):03}"
        self.api.add_container(
            uuid, "", {ACTIVE}, state="Locked", command=list(command or SLEEP), container_image="arv-ssh/busybox:test"
        )
        self.api.add_request(uuid.replace("dz642", "xvhdp"), uuid, ACTIVE)
        result = Attempt(self, uuid)
        try:
            yield result
        finally:
            docker("rm", "--force", uuid)
            for pid in result.processes(""):
                host_processes.kill([pid], 9)
            Path(f"/var/lock/crunch-run-{uuid}.lock").unlink(missing_ok=True)


def _everybodys_python(directory: Path) -> Path:
    """Return a Python with the packages of this one, for every user of this machine where that is possible."""
    pythons = (Path(sys.executable).resolve(), Path("/usr/bin/python3"))
    found = next((python for python in pythons if _may(python)), None)
    if found is None or not _may(ROOT):
        return Path(sys.executable)
    home = directory / "python"
    made = subprocess.run([found, "-m", "venv", "--without-pip", home], capture_output=True, timeout=DEADLINE)
    places = list(home.glob(f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"))
    if made.returncode or not places:
        return Path(sys.executable)
    (places[0] / "ours.pth").write_text(f"{sysconfig.get_path('purelib')}\n{ROOT}\n")
    return home / "bin" / "python"


def _server_pair(cluster: EmbeddedCluster) -> tuple[Path, Path]:
    return cluster.directory.server_certificate, cluster.directory.server_key


def _may(path: Path) -> bool:
    """Say whether every user may read ``path``."""
    return path.exists() and all(one.stat().st_mode & 0o005 == 0o005 for one in (path, *path.parents))


def _program(python: Path, path: Path, module: str) -> Path:
    path.write_text(
        f"#!{python}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        f"from {module} import main\nsys.exit(main())\n"
    )
    path.chmod(0o755)
    return path


@contextmanager
def beside_site(cluster: EmbeddedCluster) -> Iterator[BesideSite]:
    """Run the site with the certificates and the root token of ``cluster`` until the end of the block."""
    with tempfile.TemporaryDirectory(prefix="arv-ssh-beside-") as name:
        Path(name).chmod(0o755)  # not below pytest's directories, which no other user may enter
        Path(name, "log").mkdir()
        Path(name, "log").chmod(0o777)
        with _beside_site(cluster, Path(name)) as site:
            yield site


@contextmanager
def _beside_site(cluster: EmbeddedCluster, directory: Path) -> Iterator[BesideSite]:
    root_token = cluster_config.load(cluster.directory.config).system_root_token
    controllers = directory / "controller"
    controllers.mkdir(mode=0o700)
    config = write_config(cluster, controllers, {"Mode": "default-on", "Admin": True, "User": True}, PassThrough=True)
    with (
        stock_api(*_server_pair(cluster)) as api,
        started(cluster, controllers, ["--config", str(config), "--api", api.url]) as controller,
    ):
        api.add_user(ACTIVE, "secret")
        api.add_user("zzzzz-tpzed-000000000000000", root_token, is_admin=True)
        yield BesideSite(cluster, directory, api, controller)
