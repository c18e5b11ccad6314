"""The engines that containers of the suite are started with: Docker as it is here, and a Podman of the suite's own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crunch_sshd.runtimes.docker_engine import DockerClient, connect
from tests.timing import DEADLINE, wait_for

IMAGE = "arv-ssh/busybox:test"
FOREVER = ("sleep", "1000000")


class Engine:
    """An engine: its command line, and its API, at ``url`` where that is not the usual one."""

    def __init__(self, command: list[str], client: DockerClient, url: str = "") -> None:
        self.command = command
        self.client = client
        self.url = url

    def run(self, *options: str) -> str:
        """Start a container that does nothing; return its full id."""
        return self("run", "--detach", "--network", "none", *options, IMAGE, *FOREVER).strip()

    def exec(self, *arguments: str) -> str:
        """Return what the engine's own exec prints: what every runtime is compared with."""
        return self("exec", *arguments)

    def inspect(self, container: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self("inspect", container))[0]
        return found

    def pid(self, container: str) -> int:
        """Return the pid of the container's program on this host."""
        return int(self.inspect(container)["State"]["Pid"])

    def remove(self, container: str) -> None:
        # Podman would give it ten seconds to end by itself; the engine of Docker gives none.
        patience = ["--time", "0"] if "podman" in self.command else []
        self("rm", "--force", "--volumes", *patience, container)

    def __call__(self, *arguments: str) -> str:
        done = subprocess.run([*self.command, *arguments], capture_output=True, text=True, timeout=DEADLINE)
        assert done.returncode == 0, f"{self.command[0]} {' '.join(arguments)}: {done.stderr}"
        return done.stdout


def docker() -> Engine:
    return Engine(["docker"], connect())


def missing(oci_runtime: str) -> str | None:
    """Say why there can be no Podman with ``oci_runtime`` here, if so."""
    if os.getuid() != 0:
        return "Podman's containers are entered by root only"
    absent = [program for program in ("podman", oci_runtime) if shutil.which(program) is None]
    if absent:
        return f"not installed: {', '.join(absent)}"
    if oci_runtime == "crun" and Path("/sys/fs/cgroup/unified/cgroup.procs").exists():
        return "crun refuses machines with both versions of control groups mounted"
    return None


@contextmanager
def podman(oci_runtime: str) -> Iterator[Engine]:
    """Serve Podman's Docker-compatible API with storage of its own, and the image in it."""
    # Not below pytest's directories: mounts that a killed run leaves would break every later run's tidying there.
    directory = Path(tempfile.mkdtemp(prefix="arv-ssh-podman-"))
    try:
        with _podman(directory, oci_runtime) as engine:
            yield engine
    finally:
        for mounted in sorted((directory / "root").glob("overlay*"), reverse=True):
            while mounted.is_mount():
                subprocess.run(["umount", "--lazy", str(mounted)], check=True)
        shutil.rmtree(directory)


@contextmanager
def _podman(directory: Path, oci_runtime: str) -> Iterator[Engine]:
    config = directory / "containers.conf"
    config.write_text(
        f'[engine]\nruntime = "{oci_runtime}"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
        # Podman's own limits are above what a process in a container may set here.
        '[containers]\ndefault_ulimits = ["nofile=1024:4096", "nproc=4096:8192"]\n'
    )
    command = ["podman", "--root", str(directory / "root"), "--runroot", str(directory / "run")]
    socket = directory / "podman.sock"
    url = f"unix://{socket}"
    environment = os.environ | {"CONTAINERS_CONF": str(config)}
    with (
        open(directory / "service.log", "wb") as log,
        subprocess.Popen(
            [*command, "system", "service", "--time", "0", url],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
        ) as service,
    ):  # fmt: skip
        try:
            wait_for(lambda: service.poll() is not None or socket.exists(), "Podman's socket")
            assert service.poll() is None, (directory / "service.log").read_text()
            engine = Engine(["env", f"CONTAINERS_CONF={config}", *command], connect(url), url)
            _copy_image(engine)
            yield engine
            engine.client.close()
            engine("rm", "--force", "--time", "0", "--all")
            engine("rmi", "--force", "--all")
        finally:
            service.terminate()
            service.wait(DEADLINE)


def _copy_image(engine: Engine) -> None:
    """Have Docker's test image in ``engine`` too: there is no registry."""
    source = docker()
    container = source("create", IMAGE, "true").strip()
    config = source.inspect(container)["Config"]
    try:
        with subprocess.Popen(["docker", "export", container], stdout=subprocess.PIPE) as export:
            changes = [f"--change=ENV {word}" for word in config["Env"]]
            subprocess.run(
                [*engine.command, "import", *changes, "-", f"docker.io/{IMAGE}"],
                stdin=export.stdout, capture_output=True, check=True, timeout=DEADLINE,
            )  # fmt: skip
    finally:
        source.remove(container)
        source.client.close()
