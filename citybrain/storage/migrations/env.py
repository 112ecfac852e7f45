"""Alembic's entry: migrate over the connection that `Database.migrate` opened."""

from alembic import context

from citybrain.storage.history_tables import RetirementRow

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=RetirementRow.metadata,
    render_as_batch=connection.dialect.name == "sqlite",
    transaction_per_migration=False,
)
if connection.dialect.name == "postgresql":  # two processes may start at once
    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(20260101)")
with context.begin_transaction():
    context.run_migrations()
