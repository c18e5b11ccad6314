"""The module that Alembic runs for each command: the steps, on the connection that :func:`migrations.migrate` gives.

The transaction belongs to the caller, who holds the writer's lock.
"""

from alembic import context

from arv_ssh.embedded.models import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
with context.begin_transaction():
    context.run_migrations()
