"""Slurm's accounting for tests: slurmdbd over a MariaDB, both of Debian's packages, ended with their block.

They listen at 127.0.0.1 only, and have their files in one directory.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.integration.slurm_cluster import SlurmCluster
from tests.timing import DEADLINE, wait_for

_DATABASE = """\
CREATE DATABASE slurm;
CREATE USER 'slurm'@'127.0.0.1' IDENTIFIED BY '{password}';
GRANT ALL ON slurm.* TO 'slurm'@'127.0.0.1';
"""
_SLURMDBD = """\
AuthType=auth/munge
AuthInfo=socket={munge}
DbdHost=localhost
DbdPort={port}
SlurmUser=root
PidFile={directory}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database}
StorageUser=slurm
StoragePass={password}
StorageLoc=slurm
"""
_SITE = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort={port}
AccountingStoragePass={munge}
"""


@contextmanager
def slurmdbd(slurm: SlurmCluster, directory: Path) -> Iterator[str]:
    """Run slurmdbd until the end of the block; give the lines of slurm.conf that use it."""
    database, port = _free_port(), _free_port()
    password = secrets.token_hex(8)
    with _mariadb(directory, database, password):
        conf = slurm.slurm.root / "slurmdbd.conf"
        munge = slurm.slurm.root / "munge" / "socket"
        conf.write_text(_SLURMDBD.format(
            munge=munge, port=port, directory=directory, database=database, password=password
        ))  # fmt: skip
        conf.chmod(0o600)
        with _daemon(["slurmdbd", "-D"], directory / "slurmdbd.log", slurm.slurm.environment):
            wait_for(lambda: _answers(port), "slurmdbd to listen")
            yield _SITE.format(port=port, munge=munge)


@contextmanager
def _mariadb(directory: Path, port: int, password: str) -> Iterator[None]:
    data, first = directory / "data", directory / "first.sql"
    first.write_text(_DATABASE.format(password=password))
    made = subprocess.run(
        ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--user=root", "--skip-test-db"],
        capture_output=True, text=True, timeout=DEADLINE, cwd="/",
    )  # fmt: skip
    assert made.returncode == 0, made.stdout + made.stderr
    options = [f"--datadir={data}", "--user=root", f"--socket={directory}/socket", f"--pid-file={directory}/pid",
               "--bind-address=127.0.0.1", f"--port={port}", "--skip-name-resolve", f"--init-file={first}",
               "--innodb-flush-log-at-trx-commit=0"]  # fmt: skip
    with _daemon(["mariadbd", "--no-defaults", *options], directory / "mariadb.log", {}):
        wait_for(lambda: _answers(port), "MariaDB to listen")
        yield


@contextmanager
def _daemon(command: Sequence[str], path: Path, environment: dict[str, str]) -> Iterator[None]:
    environ = os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin"} | environment
    with path.open("wb") as log, subprocess.Popen(command, env=environ, stdout=log, stderr=log, cwd="/") as process:
        try:
            yield
        finally:
            process.terminate()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
