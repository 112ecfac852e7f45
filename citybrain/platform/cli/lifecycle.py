"""Commands of a version's later life: lineage, as-of, card, retire, withdraw, delete."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.tree import Tree

from citybrain.core.errors import InvalidInput
from citybrain.core.names import Ref, parse_ref
from citybrain.core.schemas import Caller, LineageGraph
from citybrain.platform.cli.output import (
    JsonFlag,
    client,
    plain,
    screen,
    show_json,
    show_table,
)
from citybrain.platform.cli.rollouts import traffic_rows
from citybrain.sdk import CityBrain

Target = Annotated[str, typer.Argument(help="NAME, NAME@alias or NAME@version.")]
OneVersion = Annotated[str, typer.Argument(help="NAME@version.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (lineage, card, retire, withdraw, delete):
        app.command()(command)
    app.command("as-of")(as_of)


def lineage(
    name: Annotated[str, typer.Argument(help="NAME, NAME@alias or NAME@version.")] = "",
    data_digest: Annotated[
        str, typer.Option(help="Start from a data set's SHA-256 (8 digits or more) instead.")
    ] = "",
    *,
    json: JsonFlag = False,
) -> None:
    """Where versions come from and who uses them: data, recipe, version, deployment, department.

    Example: `citybrain lineage traffic-flow@champion`
    """
    with client() as city:
        if data_digest:
            found = city.lineage_of_data(data_digest)
            if json:
                show_json(found)
            else:
                _show_tree(f"data {data_digest}", found)
            return
        ref = parse_ref(name)
        version = city.version(ref.algorithm, ref.target or "challenger") if ref.target else None
        found = city.lineage(ref.algorithm, version.version if version else None)
        moves = city.alias_history(ref.algorithm)
    if json:
        facts = {"version": plain(version)} if version else {}
        show_json({**facts, **plain(found), "aliases": plain(moves)})
        return
    _show_tree(name, found)
    show_table(
        "Alias moves", ["when", "alias", "version", "before", "why", "by"],
        [[f"{m.at:%Y-%m-%d %H:%M:%S}", m.alias, m.version or "", m.previous or "", m.reason,
          m.moved_by] for m in moves],
    )  # fmt: skip


def _show_tree(title: str, graph: LineageGraph) -> None:
    """From the first causes down; what was shown above is named and not repeated."""
    nodes = {node.id: node for node in graph.nodes}
    children: dict[str, list[tuple[str, str]]] = {name: [] for name in nodes}
    for edge in graph.edges:
        children[edge.source].append((edge.target, edge.says))
    below = {edge.target for edge in graph.edges}
    shown: set[str] = set()

    def grow(branch: Tree, name: str, says: str) -> None:
        node = nodes[name]
        facts = ", ".join(f"{key} {value[:16]}" for key, value in node.facts.items())
        text = f"[dim]{says}[/] " if says else ""
        text += f"[bold]{node.name}[/] ({node.kind}{', ' + facts if facts else ''})"
        if name in shown and children[name]:
            branch.add(f"{text} [dim]… as above[/]")
            return
        shown.add(name)
        twig = branch.add(text)
        for child, said in children[name]:
            grow(twig, child, said)

    tree = Tree(f"[bold]{title}[/]")
    for name in nodes:
        if name not in below:
            grow(tree, name, "")
    screen.print(tree)


def as_of(
    at: Annotated[str, typer.Argument(help="A moment: 2026-11-20T10:00, in the city's time.")],
    algorithm: Annotated[str, typer.Option(help="Only this algorithm.")] = "",
    *,
    json: JsonFlag = False,
) -> None:
    """Aliases, deployments, traffic and grants as they were at a moment, and who had set them.

    Example: `citybrain as-of 2026-11-20T10:00 --algorithm traffic-flow`
    """
    with client() as city:
        found = city.as_of(at, algorithm)
    if json:
        show_json(found)
        return
    screen.print(f"As of {found.at.isoformat()}")
    show_table(
        "Aliases", ["algorithm", "alias", "version", "why", "by", "since"],
        [[a.algorithm, a.alias, a.version, a.reason, a.moved_by, f"{a.at:%Y-%m-%d %H:%M:%S}"]
         for a in found.aliases],
        empty="No alias pointed anywhere.",
    )  # fmt: skip
    show_table(
        "Deployments", ["algorithm", "target", "wanted", "by", "answering", "since"],
        [[d.algorithm, d.target, d.wanted_replicas if d.wanted else "no", d.moved_by,
          f"version {d.version}" if d.version else "nothing",
          f"{d.since:%Y-%m-%d %H:%M:%S}" if d.since else ""] for d in found.deployments],
        empty="Nothing was deployed.",
    )  # fmt: skip
    show_table(
        "Traffic", ["algorithm", "target", "calls", "role", "by", "since"],
        [[t.algorithm, *row, t.moved_by, f"{t.at:%Y-%m-%d %H:%M:%S}"]
         for t in found.traffic for row in traffic_rows(t)],
        empty="All calls went to the champions.",
    )  # fmt: skip
    show_table(
        "Grants", ["department", "algorithm", "purpose", "until", "by", "since"],
        [[g.department, g.algorithm, g.purpose, g.until or "", g.moved_by,
          f"{g.at:%Y-%m-%d %H:%M:%S}"] for g in found.grants],
        empty="No grant was in force.",
    )  # fmt: skip
    show_table(
        "Waiting promotions", ["id", "algorithm", "alias", "version", "asked by", "since"],
        [[p.id, p.algorithm, p.alias, p.version, p.moved_by, f"{p.at:%Y-%m-%d %H:%M:%S}"]
         for p in found.waiting],
        empty="No promotion waited.",
    )  # fmt: skip


def card(
    name: Target,
    lang: Annotated[str, typer.Option(help="zh or en.")] = "en",
    out: Annotated[Path | None, typer.Option(help="Write it to this Markdown file.")] = None,
    *,
    json: JsonFlag = False,
) -> None:
    """An algorithm's card: owner, licence, data, purposes, level, figures, limits.

    Example: `citybrain card traffic-flow@champion --lang zh --out traffic-flow.md`
    """
    from citybrain.platform.console.cards import as_markdown
    from citybrain.platform.console.texts import LANGUAGES

    language = next((one for one in LANGUAGES if one == lang), None)
    if language is None:
        raise InvalidInput("--lang is zh or en.")
    ref = parse_ref(name)
    with client() as city:
        found = city.card(ref.algorithm, ref.target)
    text = as_markdown(found, language)
    if out:
        out.write_text(text, encoding="utf-8")
    if json:
        show_json(found)
    elif out:
        screen.print(f"Wrote {out}.")
    else:
        print(text)


def retire(
    name: Target,
    sunset: Annotated[
        str, typer.Option(help="A date (served to its end) or moment; then calls are refused.")
    ] = "",
    replacement: Annotated[str, typer.Option(help="NAME to call instead.")] = "",
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show who calls it.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Take the notice back.")] = False,
    yes: Yes = False,
    json: JsonFlag = False,
) -> None:
    """Give notice to an algorithm's callers: answers say so, and end at the sunset.

    Example: `citybrain retire traffic-flow@2 --sunset 2027-03-31 --replacement traffic-flow`
    """
    with client() as city:
        ref = parse_ref(name)
        version = _number(city, ref)
        if undo:
            city.undo_retirement(ref.algorithm, version)
            screen.print(f"{ref} is no longer retired.")
            return
        if not (sunset or dry_run):
            raise InvalidInput("A retirement needs a date.", hint="Add: --sunset 2027-03-31")
        callers = city.callers(ref.algorithm, version)
        if not json:
            show_callers(str(ref), callers)
        if dry_run:
            if json:
                show_json(callers)
            return
        if not yes:
            typer.confirm(f"Retire {ref} on {sunset}?", abort=True, err=True)
        done = city.retire(ref.algorithm, sunset, version=version, replacement=replacement)
    if json:
        show_json({"retirement": plain(done), "callers": plain(callers)})
        return
    screen.print(f"{ref} is retired; calls are refused from {done.sunset.isoformat()} on.")
    screen.print(f"Take it back with: citybrain retire {ref} --undo")


def show_callers(name: str, callers: list[Caller]) -> None:
    """Who notices when something ends or changes."""
    show_table(
        f"Who called {name} in the last 30 days", ["department", "key", "calls", "last"],
        [[c.department, c.key, c.requests, f"{c.last:%Y-%m-%d %H:%M}"] for c in callers],
        empty=f"Nobody called {name} in the last 30 days.",
    )  # fmt: skip


def withdraw(
    name: OneVersion,
    reason: Annotated[str, typer.Option(help="What is wrong with it.")],
    *,
    json: JsonFlag = False,
) -> None:
    """Close a mistaken version: nobody may promote or deploy it any more.

    Example: `citybrain withdraw traffic-flow@3 --reason "trained on the wrong month"`
    """
    algorithm, version = _one_version(name)
    with client() as city:
        done = city.withdraw_version(algorithm, version, reason)
    if json:
        show_json(done)
    else:
        screen.print(f"{name} is withdrawn: {done.reason}")
        screen.print(f"Remove it for good with: citybrain delete {name}")


def delete(name: OneVersion, *, yes: Yes = False, json: JsonFlag = False) -> None:
    """Remove a withdrawn version and its files; history and audit stay.

    Example: `citybrain delete traffic-flow@3`
    """
    algorithm, version = _one_version(name)
    if not yes and typer.prompt(f"Type {name} to delete it", err=True) != name:
        raise InvalidInput("The name does not agree; nothing was deleted.")
    with client() as city:
        done = city.delete_version(algorithm, version)
    if json:
        show_json(done)
    else:
        screen.print(f"{name} is deleted.")


def _one_version(name: str) -> tuple[str, int]:
    ref = parse_ref(name)
    if not ref.version:
        raise InvalidInput(f"{name} names no version.", hint=f"Write the number: {ref.algorithm}@3")
    return ref.algorithm, ref.version


def _number(city: CityBrain, ref: Ref) -> int | None:
    if not ref.target:
        return None
    return ref.version or city.version(ref.algorithm, ref.target).version
