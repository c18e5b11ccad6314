"""The embedded API's database: its transactions, and the errors that its failures become for a caller.

Owns durability (an acknowledged write survives ``kill -9``) and the rule of one writer at a time, so that a check and
the change that rests on it are one step. Knows no table: those are in :mod:`arv_ssh.embedded.models`. Only
:mod:`arv_ssh.embedded.sqlite` and :mod:`arv_ssh.embedded.postgresql` know anything specific to one database.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from arv_ssh.embedded import migrations, notices, postgresql, sqlite
from arv_ssh.embedded.notices import Heard, PostgresqlNotices, SocketNotices
from arv_ssh.errors import ConfigError, Unavailable, Unprocessable
from arv_ssh.log import event as log_event

logger = logging.getLogger(__name__)

WRITER_TIMEOUT = 30.0
"""Seconds to wait for other writers; a write takes milliseconds, so this long means that the disk hangs."""
BUSY = "the cluster's database is busy; try again"
_ENGINES = {"sqlite": sqlite.engines, "postgresql": postgresql.engines, "postgres": postgresql.engines}
_NOTICES: dict[str, Callable[[URL, Engine], notices.Notices]] = {
    "sqlite": SocketNotices, "postgresql": PostgresqlNotices, "postgres": PostgresqlNotices
}


class Store:
    """A database with the newest schema, made or brought up to it now. Thread-safe.

    Must not be carried through a fork: two processes would speak on one connection. Workers open their own after
    forking.
    """

    def __init__(self, url: str) -> None:
        parsed = _parse(url)
        self._readers, self._writer = _ENGINES[parsed.get_backend_name()](parsed, WRITER_TIMEOUT)
        self._notices = _NOTICES[parsed.get_backend_name()](parsed, self._readers)
        self._writing = threading.Lock()
        try:
            self._migrate(parsed)
        except BaseException:
            self.close()
            raise

    def _migrate(self, url: URL) -> None:
        where = _shown(url)
        try:
            with self._writer.begin() as connection:
                migrations.migrate(connection)
        except OperationalError as error:
            if url.get_backend_name() == "sqlite":
                raise ConfigError(f"cannot use the database {where}: {_cause(error)}") from error
            raise Unavailable(f"cannot use the database {where} now: {_cause(error)}") from error
        except SQLAlchemyError as error:
            raise ConfigError(f"cannot use the database {where}: {_cause(error)}") from error
        except ConfigError as error:
            raise ConfigError(f"cannot use the database {where}: {error}") from error

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Give a session that sees one snapshot; its changes are not kept."""
        with _database_errors(), Session(self._readers, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Give a session that is the only writer; leaving it commits to the disk, an exception undoes it all."""
        # The database would make the threads of one process poll for its lock; a lock of their own wakes them in turn.
        if not self._writing.acquire(timeout=WRITER_TIMEOUT):
            raise Unavailable(BUSY)
        try:
            with _database_errors(), Session(self._writer, expire_on_commit=False) as session, session.begin():
                session.connection()  # begin now, not at the first statement
                yield session
                session.flush()
                if noticed := notices.CHANGED in session.info:
                    self._notices.before_commit(session)
        finally:
            self._writing.release()
        if noticed:
            self._notices.after_commit()

    def listen(self, heard: Heard) -> None:
        """Call ``heard``, on a thread, whenever any process has committed something that a dispatcher has to act on."""
        self._notices.listen(heard)

    def close(self) -> None:
        """Close all connections, and stop listening."""
        self._notices.close()
        self._readers.dispose()


@contextmanager
def _database_errors() -> Iterator[None]:
    try:
        yield
    except IntegrityError as error:
        raise Unprocessable(f"the record conflicts with another one: {_cause(error)}") from error
    except SQLAlchemyError as error:
        log_event(logger, "database error", level=logging.ERROR, error=_cause(error))
        if getattr(getattr(error, "orig", None), "sqlstate", None) == postgresql.LOCK_NOT_AVAILABLE:
            raise Unavailable(BUSY) from error
        raise Unavailable("the cluster's database cannot be used right now; its controller's log says why") from error


def _cause(error: SQLAlchemyError) -> str:
    # The error's own text would quote the statement's values, as PostgreSQL does in the lines after the first.
    return (str(getattr(error, "orig", None) or "").splitlines() or [type(error).__name__])[0]


def _parse(text: str) -> URL:
    try:
        url = make_url(text)
        known = url.get_backend_name() in _ENGINES
    except (ArgumentError, ValueError):
        known = False
    if not known:
        # From None: an unparsable URL may have a password in it.
        raise ConfigError(
            "EmbeddedAPI.Database must be a URL such as sqlite:////var/lib/arv-ssh/db.sqlite or "
            "postgresql://USER:PASSWORD@HOST/DATABASE"
        ) from None
    return url


def _shown(url: URL) -> str:
    """Return the URL without anything secret: libpq takes a password among the options too."""
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    host = url.host or url.query.get("host") or "localhost"
    return f"{url.database} of PostgreSQL at {host if isinstance(host, str) else ', '.join(host)}"
