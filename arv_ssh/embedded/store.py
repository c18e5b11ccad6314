"""The embedded API's database: the engine, its transactions, and everything that is SQLite's own way.

Owns durability (an acknowledged write survives ``kill -9``) and the rule of one writer at a time, so that a check and
the change that rests on it are one step. Knows no table: those are in :mod:`arv_ssh.embedded.models`. Another
database is another branch here and nowhere else.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, MetaData, create_engine, event
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from arv_ssh.errors import ConfigError, Unavailable, Unprocessable
from arv_ssh.log import event as log_event

logger = logging.getLogger(__name__)

WRITER_TIMEOUT = 30.0
"""Seconds to wait for other writers; a write takes milliseconds, so this long means that the disk hangs."""
CONNECTIONS = 48
"""Connections at most: the controller's threads for the embedded API and for the shell endpoint, with room to spare."""
WRITER = "arv_ssh_writer"


class Store:
    """A database file with the tables of ``metadata``, created when they are not there yet. Thread-safe."""

    def __init__(self, url: str, metadata: MetaData) -> None:
        self._engine = _sqlite_engine(_sqlite_url(url))
        self._writer = self._engine.execution_options(**{WRITER: True})
        self._writing = threading.Lock()
        try:
            with self._writer.begin() as connection:
                metadata.create_all(connection)
        except SQLAlchemyError as error:
            raise ConfigError(f"cannot use the database {url}: {_cause(error)}") from error

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Give a session that sees one snapshot; what it changes is not kept."""
        with _database_errors(), Session(self._engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Give a session that is the only writer; leaving it commits to the disk, an exception undoes it all."""
        # The database would make the threads of one process poll for its lock; a lock of their own wakes them in turn.
        if not self._writing.acquire(timeout=WRITER_TIMEOUT):
            raise Unavailable("the cluster's database is busy; try again")
        try:
            with _database_errors(), Session(self._writer, expire_on_commit=False) as session, session.begin():
                session.connection()  # begin now, not at the first statement
                yield session
        finally:
            self._writing.release()

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


@contextmanager
def _database_errors() -> Iterator[None]:
    try:
        yield
    except IntegrityError as error:
        raise Unprocessable(f"the record conflicts with another one: {_cause(error)}") from error
    except SQLAlchemyError as error:
        log_event(logger, "database error", level=logging.ERROR, error=_cause(error))
        raise Unavailable("the cluster's database cannot be used right now; its controller's log says why") from error


def _cause(error: SQLAlchemyError) -> str:
    # The error's own text would quote the statement's values.
    return str(getattr(error, "orig", None) or type(error).__name__)


def _sqlite_url(text: str) -> URL:
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise ConfigError("EmbeddedAPI.Database must be a URL such as sqlite:////var/lib/arv-ssh/db.sqlite") from error
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        raise ConfigError("EmbeddedAPI.Database must be a file: sqlite:////var/lib/arv-ssh/db.sqlite")
    return url


def _sqlite_engine(url: URL) -> Engine:
    path = Path(str(url.database))
    try:
        # SQLite gives its -wal and -shm files the mode of the database.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise ConfigError(f"cannot use the database {path}: {error.strerror}") from error
    engine = create_engine(url, pool_size=CONNECTIONS, max_overflow=0, pool_timeout=WRITER_TIMEOUT)
    event.listen(engine, "connect", _sqlite_connect)
    event.listen(engine, "begin", _sqlite_begin)
    return engine


def _sqlite_connect(connection: Any, record: object) -> None:
    connection.isolation_level = None  # BEGIN is ours (_sqlite_begin), not the driver's guess
    for pragma in (
        f"busy_timeout = {int(WRITER_TIMEOUT * 1000)}",
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
        "case_sensitive_like = ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _sqlite_begin(connection: Connection) -> None:
    # IMMEDIATE: a transaction that reads first and writes later could otherwise find its snapshot outdated.
    writer = connection.get_execution_options().get(WRITER)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writer else "BEGIN")
