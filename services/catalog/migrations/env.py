"""Alembic's way in; see services/common/migration.py."""

from services.catalog.tables import metadata
from services.common.migration import run_migrations

run_migrations(metadata)
