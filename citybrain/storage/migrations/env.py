"""Alembic's entry: migrate over the connection that `Database.migrate` opened."""

from alembic import context

from citybrain.storage import (
    audit_tables,
    bill_tables,
    grant_tables,
    history_tables,
    log_tables,
    people_tables,
    quota_tables,
    traffic_tables,
)
from citybrain.storage.tables import Table

DECLARED = (  # importing these completes the metadata
    audit_tables, bill_tables, grant_tables, history_tables, log_tables, people_tables,
    quota_tables, traffic_tables,
)  # fmt: skip

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Table.metadata,
    render_as_batch=connection.dialect.name == "sqlite",
    transaction_per_migration=False,
)
if connection.dialect.name == "postgresql":  # two processes may start at once
    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(20260101)")
with context.begin_transaction():
    context.run_migrations()
