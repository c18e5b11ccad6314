"""Notices between the controller processes of one database: a dispatcher has something to look at.

Owns which changes are worth a notice, how it is passed on through each kind of database, and the thread that hears it.
A notice says nothing but "look": it may come twice, and one that comes too often only costs a look.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import event, inspect
from sqlalchemy.engine import URL, Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, object_session

from arv_ssh.embedded.models import CANCELLED, QUEUED, Container
from arv_ssh.log import event as log_event

logger = logging.getLogger(__name__)

Heard = Callable[[], None]

CHANGED = "arv_ssh containers changed"
"""The key in the ``info`` of a session with a change that is worth a notice."""
CHANNEL = "arv_ssh_containers"
RECONNECT_PAUSE = 2.0
"""Seconds until a listener connects to PostgreSQL again; what it missed makes itself known by a poll."""
WAIT = 60.0
"""Seconds after which a listener of PostgreSQL looks whether its connection still works."""
_LONGEST = 16
"""Bytes of a notice: one would do."""


def _note(_mapper: Any, connection: Any, container: Container) -> None:
    """Mark the session of a container that is new, or whose change a dispatcher has to act on."""
    state, priority = inspect(container).attrs.state, inspect(container).attrs.priority
    if priority.history.added or (state.history.added and container.state in (QUEUED, CANCELLED)):
        session = object_session(container)
        if session is not None:
            session.info[CHANGED] = True


event.listen(Container, "after_insert", _note)
event.listen(Container, "after_update", _note)


class Notices(Protocol):
    """The way of notices through one kind of database."""

    def before_commit(self, session: Session) -> None: ...

    def after_commit(self) -> None: ...

    def listen(self, heard: Heard) -> None: ...

    def close(self) -> None: ...


class SocketNotices:
    """Through datagram sockets in a directory beside an SQLite file: all its processes are on one machine."""

    def __init__(self, url: URL, _readers: Engine) -> None:
        self._directory = Path(f"{url.database}-listeners")
        self._listeners: list[tuple[socket.socket, Path]] = []

    def before_commit(self, session: Session) -> None:
        """Do nothing: an SQLite transaction has nobody to tell."""

    def after_commit(self) -> None:
        """Tell every living listener. What cannot be told is found by a poll: the change itself is committed."""
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            with _short(self._directory) as short:
                for name in os.listdir(short):
                    _tell(sender, f"{short}/{name}")

    def listen(self, heard: Heard) -> None:
        """Call ``heard``, on a thread, for each notice."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        name = f"{os.getpid()}-{secrets.token_hex(4)}"
        with _short(self._directory) as short:
            listener.bind(f"{short}/{name}")
        self._listeners.append((listener, self._directory / name))

        def run() -> None:
            with listener:
                while listener.recv(_LONGEST):
                    heard()

        threading.Thread(target=run, name="notices", daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        for listener, path in self._listeners:
            path.unlink(missing_ok=True)
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)


def _tell(sender: socket.socket, path: str) -> None:
    try:
        sender.sendto(b"!", path)
    except ConnectionRefusedError:  # its process is gone
        with suppress(FileNotFoundError):
            os.unlink(path)
    except (BlockingIOError, FileNotFoundError):
        pass  # it has unread notices, and needs no other; or it has just stopped listening


@contextmanager
def _short(directory: Path) -> Iterator[str]:
    """Give a short path of ``directory``: its own may be too long for a socket (unix(7))."""
    descriptor = os.open(directory, os.O_DIRECTORY | os.O_PATH | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


class PostgresqlNotices:
    """Through NOTIFY, which PostgreSQL delivers to every listening process once the transaction is committed."""

    def __init__(self, _url: URL, readers: Engine) -> None:
        self._engine = readers.execution_options(isolation_level="AUTOCOMMIT", postgresql_readonly=False)
        self._closed = threading.Event()

    def before_commit(self, session: Session) -> None:
        """Have the transaction's commit tell the listeners."""
        session.connection().exec_driver_sql(f"NOTIFY {CHANNEL}")

    def after_commit(self) -> None:
        """Do nothing: the server has told them."""

    def listen(self, heard: Heard) -> None:
        """Call ``heard``, on a thread, for each notice, and whenever some may have been missed."""

        def run() -> None:
            while not self._closed.is_set():
                try:
                    self._hear(heard)
                except Exception as error:  # whatever it is: without this thread dispatchers are told nothing
                    cause = type(getattr(error, "orig", None) or error).__name__
                    log_event(logger, "lost the connection for notices; connecting again", level=logging.WARNING,
                              error=cause)  # fmt: skip
                self._closed.wait(RECONNECT_PAUSE)

        threading.Thread(target=run, name="notices", daemon=True).start()

    def close(self) -> None:
        """Stop listening, at the latest after :data:`WAIT`."""
        self._closed.set()

    def _hear(self, heard: Heard) -> None:
        with self._engine.connect() as connection:
            try:
                connection.exec_driver_sql(f"LISTEN {CHANNEL}")
                driver: Any = connection.connection.driver_connection
                driver.add_notify_handler(lambda _: heard())  # for those that come with the answer to another statement
                heard()
                while not self._closed.is_set():
                    for _ in driver.notifies(timeout=WAIT):
                        heard()
                    connection.exec_driver_sql("SELECT 1")
            finally:
                with suppress(SQLAlchemyError):
                    connection.invalidate()  # no other user of the pool may find it listening
