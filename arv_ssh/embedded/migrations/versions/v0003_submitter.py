"""Container requests get their submitter, who stays the same when another user changes them later."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the column, and fill it for requests that have a container.

    The user who last changed such a request need not have submitted it. Where the container serves no other request,
    the user it was made for is the submitter.
    """
    text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    op.add_column("container_requests", sa.Column("submitted_by_user_uuid", text))
    op.execute(
        "UPDATE container_requests SET submitted_by_user_uuid = coalesce("
        "(SELECT containers.runtime_user_uuid FROM containers WHERE containers.uuid = container_requests.container_uuid"
        " AND (SELECT count(*) FROM container_requests AS served WHERE served.container_uuid = containers.uuid) = 1), "
        "modified_by_user_uuid) WHERE container_uuid IS NOT NULL"
    )
