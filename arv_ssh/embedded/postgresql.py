"""The embedded API's database in PostgreSQL, shared by any number of controllers: everything specific to PostgreSQL.

Owns the driver (psycopg 3, an extra of this package), the rule of one writer at a time across all processes, and the
time-outs for a server that has gone or a controller that hangs. Knows no table and no session: those are
:mod:`arv_ssh.embedded.models`'s and :mod:`arv_ssh.embedded.store`'s.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.engine import URL, Engine

from arv_ssh.errors import ConfigError

CONNECTIONS = 8
"""At most this many connections for one process: a call takes milliseconds, and ten processes stay below the server's
default limit of 100 in all."""
CONNECT_TIMEOUT = 5
"""Seconds to reach the server: it is near, and a user is waiting."""
DEAD_SERVER = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 15_000}
"""A server whose machine is gone is given up after 15 s of unanswered data (ms), or 25 s of silence."""
STALLED = 30
"""Seconds after which the server ends a transaction whose controller is idle, so that a controller that was stopped in
it, or whose machine is gone, does not keep the writer's lock from the others."""
WRITER_LOCK = 0x6172765F737368
"""The key of the advisory lock that the writer holds: the bytes of ``arv_ssh``."""
LOCK_NOT_AVAILABLE = "55P03"
"""SQLSTATE of a wait for a lock that took longer than ``lock_timeout``."""


def engines(url: URL, patience: float) -> tuple[Engine, Engine]:
    """Return the engines of readers and of the writer; ``patience`` is seconds to wait for what others hold."""
    if not url.database:
        raise ConfigError("EmbeddedAPI.Database names no database; write postgresql://USER:PASSWORD@HOST/DATABASE")
    defaults = {"connect_timeout": CONNECT_TIMEOUT, "application_name": "arv-ssh", **DEAD_SERVER}
    try:
        engine = create_engine(
            url.set(drivername="postgresql+psycopg"),
            connect_args={name: value for name, value in defaults.items() if name not in url.query},
            pool_size=CONNECTIONS, max_overflow=0, pool_timeout=patience,
            pool_pre_ping=True,  # after a restart of the server the old connections are replaced, not used
        )  # fmt: skip
    except ImportError as error:
        raise ConfigError(
            "EmbeddedAPI.Database is in PostgreSQL, for which psycopg is missing; pip install 'arv-ssh[postgresql]'"
        ) from error

    def connect(connection: Any, record: object) -> None:
        _connect(connection, patience)

    event.listen(engine, "connect", connect)
    # A reader sees one snapshot. Each of the writer's statements sees the committed data, which only the writer
    # changes: its snapshot would otherwise predate the wait for the lock.
    readers = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    writer = engine.execution_options(isolation_level="READ COMMITTED", postgresql_readonly=False)
    event.listen(writer, "begin", _lock)
    return readers, writer


def _connect(connection: Any, patience: float) -> None:
    with connection.cursor() as cursor:
        for name, value in (
            ("timezone", "UTC"),
            ("lock_timeout", f"{int(patience * 1000)}ms"),
            ("idle_in_transaction_session_timeout", f"{STALLED}s"),
        ):
            cursor.execute("SELECT set_config(%s, %s, false)", (name, value))
        # An acknowledged write survives, even where the server's default is weaker; stronger settings are left alone.
        cursor.execute(
            "SELECT set_config('synchronous_commit', 'on', false) "
            "WHERE current_setting('synchronous_commit') IN ('off', 'local')"
        )
    connection.commit()


def _lock(connection: Connection) -> None:
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITER_LOCK})")
