"""Commands about the audit trail."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

from citybrain.core.errors import CityBrainError
from citybrain.core.schemas.audits import Checkpoint
from citybrain.platform.cli.output import (
    JsonFlag,
    auditor,
    existing,
    screen,
    show_json,
    show_table,
)


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    audit = typer.Typer(help="Who did what.", invoke_without_command=True)
    audit.callback()(show)
    audit.command("verify")(verify)
    audit.command("export")(export)
    audit.command("checkpoints")(checkpoints)
    app.add_typer(audit, name="audit")


def show(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    *,
    json: JsonFlag = False,
) -> None:
    """Every control act and denial: when, who, what; or `verify`, `export`, `checkpoints`.

    For auditors: with CITYBRAIN_KEY, else with the home's auditor.key.

    Example: `citybrain audit --limit 20`
    """
    if context.invoked_subcommand:
        return
    with auditor() as city:
        found = city.audit(limit)
    if json:
        show_json(found)
        return
    show_table(
        "Audit", ["id", "when", "who", "department", "act", "on", "detail"],
        [[e.id, f"{e.at:%Y-%m-%d %H:%M:%S}", e.actor, e.department, e.action, e.object,
          ", ".join(f"{k}={v}" for k, v in e.detail.items())] for e in found],
    )  # fmt: skip


def verify(
    checkpoints: Annotated[
        Path | None, typer.Option(help="A checkpoints.jsonl that was kept elsewhere.")
    ] = None,
    *,
    json: JsonFlag = False,
) -> None:
    """Whether the trail is as it was written; else the first entry that is not, and why.

    Example: `citybrain audit verify --checkpoints /mnt/other/checkpoints.jsonl`
    """
    kept = []
    if checkpoints is not None:
        lines = existing(checkpoints, "file").read_text().splitlines()
        kept = [Checkpoint.model_validate(jsonlib.loads(line)) for line in lines if line]
    with auditor() as city:
        found = city.verify_audit(kept)
    if json:
        show_json(found)
    if not found.intact:
        raise CityBrainError(
            f"The audit trail is not as it was written: entry {found.first_bad}: {found.reason}.",
            hint=f"{found.count} entries before it are good. Keep a copy of the database as it is.",
        )
    if not json:
        pace = found.count / max(found.seconds, 1e-3)
        screen.print(
            f"{found.count} entries are as they were written, {found.checkpoints} checkpoints hold "
            f"({pace:,.0f} entries a second)."
        )


def export(
    out: Path,
    since: Annotated[str, typer.Option(help="2026-11-20, or a moment.")] = "",
    until: Annotated[str, typer.Option(help="The same.")] = "",
) -> None:
    """Write the trail as JSON lines, each with its record and hash.

    Example: `citybrain audit export trail.jsonl`
    """
    with auditor() as city:
        city.export_audit(out, since, until)
    screen.print(f"Written: {out}")


def checkpoints(*, json: JsonFlag = False) -> None:
    """How far the trail was on each day, signed; keep them elsewhere.

    Example: `citybrain audit checkpoints --json`
    """
    with auditor() as city:
        found = city.checkpoints()
    if json:
        show_json(found)
        return
    show_table(
        "Checkpoints", ["day", "entries", "last", "hash", "signed by"],
        [[c.day, c.count, c.last, c.hash[:16], c.signed.partition(".")[0]] for c in found],
    )  # fmt: skip
