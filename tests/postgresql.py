"""A PostgreSQL server of the machine's own package, for tests: started, stopped and ended by its pid.

It listens on a unix socket in its own directory only, so that no port can be taken, and it sorts text as English
dictionaries do: what the product promises about order must not rest on the server's locale.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.timing import DEADLINE, wait_for

PASSWORD = "not-to-be-seen"
_numbers = count()


class PostgresqlServer:
    """A server in ``directory``; :meth:`start` it first."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._data = directory / "data"
        self._log = directory / "log"
        # The server refuses to run as root.
        self._user: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []}
        if os.geteuid() != 0:
            self._user = {}
        self._process: subprocess.Popen[bytes] | None = None

    def initialize(self) -> None:
        """Make the data directory."""
        password = self.directory / "password"
        password.write_text(PASSWORD)
        if self._user:
            for path in (self.directory, password):
                os.chown(path, *pwd.getpwnam("postgres")[2:4])
        options = ["--username", "arvados", "--pwfile", str(password), "--auth", "md5", "--encoding", "UTF8"]
        locale = ["--locale", "C.UTF-8", "--locale-provider", "icu", "--icu-locale", "en-US", "--no-sync"]
        done = subprocess.run(
            [_program("initdb"), "--pgdata", str(self._data), *options, *locale],
            capture_output=True, text=True, timeout=DEADLINE, cwd="/", **self._user,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        """Start the server and wait until it answers."""
        command = [_program("postgres"), "-D", str(self._data), "-k", str(self.directory), "-c", "listen_addresses="]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "-c", "fsync=off", "-c", "full_page_writes=off", "-c", "autovacuum=off"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", **self._user,
            )  # fmt: skip
        wait_for(self._answers, "PostgreSQL to answer")

    def stop(self) -> None:
        """Stop the server, cutting off whoever is connected."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            assert self._process.wait(DEADLINE) == 0, self._log.read_text()
            self._process = None

    def url(self, database: str) -> str:
        """Return the URL of a database, as it stands in a cluster's config."""
        return f"postgresql://arvados:{PASSWORD}@/{database}?host={self.directory}"

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Execute one statement as the superuser; return the rows."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def database(self, template: str = "template0") -> Iterator[str]:
        """Give the name of a fresh database, which is dropped at the end of the block."""
        name = f"arv_ssh_{next(_numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield name
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def _answers(self) -> bool:
        assert self._process is not None and self._process.poll() is None, self._log.read_text()
        try:
            return self.execute("SELECT 1") == [(1,)]
        except psycopg.OperationalError:
            return False


@contextmanager
def postgresql_server() -> Iterator[PostgresqlServer]:
    """Run a server until the end of the block."""
    if not _programs() and os.geteuid() != 0:
        pytest.skip("PostgreSQL is not installed (in Debian: apt-get install postgresql)")
    # Not in pytest's directories: nobody but root can reach into those.
    directory = Path(tempfile.mkdtemp(prefix="arv-ssh-postgresql-"))
    server = PostgresqlServer(directory)
    try:
        server.initialize()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory)


def _programs() -> list[Path]:
    return sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))


def _program(name: str) -> str:
    assert _programs(), "PostgreSQL is not installed (in Debian: apt-get install postgresql)"
    return str(_programs()[-1] / name)
