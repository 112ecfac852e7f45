"""Commands about keys and grants."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from citybrain.core.dates import read_moment
from citybrain.core.home import write_private
from citybrain.core.schemas import IssuedKey, NewGrant, NewKey, NewRotation
from citybrain.core.settings import Settings
from citybrain.platform.cli.grants import add_requests
from citybrain.platform.cli.output import (
    JsonFlag,
    checked,
    client,
    errors,
    home_of,
    screen,
    show_json,
    show_table,
)

Expires = Annotated[str, typer.Option(help="Last day or moment, in the city's time.")]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    keys = typer.Typer(help="Service keys.", invoke_without_command=True)
    keys.callback()(list_keys)
    keys.command("issue")(issue_key)
    keys.command("rotate")(rotate_key)
    keys.command("revoke")(revoke_key)
    grants = typer.Typer(help="Who may call what.", invoke_without_command=True)
    grants.callback()(list_grants)
    grants.command("give")(give_grant)
    grants.command("end")(end_grant)
    add_requests(grants)
    app.add_typer(keys, name="keys")
    app.add_typer(grants, name="grants")


def list_keys(
    context: typer.Context,
    under: Annotated[str, typer.Option(help="Of this department and all below it.")] = "",
    *,
    json: JsonFlag = False,
) -> None:
    """All keys without their secrets; `issue`, `rotate` or `revoke` one.

    Example: `citybrain keys`
    """
    if context.invoked_subcommand:
        return
    with client() as city:
        found = city.keys(under)
    if json:
        show_json(found)
        return
    show_table(
        "Keys", ["id", "department", "role", "purposes", "level", "only for", "note", "ends", "revoked"],
        [[k.id, k.department, k.role, ", ".join(k.purposes), k.level,
          ", ".join([*k.scopes, *k.networks]), k.note, k.expires_at, k.revoked_at]
         for k in found],
    )  # fmt: skip


def issue_key(
    department: str,
    role: Annotated[
        str, typer.Option(help="department, developer, auditor or admin.")
    ] = "department",
    purpose: Annotated[list[str] | None, typer.Option(help="Repeat for several.")] = None,
    note: Annotated[str, typer.Option(help="Who holds it.")] = "",
    level: Annotated[
        str, typer.Option(help="Data it may see: public, internal, sensitive, personal.")
    ] = "internal",
    scope: Annotated[
        list[str] | None, typer.Option(help="Actions it may take: job.*, call:NAME. Else all.")
    ] = None,
    network: Annotated[
        list[str] | None, typer.Option(help="Where it may come from: 10.1.0.0/16. Else anywhere.")
    ] = None,
    expires: Expires = "",
    *,
    json: JsonFlag = False,
) -> None:
    """Issue a key; its secret is shown once.

    Examples: `citybrain keys issue tourism --note "visitor app"`,
    `citybrain keys issue tourism --scope call:crowd-level --network 10.1.0.0/16 --expires 2027-06-30`
    """
    new = checked(
        NewKey, department=department, role=role, purposes=purpose or ["operation"], note=note,
        level=level, scopes=scope or [], networks=network or [], expires_at=_end(expires),
    )  # fmt: skip
    with client() as city:
        found = city.add_key(new)
    _show_secret(found, json=json)


def rotate_key(
    key_id: str,
    overlap: Annotated[int, typer.Option(help="Seconds that the old one goes on.")] = 3600,
    expires: Expires = "",
    *,
    json: JsonFlag = False,
) -> None:
    """Replace a key by a new one with the same rights; the old one ends after the overlap.

    The home's own first keys are replaced in their files, too.

    Example: `citybrain keys rotate k3j2h1g4f5 --overlap 86400`
    """
    new = checked(NewRotation, overlap_seconds=overlap, expires_at=_end(expires))
    home = home_of(Settings())
    with client() as city:
        found = city.rotate_key(key_id, new)
    for path in (home.admin_key, home.auditor_key):
        if path.exists() and path.read_text().split("_")[2:3] == [key_id]:
            write_private(path, found.secret.encode())
            errors.print(f"{path} holds the new key.", soft_wrap=True)
    _show_secret(found, json=json)


def _show_secret(found: IssuedKey, *, json: bool) -> None:
    if json:
        show_json(found)
        return
    screen.print(found.secret, markup=False, soft_wrap=True)
    screen.print(f"Keep it: it is shown once. Id {found.id}.", style="dim")


def _end(said: str) -> datetime | None:
    return read_moment(said, Settings().zone, end=True) if said else None


def revoke_key(key_id: str) -> None:
    """Revoke a key at once.

    Example: `citybrain keys revoke k3j2h1g4f5`
    """
    with client() as city:
        city.revoke_key(key_id)
    screen.print(f"{key_id} is revoked.")


def list_grants(context: typer.Context, *, json: JsonFlag = False) -> None:
    """All grants, or `give` and `end` one.

    Example: `citybrain grants`
    """
    if context.invoked_subcommand:
        return
    with client() as city:
        found = city.grants()
    if json:
        show_json(found)
        return
    show_table(
        "Grants", ["id", "department", "algorithm", "purpose", "until", "ended"],
        [[g.id, g.department, g.algorithm, g.purpose, g.until, g.revoked_at] for g in found],
    )  # fmt: skip


def give_grant(
    department: str,
    algorithm: str,
    purpose: Annotated[str, typer.Option(help="What for.")] = "operation",
    *,
    json: JsonFlag = False,
) -> None:
    """Let a department call an algorithm.

    Example: `citybrain grants give tourism crowd-level`
    """
    with client() as city:
        found = city.add_grant(
            NewGrant(department=department, algorithm=algorithm, purpose=purpose)
        )
    if json:
        show_json(found)
    else:
        screen.print(f"{department} may call {algorithm} for {purpose} (grant {found.id}).")


def end_grant(grant_id: str) -> None:
    """End a grant at once.

    Example: `citybrain grants end 5f0c2a9b1d3e`
    """
    with client() as city:
        city.revoke_grant(grant_id)
    screen.print(f"{grant_id} has ended.")
