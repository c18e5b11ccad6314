"""The steps that bring a database of the embedded API from any older schema to this version's, made with Alembic.

Owns which schema a database has, and that one of a newer version, or of another program, is left alone. The steps are
in ``versions``; each is final once released, and names no model, since those go on changing.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from sqlalchemy import Connection, inspect, text

from arv_ssh.errors import ConfigError
from arv_ssh.log import event

logger = logging.getLogger(__name__)

FIRST = "0001"
"""The schema of databases from before there were migrations; they do not record it anywhere."""
REVISIONS = (FIRST, "0002", "0003", "0004", "0005")
"""All schemas in order, so that a database with the last one starts without Alembic."""
FIRST_TABLES = frozenset({
    "users", "groups", "links", "api_client_authorizations", "containers", "container_requests",
})  # fmt: skip
_one_at_a_time = threading.Lock()  # Alembic keeps the migration under way in a global


def migrate(connection: Connection) -> None:
    """Bring the database to the newest schema, within the transaction that ``connection`` is in: the writer's."""
    current = revision(connection)
    if current == REVISIONS[-1]:
        return
    if current is not None and current not in REVISIONS:
        raise ConfigError(
            f"its schema {current} is of a newer version of arv-ssh (this one knows up to {REVISIONS[-1]}); "
            "install that version again, or restore the database from before the upgrade"
        )
    adopted = current is None and _is_first(connection)
    from alembic import command
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    with _one_at_a_time:
        if adopted:
            command.stamp(config, FIRST)
        command.upgrade(config, REVISIONS[-1])
    event(logger, "database migrated", schema=REVISIONS[-1], previous=FIRST if adopted else current)


def revision(connection: Connection) -> str | None:
    """Return the name of the database's schema, None when it has none yet."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return None if found is None else str(found)


def _is_first(connection: Connection) -> bool:
    """Say whether the database was made before there were migrations; raise when it has something else in it."""
    tables = set(inspect(connection).get_table_names()) - {"alembic_version"}
    if tables and (tables != FIRST_TABLES or connection.dialect.name != "sqlite"):
        raise ConfigError("it has tables of another program; name an empty database")
    return bool(tables)
