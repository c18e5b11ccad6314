"""Fixtures for the tests of the embedded API: each runs on SQLite and on PostgreSQL."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from arv_ssh.embedded.store import Store
from tests.postgresql import PostgresqlServer, postgresql_server
from tests.unit.arv_ssh.embedded.cluster import Cluster, sqlite_url


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlServer]:
    """Give a running PostgreSQL server."""
    with postgresql_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Give the URL of a database with nothing in it, for the tests of how it gets its schema."""
    with fresh_database(request, tmp_path) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the URL of a database with the newest schema and no record. To make one for each test takes too long."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_with_schema"), tmp_path / "db.sqlite")
        return sqlite_url(tmp_path)
    server: PostgresqlServer = request.getfixturevalue("postgresql")
    name: str = request.getfixturevalue("postgresql_with_schema")
    server.execute(EMPTY, name)
    return server.url(name)


EMPTY = """
DO $$ BEGIN
    PERFORM pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid();
    EXECUTE (SELECT 'TRUNCATE ' || string_agg(quote_ident(tablename), ', ') FROM pg_tables
        WHERE schemaname = 'public' AND tablename <> 'alembic_version');
END $$
"""
"""Ends what a failed test left connected, and takes all records out."""


@pytest.fixture(scope="session")
def sqlite_with_schema(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a database file to copy."""
    directory = tmp_path_factory.mktemp("schema")
    Store(sqlite_url(directory)).close()
    return directory / "db.sqlite"


@pytest.fixture(scope="session")
def postgresql_with_schema(postgresql: PostgresqlServer) -> Iterator[str]:
    """Give the name of a database that tests use one after the other."""
    with postgresql.database() as name:
        Store(postgresql.url(name)).close()
        yield name


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
