"""Containers get properties, where the controller notes who entered first."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the column; the default is for existing rows, and for an older controller still running alongside."""
    op.add_column("containers", sa.Column("properties", sa.JSON(), nullable=False, server_default=sa.text("'{}'")))
