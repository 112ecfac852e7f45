"""Alembic migrations; one file a change, applied in order at every start."""
