"""Arrange departments in a tree, know people, and say more about keys."""

from alembic import op

from citybrain.storage.migrations.ddl import index, json, key, moment, number, text

revision = "0010_people"
down_revision = "0009_resources"

DEPARTMENTS = ("parent", "tier")
KEYS = ("user", "scopes", "networks", "level", "successor")


def upgrade() -> None:
    """Make the table and the columns."""
    op.add_column("departments", text("parent", default=""))
    op.add_column("departments", text("tier", default="city"))
    op.create_table(
        "users",
        text("name"), text("title"), text("department"), text("role"), text("level"),
        text("password"), moment("one_time_until", null=True),
        text("totp"), number("totp_step", big=True), number("failed"), moment("locked_until", null=True),
        moment("created_at"), moment("disabled_at", null=True), key("users", "name"),
    )  # fmt: skip
    index("users", "department")
    op.add_column("keys", text("user", default=""))
    op.add_column("keys", json("scopes", "[]"))
    op.add_column("keys", json("networks", "[]"))
    op.add_column("keys", text("level", default="internal"))
    op.add_column("keys", text("successor", default=""))
    # Keys that could see everything until now go on doing so.
    op.execute("UPDATE keys SET level = 'personal' WHERE revoked_at IS NULL")


def downgrade() -> None:
    """Take them away."""
    op.drop_table("users")
    with op.batch_alter_table("departments") as batch:
        for column in DEPARTMENTS:
            batch.drop_column(column)
    with op.batch_alter_table("keys") as batch:
        for column in KEYS:
            batch.drop_column(column)
