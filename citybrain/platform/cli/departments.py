"""Commands about departments and the tree that they make."""

from __future__ import annotations

from typing import Annotated

import typer

from citybrain.core.errors import InvalidInput
from citybrain.core.schemas import Department, DepartmentChange
from citybrain.core.schemas.people import TIERS, Tier
from citybrain.platform.cli.output import JsonFlag, client, screen, show_json, show_table

Parent = Annotated[str | None, typer.Option(help="The department above it; '' for none.")]
TierOption = Annotated[
    str | None, typer.Option("--tier", help="city, district or township; else its parent's.")
]
Under = Annotated[str, typer.Option(help="This department and all below it.")]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    departments = typer.Typer(help="Departments.", invoke_without_command=True)
    departments.callback()(list_departments)
    departments.command("add")(add_department)
    departments.command("change")(change_department)
    departments.command("tree")(show_tree)
    app.add_typer(departments, name="departments")


def list_departments(context: typer.Context, under: Under = "", *, json: JsonFlag = False) -> None:
    """All departments; `add` one, `change` one, or see the `tree`.

    Example: `citybrain departments --under west-lake`
    """
    if context.invoked_subcommand:
        return
    with client() as city:
        found = city.departments(under)
    if json:
        show_json(found)
        return
    show_table(
        "Departments", ["name", "中文", "English", "tier", "below"],
        [[d.name, d.title_zh, d.title_en, d.tier, d.parent] for d in found],
    )  # fmt: skip


def add_department(
    name: str,
    zh: Annotated[str, typer.Option(help="Name in Chinese.")] = "",
    en: Annotated[str, typer.Option(help="Name in English.")] = "",
    parent: Parent = None,
    tier: TierOption = None,
    *,
    json: JsonFlag = False,
) -> None:
    """Add a department, at the top or below another.

    Examples: `citybrain departments add tourism --zh 文旅局 --en "Culture and Tourism"`,
    `citybrain departments add west-lake --zh 西湖区 --parent city-hall --tier district`
    """
    with client() as city:
        found = city.add_department(name, zh, en, parent=parent or "", tier=_tier(tier))
    if json:
        show_json(found)
    else:
        screen.print(f"{found.name} is there. Give it a key: citybrain keys issue {found.name}")


def change_department(
    name: str,
    zh: Annotated[str | None, typer.Option(help="Name in Chinese.")] = None,
    en: Annotated[str | None, typer.Option(help="Name in English.")] = None,
    parent: Parent = None,
    tier: TierOption = None,
    *,
    json: JsonFlag = False,
) -> None:
    """Give a department another title, or another place in the tree.

    Example: `citybrain departments change west-lake --parent city-hall --tier district`
    """
    change = DepartmentChange(title_zh=zh, title_en=en, parent=parent, tier=_tier(tier))
    if not change.model_dump(exclude_none=True):
        raise InvalidInput(
            "There is nothing to change.", hint="Say --parent, --tier, --zh or --en."
        )
    with client() as city:
        found = city.change_department(name, change)
    if json:
        show_json(found)
    else:
        place = f"below {found.parent}" if found.parent else "at the top"
        screen.print(f"{found.name} is {place}, of the tier {found.tier}.")


def show_tree(under: Under = "", *, json: JsonFlag = False) -> None:
    """The departments as a tree: city, districts, townships.

    Example: `citybrain departments tree`
    """
    from rich.tree import Tree

    with client() as city:
        found = city.departments(under)
    if json:
        show_json(found)
        return
    names = {one.name for one in found}
    tops = [one for one in found if one.parent not in names]

    def grow(branch: Tree, one: Department) -> None:
        titles = " ".join(dict.fromkeys((one.title_zh, one.title_en)))
        leaf = branch.add(f"{one.name}  [dim]{titles}, {one.tier}[/]")
        for below in found:
            if below.parent == one.name:
                grow(leaf, below)

    tree = Tree("", hide_root=True)
    for top in tops:
        grow(tree, top)
    screen.print(tree)


def _tier(said: str | None) -> Tier | None:
    for tier in TIERS:
        if said == tier:
            return tier
    if said is None:
        return None
    raise InvalidInput(f"{said[:40]!r} is no tier.", hint=f"From the top: {', '.join(TIERS)}.")
