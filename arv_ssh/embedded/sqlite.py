"""The embedded API's database as an SQLite file: everything specific to SQLite.

Owns the pragmas that make an acknowledged write durable, and how a transaction begins. Knows no table and no session:
those are :mod:`arv_ssh.embedded.models`'s and :mod:`arv_ssh.embedded.store`'s.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.engine import URL, Engine

from arv_ssh.errors import ConfigError

CONNECTIONS = 48
"""Connections at most: the controller's threads for the embedded API and for the shell endpoint, with room to spare."""
WRITER = "arv_ssh_writer"


def engines(url: URL, patience: float) -> tuple[Engine, Engine]:
    """Return the engines of readers and of the writer; ``patience`` is seconds to wait for what others hold."""
    if not url.database or url.database == ":memory:":
        raise ConfigError("EmbeddedAPI.Database must be a file: sqlite:////var/lib/arv-ssh/db.sqlite")
    path = Path(url.database)
    try:
        # SQLite gives its -wal and -shm files the mode of the database.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise ConfigError(f"cannot use the database {path}: {error.strerror}") from error
    engine = create_engine(url, pool_size=CONNECTIONS, max_overflow=0, pool_timeout=patience)

    def connect(connection: Any, record: object) -> None:
        _connect(connection, patience)

    event.listen(engine, "connect", connect)
    event.listen(engine, "begin", _begin)
    return engine, engine.execution_options(**{WRITER: True})


def _connect(connection: Any, patience: float) -> None:
    connection.isolation_level = None  # BEGIN is ours (_begin), not the driver's guess
    for pragma in (
        f"busy_timeout = {int(patience * 1000)}",
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
        "case_sensitive_like = ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    # IMMEDIATE: a transaction that reads first and writes later could otherwise find its snapshot outdated.
    writer = connection.get_execution_options().get(WRITER)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writer else "BEGIN")
