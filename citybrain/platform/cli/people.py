"""Commands about departments, keys and grants."""

from __future__ import annotations

from typing import Annotated

import typer

from citybrain.core.schemas import NewGrant, NewKey, Role
from citybrain.platform.cli.output import JsonFlag, client, screen, show_json, show_table


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    departments = typer.Typer(help="Departments.", invoke_without_command=True)
    departments.callback()(list_departments)
    departments.command("add")(add_department)
    keys = typer.Typer(help="Service keys.", invoke_without_command=True)
    keys.callback()(list_keys)
    keys.command("issue")(issue_key)
    keys.command("revoke")(revoke_key)
    grants = typer.Typer(help="Who may call what.", invoke_without_command=True)
    grants.callback()(list_grants)
    grants.command("give")(give_grant)
    grants.command("end")(end_grant)
    app.add_typer(departments, name="departments")
    app.add_typer(keys, name="keys")
    app.add_typer(grants, name="grants")


def list_departments(context: typer.Context, *, json: JsonFlag = False) -> None:
    """All departments, or `add` one.

    Example: `citybrain departments`
    """
    if context.invoked_subcommand:
        return
    with client() as city:
        found = city.departments()
    if json:
        show_json(found)
        return
    show_table(
        "Departments", ["name", "中文", "English"],
        [[d.name, d.title_zh, d.title_en] for d in found],
    )  # fmt: skip


def add_department(
    name: str,
    zh: Annotated[str, typer.Option(help="Name in Chinese.")] = "",
    en: Annotated[str, typer.Option(help="Name in English.")] = "",
    *,
    json: JsonFlag = False,
) -> None:
    """Add a department.

    Example: `citybrain departments add tourism --zh 文旅局 --en "Culture and Tourism"`
    """
    with client() as city:
        found = city.add_department(name, zh, en)
    if json:
        show_json(found)
    else:
        screen.print(f"{found.name} is there. Give it a key: citybrain keys issue {found.name}")


def list_keys(context: typer.Context, *, json: JsonFlag = False) -> None:
    """All keys without their secrets, or `issue` and `revoke` one.

    Example: `citybrain keys`
    """
    if context.invoked_subcommand:
        return
    with client() as city:
        found = city.keys()
    if json:
        show_json(found)
        return
    show_table(
        "Keys", ["id", "department", "role", "purposes", "note", "ends", "revoked"],
        [[k.id, k.department, k.role, ", ".join(k.purposes), k.note, k.expires_at, k.revoked_at]
         for k in found],
    )  # fmt: skip


def issue_key(
    department: str,
    role: Annotated[
        str, typer.Option(help="department, developer, auditor or admin.")
    ] = "department",
    purpose: Annotated[list[str] | None, typer.Option(help="Repeat for several.")] = None,
    note: Annotated[str, typer.Option(help="Who holds it.")] = "",
    *,
    json: JsonFlag = False,
) -> None:
    """Issue a key; its secret is shown once.

    Example: `citybrain keys issue tourism --note "visitor app"`
    """
    wanted: Role = role  # type: ignore[assignment]
    new = _checked(department, wanted, purpose or ["operation"], note)
    with client() as city:
        found = city.add_key(new)
    if json:
        show_json(found)
        return
    screen.print(found.secret, markup=False, soft_wrap=True)
    screen.print(f"Keep it: it is shown once. Id {found.id}.", style="dim")


def _checked(department: str, role: Role, purposes: list[str], note: str) -> NewKey:
    from pydantic import ValidationError

    from citybrain.core.errors import InvalidInput

    try:
        return NewKey(department=department, role=role, purposes=purposes, note=note)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise InvalidInput(f"{'.'.join(map(str, first['loc']))}: {first['msg']}.") from error


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
