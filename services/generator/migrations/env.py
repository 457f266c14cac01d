"""Alembic's way in; see services/common/migration.py."""

from services.common.migration import run_migrations
from services.generator.tables import metadata

run_migrations(metadata)
