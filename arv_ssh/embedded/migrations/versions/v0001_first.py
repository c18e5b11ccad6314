"""The tables as they were when there were no migrations yet."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
"""Sorted and compared by code point, as SQLite does, whatever the server's locale."""
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make all tables."""
    _table(
        "groups",
        sa.Column("name", TEXT),
        sa.Column("description", TEXT),
        sa.Column("group_class", TEXT, nullable=False),
        sa.Column("properties", sa.JSON(), nullable=False),
    )
    op.create_index("ix_groups_owner_uuid", "groups", ["owner_uuid"])
    _table(
        "links",
        sa.Column("link_class", TEXT, nullable=False),
        sa.Column("name", TEXT),
        sa.Column("tail_uuid", TEXT),
        sa.Column("head_uuid", TEXT),
        sa.Column("properties", sa.JSON(), nullable=False),
    )
    op.create_index("ix_links_head_uuid", "links", ["head_uuid"])
    op.create_index("ix_links_owner_uuid", "links", ["owner_uuid"])
    op.create_index("ix_links_tail_uuid", "links", ["tail_uuid"])
    _table(
        "users",
        sa.Column("username", TEXT, unique=True),
        sa.Column("email", TEXT),
        sa.Column("first_name", TEXT, nullable=False),
        sa.Column("last_name", TEXT, nullable=False),
        sa.Column("identity_url", TEXT),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        sa.Column("is_admin", sa.Boolean(), nullable=False),
        sa.Column("prefs", sa.JSON(), nullable=False),
    )
    op.create_index("ix_users_owner_uuid", "users", ["owner_uuid"])
    _table(
        "api_client_authorizations",
        sa.Column("owner_uuid", TEXT, sa.ForeignKey("users.uuid"), nullable=False),
        sa.Column("digest", TEXT, nullable=False, unique=True),
        sa.Column("expires_at", TIME),
        sa.Column("scopes", sa.JSON(), nullable=False),
    )
    op.create_index("ix_api_client_authorizations_owner_uuid", "api_client_authorizations", ["owner_uuid"])
    _table(
        "containers",
        sa.Column("auth_uuid", TEXT, sa.ForeignKey("api_client_authorizations.uuid")),
        sa.Column("command", sa.JSON(), nullable=False),
        sa.Column("container_image", TEXT, nullable=False),
        sa.Column("cost", sa.Double(), nullable=False),
        sa.Column("cwd", TEXT, nullable=False),
        sa.Column("environment", sa.JSON(), nullable=False),
        sa.Column("exit_code", sa.Integer()),
        sa.Column("finished_at", TIME),
        sa.Column("gateway_address", TEXT),
        sa.Column("interactive_session_started", sa.Boolean(), nullable=False),
        sa.Column("lock_count", sa.Integer(), nullable=False),
        sa.Column("locked_by_uuid", TEXT),
        sa.Column("log", TEXT),
        sa.Column("mounts", sa.JSON(), nullable=False),
        sa.Column("output", TEXT),
        sa.Column("output_path", TEXT, nullable=False),
        sa.Column("output_properties", sa.JSON(), nullable=False),
        sa.Column("output_storage_classes", sa.JSON(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("progress", sa.Double()),
        sa.Column("runtime_constraints", sa.JSON(), nullable=False),
        sa.Column("runtime_status", sa.JSON(), nullable=False),
        sa.Column("runtime_user_uuid", TEXT),
        sa.Column("scheduling_parameters", sa.JSON(), nullable=False),
        sa.Column("started_at", TIME),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("reuse_key", TEXT, nullable=False),
    )
    op.create_index("containers_by_state_and_priority", "containers", ["state", "priority"])
    op.create_index("ix_containers_auth_uuid", "containers", ["auth_uuid"])
    op.create_index("ix_containers_owner_uuid", "containers", ["owner_uuid"])
    op.create_index("ix_containers_reuse_key", "containers", ["reuse_key"])
    _table(
        "container_requests",
        sa.Column("command", sa.JSON(), nullable=False),
        sa.Column("container_count", sa.Integer(), nullable=False),
        sa.Column("container_count_max", sa.Integer(), nullable=False),
        sa.Column("container_image", TEXT),
        sa.Column("container_uuid", TEXT, sa.ForeignKey("containers.uuid")),
        sa.Column("cumulative_cost", sa.Double(), nullable=False),
        sa.Column("cwd", TEXT, nullable=False),
        sa.Column("description", TEXT),
        sa.Column("environment", sa.JSON(), nullable=False),
        sa.Column("expires_at", TIME),
        sa.Column("filters", sa.JSON(), nullable=False),
        sa.Column("log_uuid", TEXT),
        sa.Column("mounts", sa.JSON(), nullable=False),
        sa.Column("name", TEXT),
        sa.Column("output_name", TEXT),
        sa.Column("output_path", TEXT, nullable=False),
        sa.Column("output_properties", sa.JSON(), nullable=False),
        sa.Column("output_storage_classes", sa.JSON(), nullable=False),
        sa.Column("output_ttl", sa.Integer(), nullable=False),
        sa.Column("output_uuid", TEXT),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("properties", sa.JSON(), nullable=False),
        sa.Column("requesting_container_uuid", TEXT),
        sa.Column("runtime_constraints", sa.JSON(), nullable=False),
        sa.Column("scheduling_parameters", sa.JSON(), nullable=False),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("use_existing", sa.Boolean(), nullable=False),
    )
    op.create_index("ix_container_requests_container_uuid", "container_requests", ["container_uuid"])
    op.create_index("ix_container_requests_owner_uuid", "container_requests", ["owner_uuid"])


def _table(name: str, *columns: sa.Column[Any]) -> None:
    """Make a table of records, with the attributes that all have; ``owner_uuid`` may be among the ``columns``."""
    names = {column.name for column in columns}
    common: list[sa.Column[Any]] = [
        sa.Column("uuid", TEXT, primary_key=True),
        sa.Column("owner_uuid", TEXT, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("modified_at", TIME, nullable=False),
        sa.Column("modified_by_user_uuid", TEXT),
    ]
    op.create_table(name, *(column for column in common if column.name not in names), *columns)
