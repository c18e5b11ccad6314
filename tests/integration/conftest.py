"""One cluster for the session, a container of each image in it, and stock ssh."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.embedded_cluster import EmbeddedCluster
from tests.integration.slurm_cluster import SlurmCluster, slurm_cluster
from tests.integration.terminal import TerminalSession
from tests.timing import DEADLINE

FOREVER = ("sleep", "1000000")


class Ssh:
    """Stock ssh with a cluster's own ssh_config, and nothing else."""

    def __init__(self, cluster: EmbeddedCluster) -> None:
        self._config = str(cluster.directory.ssh_config)

    def command(self, *arguments: str) -> list[str]:
        """Return the command line; arguments are options, a destination, and what to run there."""
        return ["ssh", "-F", self._config, *arguments]

    def __call__(
        self, *arguments: str, input: bytes = b"", timeout: float = DEADLINE
    ) -> subprocess.CompletedProcess[bytes]:
        """Run ssh to its end with ``input`` on its stdin."""
        return subprocess.run(self.command(*arguments), input=input, capture_output=True, timeout=timeout)

    @contextmanager
    def start(self, *arguments: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
        """Start ssh with pipes; it is killed at the end of the block if it still runs."""
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(self.command(*arguments), **(pipes | options)) as process:
            try:
                yield process
            finally:
                process.kill()

    def on_terminal(self, *arguments: str, size: tuple[int, int] = (24, 80)) -> TerminalSession:
        """Start ssh on a terminal of ``size`` (rows, columns)."""
        return TerminalSession(self.command(*arguments), size)


PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER = 36, 37


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedCluster]:
    """The session's cluster. A test that stops or breaks one makes its own."""
    result = EmbeddedCluster(tmp_path_factory.mktemp("session") / "cluster")
    result.up()
    yield result
    result.down()


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """The session's cluster over a real Slurm. A test that breaks a part of it mends it."""
    with slurm_cluster(tmp_path_factory.mktemp("slurm") / "cluster") as result:
        yield result


@pytest.fixture
def orphans_go_to_init() -> Iterator[None]:
    """Let this machine's init have all orphans: a gateway that another test ran in this process had them come here.

    Here nobody reaps them, and an orphan that is a zombie keeps its container from ending.
    """
    libc, before = ctypes.CDLL(None), ctypes.c_int()
    libc.prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    yield
    libc.prctl(PR_SET_CHILD_SUBREAPER, before.value, 0, 0, 0)


@pytest.fixture(scope="session")
def ssh(cluster: EmbeddedCluster) -> Ssh:
    """Run stock ssh: ``ssh(uuid, "echo hello")``."""
    return Ssh(cluster)


@pytest.fixture(scope="session")
def busybox(cluster: EmbeddedCluster) -> str:
    """The UUID of a container with a shell, and no bash."""
    return cluster.run(*FOREVER, image="arv-ssh/busybox:test")


@pytest.fixture(scope="session")
def debian(cluster: EmbeddedCluster) -> str:
    """The UUID of a container of Debian's minbase."""
    return cluster.run(*FOREVER, image="arv-ssh/debian:test")


@pytest.fixture(scope="session")
def scratch(cluster: EmbeddedCluster) -> str:
    """The UUID of a container with one program, /bin/busybox, and no shell."""
    return cluster.run("busybox", *FOREVER, image="arv-ssh/scratch:test")


@pytest.fixture(params=["busybox", "debian"])
def container(request: pytest.FixtureRequest) -> str:
    """The UUID of a container with a shell: the test runs in each of them."""
    return str(request.getfixturevalue(request.param))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return an empty home directory."""
    directory = tmp_path / "home"
    directory.mkdir()
    return directory
