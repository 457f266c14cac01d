"""What each service's Alembic `env.py` calls: run the migrations on the connection that `database.migrate` holds."""

import sqlalchemy as sa
from alembic import context


def run_migrations(metadata: sa.MetaData) -> None:
    """Applies migrations; SQLite alters tables by copying them (`render_as_batch`)."""
    connection = context.config.attributes["connection"]
    context.configure(connection=connection, target_metadata=metadata, render_as_batch=True, transactional_ddl=False)
    context.run_migrations()
