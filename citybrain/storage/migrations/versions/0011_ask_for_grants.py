"""Ask for grants, suspend what must stop, pin versions, lower levels, forbid categories."""

from alembic import op

from citybrain.storage.migrations.ddl import index, json, key, moment, number, text

revision = "0011_grants"
down_revision = "0010_people"

TABLES = ("grant_requests", "suspensions", "pins", "deidentifications", "forbidden")
GRANTS = ("kind", "scenario", "basis", "columns")


def upgrade() -> None:
    """Make the tables and the columns."""
    op.add_column("grants", text("kind", default="algorithm"))
    op.add_column("grants", text("scenario", default=""))
    op.add_column("grants", text("basis", 500, default=""))
    op.add_column("grants", json("columns", "[]"))
    op.create_table(
        "grant_requests",
        text("id"), text("department"), text("kind"), text("algorithm"), text("purpose"),
        text("scenario"), text("basis", 500), json("columns"), text("reason", 1000),
        moment("until", null=True), text("state"), text("asked_by"), text("decided_by"),
        text("answer", 1000), text("grant_id"), moment("created_at"),
        moment("decided_at", null=True), key("grant_requests", "id"),
    )  # fmt: skip
    index("grant_requests", "department", "algorithm")
    op.create_table(
        "suspensions",
        text("id"), text("kind"), text("target"), text("reason", 1000), text("suspended_by"),
        moment("at"), text("lifted_by"), moment("lifted_at", null=True), key("suspensions", "id"),
    )  # fmt: skip
    index("suspensions", "target")
    op.create_table(
        "pins",
        text("department"), text("algorithm"), number("version"), text("set_by"), moment("set_at"),
        key("pins", "department", "algorithm"),
    )  # fmt: skip
    op.create_table(
        "deidentifications",
        text("id"), text("kind"), text("target"), text("level"), text("method", 1000),
        text("state"), text("asked_by"), text("decided_by"), moment("created_at"),
        moment("decided_at", null=True), key("deidentifications", "id"),
    )  # fmt: skip
    index("deidentifications", "target")
    op.create_table(
        "forbidden",
        text("id"), text("category"), text("joined"), text("reason", 1000), text("set_by"),
        moment("set_at"), moment("ended_at", null=True), key("forbidden", "id"),
    )  # fmt: skip
    index("forbidden", "category")


def downgrade() -> None:
    """Take them away."""
    for table in TABLES:
        op.drop_table(table)
    with op.batch_alter_table("grants") as batch:
        for column in GRANTS:
            batch.drop_column(column)
