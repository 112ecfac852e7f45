"""Commands about how long logs are kept."""

from __future__ import annotations

import typer

from citybrain.core.schemas.retention import NewRetention
from citybrain.platform.cli.output import JsonFlag, checked, client, screen, show_json, show_table


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    retention = typer.Typer(help="How long logs are kept.", invoke_without_command=True)
    retention.callback()(list_retention)
    retention.command("set")(set_retention)
    retention.command("reset")(reset)
    app.add_typer(retention, name="retention")


def list_retention(context: typer.Context, *, json: JsonFlag = False) -> None:
    """Every log and how many days it is kept, or `set` and `reset`.

    Example: `citybrain retention`
    """
    if context.invoked_subcommand:
        return
    with client() as city:
        found = city.retention()
    if json:
        show_json(found)
        return
    show_table(
        "Kept", ["log", "days", "least", "said by", "what"],
        [
            [one.log, f"{one.days:g}", one.least or "", one.setting or one.set_by or "the platform",
             one.says]
            for one in found
        ],
    )  # fmt: skip


def set_retention(log: str, days: int, *, json: JsonFlag = False) -> None:
    """Keep a log so many days; what is older goes within minutes.

    Example: `citybrain retention set shadows 7`
    """
    _put(log, days, json=json)


def reset(log: str, *, json: JsonFlag = False) -> None:
    """Keep a log as long as the platform has it.

    Example: `citybrain retention reset shadows`
    """
    _put(log, None, json=json)


def _put(log: str, days: int | None, *, json: bool) -> None:
    new = checked(NewRetention, days=days)
    with client() as city:
        found = city.set_retention(log, new)
    if json:
        show_json(found)
    else:
        screen.print(f"{found.log} is kept {found.days:g} days.")
