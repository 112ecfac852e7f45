"""Commands about the negative list, and about answers that are less sensitive than their inputs."""

from __future__ import annotations

from typing import Annotated

import typer

from citybrain.core.schemas.grants import NewDeidentification, NewForbidden
from citybrain.platform.cli.output import JsonFlag, checked, client, screen, show_json, show_table


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    forbidden = typer.Typer(help="The negative list.", invoke_without_command=True)
    forbidden.callback()(list_forbidden)
    forbidden.command("add")(forbid)
    forbidden.command("end")(allow)
    app.add_typer(forbidden, name="forbidden")
    levels = typer.Typer(help="Answers that are less sensitive.", invoke_without_command=True)
    levels.callback()(list_lowered)
    levels.command("lower")(lower)
    levels.command("approve")(approve_lower)
    app.add_typer(levels, name="levels")


def list_forbidden(context: typer.Context, *, json: JsonFlag = False) -> None:
    """Categories of data that are never collected, or never joined; `add` or `end` one.

    Example: `citybrain forbidden`
    """
    if context.invoked_subcommand:
        return
    with client() as city:
        found = city.forbidden()
    if json:
        show_json(found)
        return
    show_table(
        "Negative list", ["id", "category", "never joined with", "why"],
        [[f.id, f.category, f.joined or "(never collected)", f.reason] for f in found],
    )  # fmt: skip


def forbid(
    category: str,
    reason: Annotated[str, typer.Option(help="The law, or the decision.")],
    joined: Annotated[str, typer.Option(help="Forbid only to join it with this one.")] = "",
) -> None:
    """Put a category on the negative list.

    Example: `citybrain forbidden add religion --reason "PIPL article 28"`
    """
    new = checked(NewForbidden, category=category, reason=reason, joined=joined)
    with client() as city:
        found = city.forbid(new)
    screen.print(f"{category} is forbidden (line {found.id}).")


def allow(line_id: str) -> None:
    """Take a line off the negative list.

    Example: `citybrain forbidden end 5f0c2a9b1d3e`
    """
    with client() as city:
        city.allow(line_id)
    screen.print(f"{line_id} has ended.")


def list_lowered(context: typer.Context, *, json: JsonFlag = False) -> None:
    """Steps that make answers less sensitive than their inputs; `lower` or `approve` one.

    Example: `citybrain levels`
    """
    if context.invoked_subcommand:
        return
    with client() as city:
        found = city.deidentifications()
    if json:
        show_json(found)
        return
    show_table(
        "De-identification", ["id", "what", "answers are", "how", "state"],
        [[d.id, d.target, d.level, d.method, d.state] for d in found],
    )  # fmt: skip


def lower(
    algorithm: str,
    level: Annotated[str, typer.Option(help="public, internal or sensitive.")],
    method: Annotated[str, typer.Option(help="What is done, in a sentence.")],
) -> None:
    """Ask that an algorithm's answers count as less sensitive than its inputs.

    Example: `citybrain levels lower crowd-level --level internal --method "only counts leave"`
    """
    said = {"target": algorithm, "level": level, "method": method}
    with client() as city:
        found = city.ask_to_lower(checked(NewDeidentification, **said))
    screen.print(f"Another person approves: citybrain levels approve {found.id}")


def approve_lower(entry_id: str) -> None:
    """Approve that, as another person than who asked.

    Example: `citybrain levels approve 5f0c2a9b1d3e`
    """
    with client() as city:
        found = city.approve_lower(entry_id)
    screen.print(f"Answers of {found.target} are {found.level} now.")
