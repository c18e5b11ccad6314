"""Fixtures for the tests of the embedded API: each runs on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.postgresql import PostgresqlServer, postgresql_server
from tests.unit.arv_ssh.embedded.cluster import Cluster, sqlite_url


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlServer]:
    """Give a running PostgreSQL server."""
    with postgresql_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Give the URL of an empty database."""
    with fresh_database(request, tmp_path) as url:
        yield url


@contextmanager
def fresh_database(request: pytest.FixtureRequest, directory: Path) -> Iterator[str]:
    """Give the URL of an empty database of the kind that ``request`` is parametrised with."""
    if request.param == "sqlite":
        yield sqlite_url(directory)
        return
    server: PostgresqlServer = request.getfixturevalue("postgresql")
    with server.database() as name:
        yield server.url(name)


@pytest.fixture
def cluster(database: str) -> Iterator[Cluster]:
    """Give an embedded API with three users."""
    cluster = Cluster(database)
    yield cluster
    cluster.api.close()
