"""Collections, and what a container's own requests cost: a stock crunch-run records both."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make the table, and add the column; its default is for existing rows, and for an older controller alongside."""
    text, time = sa.Text().with_variant(sa.Text(collation="C"), "postgresql"), sa.DateTime(timezone=True)
    op.add_column(
        "containers", sa.Column("subrequests_cost", sa.Double(), nullable=False, server_default=sa.text("0"))
    )
    op.create_table(
        "collections",
        sa.Column("uuid", text, primary_key=True),
        sa.Column("owner_uuid", text, nullable=False),
        sa.Column("created_at", time, nullable=False),
        sa.Column("modified_at", time, nullable=False),
        sa.Column("modified_by_user_uuid", text),
        sa.Column("delete_at", time),
        sa.Column("description", text),
        sa.Column("file_count", sa.Integer(), nullable=False),
        sa.Column("file_size_total", sa.BigInteger(), nullable=False),
        sa.Column("is_trashed", sa.Boolean(), nullable=False),
        sa.Column("manifest_size", sa.Integer(), nullable=False),
        sa.Column("manifest_text", text, nullable=False),
        sa.Column("name", text),
        sa.Column("portable_data_hash", text, nullable=False),
        sa.Column("properties", sa.JSON(), nullable=False),
        sa.Column("replication_desired", sa.Integer()),
        sa.Column("storage_classes_desired", sa.JSON(), nullable=False),
        sa.Column("trash_at", time),
    )
    for name in ("delete_at", "owner_uuid", "portable_data_hash"):
        op.create_index(f"ix_collections_{name}", "collections", [name])
