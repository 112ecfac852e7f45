"""Limit what is used, measure it in its own unit, repeat calls safely."""

import sqlalchemy as sa
from alembic import op

from citybrain.storage.migrations.ddl import index, key, moment, number, real, text

revision = "0012_quotas"
down_revision = "0011_grants"

TABLES = ("quotas", "allotments", "idempotency")
REQUESTS = ("unit", "amount", "work_micros", "scenario")


def upgrade() -> None:
    """Make the tables and the columns."""
    op.create_table(
        "quotas",
        text("id"), text("department"), text("algorithm"), text("unit"), text("per"),
        real("amount"), real("burst"), number("slot"), text("set_by"), moment("set_at"),
        moment("ended_at", null=True), key("quotas", "id"),
    )  # fmt: skip
    index("quotas", "department")
    op.create_table(
        "allotments",
        text("department"), number("replicas", null=True), real("cpus", null=True),
        real("gpus", null=True), number("memory", null=True, big=True), text("set_by"), moment("set_at"),
        key("allotments", "department"),
    )  # fmt: skip
    op.create_table(
        "idempotency",
        text("department"), text("key"), text("request_id"), text("digest"), text("state"),
        text("holder"), sa.Column("body", sa.LargeBinary(), nullable=False),
        number("header_length"), moment("at"), moment("expires_at"),
        key("idempotency", "department", "key"),
    )  # fmt: skip
    index("idempotency", "expires_at")
    op.add_column("requests", text("unit", 16, default=""))
    op.add_column("requests", real("amount", "0"))
    op.add_column("requests", number("work_micros", "0", big=True))
    op.add_column("requests", text("scenario", default=""))
    op.add_column("usage_days", text("unit", 16, default=""))
    op.add_column("usage_days", real("amount", "0"))
    op.add_column("usage_days", number("work_micros", "0", big=True))


def downgrade() -> None:
    """Take them away."""
    for table in TABLES:
        op.drop_table(table)
    with op.batch_alter_table("requests") as batch:
        for column in REQUESTS:
            batch.drop_column(column)
    with op.batch_alter_table("usage_days") as batch:
        for column in REQUESTS[:3]:
            batch.drop_column(column)
