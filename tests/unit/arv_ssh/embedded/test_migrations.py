"""Migrations of the embedded API's database: they give what the models say, lose nothing, and refuse what they must."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text

from arv_ssh.embedded import migrations
from arv_ssh.embedded.api import EmbeddedApi
from arv_ssh.embedded.models import Base
from arv_ssh.embedded.store import Store
from arv_ssh.errors import ConfigError
from tests.postgresql import PostgresqlServer
from tests.unit.arv_ssh.embedded.cluster import ACTIVE, ROOT_TOKEN, SPECTATOR, Cluster, cluster_config, sqlite_url

REQUESTS = "container_requests"
OLD = Path(__file__).with_name("before_migrations.sql")
"""A database as the last version without migrations left it: one committed request, whose container runs."""


def differences(url: str) -> list[object]:
    """Return how the database at ``url`` differs from the models."""
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:
        # PostgreSQL has no = for JSON, which Alembic would compare defaults with.
        opts = {"compare_server_default": engine.dialect.name == "sqlite"}
        context = MigrationContext.configure(connection, opts=opts)
        found = list(compare_metadata(context, Base.metadata))
    engine.dispose()
    return found


def old_database(path: Path) -> None:
    """Make a database file of the time before migrations."""
    connection = sqlite3.connect(path)
    connection.executescript(OLD.read_text())
    connection.close()


def test_migrations_give_the_models(empty_database: str) -> None:
    """An empty database gets exactly the tables, columns, indexes and references of the models."""
    Store(empty_database).close()
    assert differences(empty_database) == []


def test_revisions() -> None:
    """The list of revisions is what the directory of steps has, in order, with one head."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    steps = ScriptDirectory.from_config(config).walk_revisions()
    assert tuple(step.revision for step in steps)[::-1] == migrations.REVISIONS


def test_old_file_is_adopted(tmp_path: Path) -> None:
    """A file from before migrations becomes the newest schema, with all its records, and serves on."""
    old_database(tmp_path / "db.sqlite")
    connection = sqlite3.connect(tmp_path / "db.sqlite")
    connection.execute("UPDATE container_requests SET modified_by_user_uuid = ?", (SPECTATOR,))  # who renamed it
    connection.commit()
    connection.close()
    for _ in range(2):  # the second start finds nothing to do
        cluster = Cluster.__new__(Cluster)
        cluster.api = EmbeddedApi(cluster_config(sqlite_url(tmp_path)))
        root = cluster.client(ROOT_TOKEN)
        (request,) = root.list_all("container_requests")
        container = root.get("containers", request["container_uuid"])
        assert (request["name"], container["state"], container["properties"]) == ("from before", "Running", {})
        assert (request["modified_by_user_uuid"], request["submitted_by_user_uuid"]) == (SPECTATOR, ACTIVE)
        assert {user["username"] for user in root.list_all("users")} == {"root", "admin", "active", "spectator"}
        assert differences(sqlite_url(tmp_path)) == []
        cluster.api.close()


def back_to_0002(url: str) -> None:
    """Take from the database at ``url`` what the steps from schema 0003 on add."""
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE container_requests DROP COLUMN submitted_by_user_uuid"))
        connection.execute(text("ALTER TABLE containers DROP COLUMN subrequests_cost"))
        connection.execute(text("DROP TABLE collections"))
        for table in ("containers", "container_requests"):
            connection.execute(text(f"ALTER TABLE {table} DROP COLUMN published_ports"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0002'"))
    engine.dispose()


def test_submitters_are_filled_in(empty_database: str) -> None:
    """The step to 0003 fills in the user a container was made for, or, if it serves several, who last changed each."""
    cluster = Cluster(empty_database)
    renamed = cluster.submit(name="renamed")
    shared = [cluster.submit(cluster.active, command=["true"])]
    cluster.bring(shared[0]["container_uuid"], "Running")
    shared.append(cluster.submit(cluster.spectator, command=["true"], use_existing=True))
    assert shared[0]["container_uuid"] == shared[1]["container_uuid"]
    waiting = cluster.submit(state="Uncommitted")
    made_for_none = cluster.submit(cluster.spectator, command=["false"])
    cluster.api.close()
    engine = create_engine(empty_database.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE container_requests SET modified_by_user_uuid = :who WHERE uuid = :uuid"),
            {"who": SPECTATOR, "uuid": renamed["uuid"]},
        )
        connection.execute(
            text("UPDATE containers SET runtime_user_uuid = NULL WHERE uuid = :uuid"),
            {"uuid": made_for_none["container_uuid"]},
        )
    engine.dispose()
    back_to_0002(empty_database)
    cluster.api = EmbeddedApi(cluster_config(empty_database))
    found = {one["uuid"]: one["submitted_by_user_uuid"] for one in cluster.client(ROOT_TOKEN).list_all(REQUESTS)}
    assert found == {
        renamed["uuid"]: ACTIVE, shared[0]["uuid"]: ACTIVE, shared[1]["uuid"]: SPECTATOR, waiting["uuid"]: None,
        made_for_none["uuid"]: SPECTATOR,
    }  # fmt: skip
    cluster.api.close()
    assert differences(empty_database) == []


def test_newer_schema_is_refused(empty_database: str) -> None:
    """A database that a newer version has used is left alone, and the sentence says which version it wants."""
    store = Store(empty_database)
    with store.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '0999'"))
    store.close()
    with pytest.raises(ConfigError, match="schema 0999 is of a newer version of arv-ssh"):
        Store(empty_database)


def test_foreign_database_is_refused(empty_database: str) -> None:
    """A database with another program's tables gets none of ours."""
    engine = create_engine(empty_database.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE containers (id INTEGER)"))
    engine.dispose()
    with pytest.raises(ConfigError, match="tables of another program"):
        Store(empty_database)
    assert len(differences(empty_database)) > 3


def test_controllers_that_start_together(empty_database: str) -> None:
    """Of several that open an empty database at once, one makes the tables and the others find them."""
    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(lambda _: Store(empty_database), range(4)))
    for store in stores:
        with store.read() as session:
            assert migrations.revision(session.connection()) == migrations.REVISIONS[-1]
        store.close()


def test_old_file_of_half_the_tables(tmp_path: Path) -> None:
    """A file with some of our tables and no schema is nothing that any version left behind."""
    old_database(tmp_path / "db.sqlite")
    connection = sqlite3.connect(tmp_path / "db.sqlite")
    connection.execute("DROP TABLE links")
    connection.close()
    with pytest.raises(ConfigError, match="tables of another program"):
        Store(sqlite_url(tmp_path))


def test_text_sorts_alike(postgresql: PostgresqlServer, empty_database: str) -> None:
    """Text sorts by code point in both databases, though this server's own order is a dictionary's."""
    words = ["B", "a", "Z", "é", "z", "_"]
    assert postgresql.execute("SELECT 'a' < 'B'") == [(True,)]
    cluster = Cluster(empty_database)
    for word in words:
        cluster.root.create("groups", {"name": word, "group_class": "role"})
    found = cluster.root.list("groups", order=["name"])["items"]
    assert [group["name"] for group in found] == sorted(words)
    before = cluster.root.list("groups", order=["name desc"], filters=[["name", "<", "a"]])["items"]
    assert [group["name"] for group in before] == ["_", "Z", "B"]
    cluster.api.close()
