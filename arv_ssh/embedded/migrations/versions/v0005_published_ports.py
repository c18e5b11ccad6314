"""Container requests and containers get their published ports."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the columns; the default is for existing rows, and for an older controller still running alongside."""
    for table in ("containers", "container_requests"):
        op.add_column(
            table, sa.Column("published_ports", sa.JSON(), nullable=False, server_default=sa.text("'{}'"))
        )
