"""Price what is used, issue statements, rate answers, tell departments."""

import sqlalchemy as sa
from alembic import op

from citybrain.storage.migrations.ddl import count, index, json, key, moment, number, only_grows, text

revision = "0013_prices"
down_revision = "0012_quotas"

TABLES = ("prices", "statements", "ratings", "notices")


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "prices",
        count(), text("algorithm"), text("unit"), number("version"), number("micros", big=True),
        moment("begins"), text("note", 500), text("set_by"), moment("set_at"),
        key("prices", "id"),
        sa.UniqueConstraint("algorithm", "unit", "version", name=op.f("uq_prices_algorithm")),
    )  # fmt: skip
    op.create_table(
        "statements",
        text("department"), text("month", 7), text("digest"), number("micros", big=True), json("content"),
        text("issued_by"), moment("issued_at"), key("statements", "department", "month"),
    )  # fmt: skip
    op.create_table(
        "ratings",
        text("request_id", 32), text("department"), text("algorithm"), number("version"),
        text("scenario"), number("stars"), text("reason", 1000), text("rated_by"), moment("at"),
        key("ratings", "request_id"),
    )  # fmt: skip
    index("ratings", "department", "algorithm")
    op.create_table(
        "notices",
        count(), text("department"), text("kind"), text("target"), json("detail"), moment("at"),
        moment("read_at", null=True), key("notices", "id"),
    )  # fmt: skip
    index("notices", "department")
    only_grows("prices")
    only_grows("statements")


def downgrade() -> None:
    """Take them away."""
    for table in TABLES:
        op.drop_table(table)
