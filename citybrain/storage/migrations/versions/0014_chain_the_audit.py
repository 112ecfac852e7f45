"""Chain the audit trail, sign how far it is, and say how long logs are kept."""

import sqlalchemy as sa
from alembic import op

from citybrain.storage.migrations.ddl import count, key, may_change, moment, number, only_grows, text

revision = "0014_audit"
down_revision = "0013_prices"

TABLES = ("checkpoints", "retentions")


def upgrade() -> None:
    """Make the tables and the columns; entries before this have no record and are not chained."""
    op.add_column("audit", sa.Column("record", sa.Text(), nullable=False, server_default=""))
    op.add_column("audit", text("hash", 64, default=""))
    op.create_table(
        "checkpoints",
        count(), text("day", 10), number("last"), text("hash", 64), number("count", big=True),
        sa.Column("signed", sa.Text(), nullable=False), moment("at"), key("checkpoints", "id"),
    )  # fmt: skip
    op.create_table(
        "retentions",
        text("log"), number("days"), text("set_by"), moment("set_at"), key("retentions", "log"),
    )  # fmt: skip
    only_grows("audit")
    only_grows("checkpoints")


def downgrade() -> None:
    """Take them away."""
    may_change("audit")
    for table in TABLES:
        op.drop_table(table)
    with op.batch_alter_table("audit") as batch:
        batch.drop_column("record")
        batch.drop_column("hash")
