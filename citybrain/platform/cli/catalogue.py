"""Commands of the catalogue: algorithms, scenarios, evaluate, promote, rollback."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from citybrain.core.errors import InvalidInput
from citybrain.core.names import parse_ref
from citybrain.core.schemas import AlgorithmPage, Caller, Evaluation, Promotion, PromotionNotice
from citybrain.platform.cli.lifecycle import Yes, show_callers
from citybrain.platform.cli.output import (
    JsonFlag,
    client,
    existing,
    plain,
    progress,
    screen,
    show_json,
    show_table,
)


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (algorithms, scenarios, evaluate, promote, rollback):
        app.command()(command)


def algorithms(
    name: Annotated[str, typer.Argument(help="One algorithm; nothing: all.")] = "",
    approval: Annotated[str, typer.Option(help="Set who approves: self or four-eyes.")] = "",
    *,
    json: JsonFlag = False,
) -> None:
    """The catalogue, or one algorithm with its versions.

    Example: `citybrain algorithms hotline-router`
    """
    with client() as city:
        if approval:
            if approval not in ("self", "four-eyes"):
                raise InvalidInput("--approval is self or four-eyes.")
            city.set_approval(name, approval)
        if name:
            page = city.algorithm(name)
            if json:
                show_json(page)
                return
            found = page.algorithm
            screen.print(f"[bold]{found.name}[/]  {found.title_zh} · {found.title_en}")
            screen.print(f"{found.task}, {found.domain}, owner {found.owner}, {found.licence}")
            show_table(
                "Versions", ["version", "aliases", "registered", "metrics", "problem"],
                [
                    [
                        v.version, ", ".join(v.aliases), f"{v.created_at:%Y-%m-%d %H:%M}",
                        ", ".join(f"{k} {x:.4g}" for k, x in sorted(v.metrics.items())[:6]),
                        v.problem or _ending(page, v.version),
                    ]
                    for v in page.versions
                ],
            )  # fmt: skip
            return
        everything = city.algorithms()
    if json:
        show_json(everything)
        return
    show_table(
        "Algorithms", ["name", "title", "task", "domain", "owner", "latest", "aliases"],
        [
            [a.name, f"{a.title_zh} {a.title_en}", a.task, a.domain, a.owner, a.latest,
             ", ".join(f"{k}→{v}" for k, v in sorted(a.aliases.items()))]
            for a in everything
        ],
        empty="No algorithms yet. Install the starters with: citybrain demo",
    )  # fmt: skip


def _ending(page: AlgorithmPage, version: int) -> str:
    for end in page.ends:
        if end.version == version:
            return f"withdrawn: {end.reason}"
    for one in page.retirements:
        if one.version in (0, version):
            return f"retired, sunset {one.sunset:%Y-%m-%d %H:%M} UTC"
    for failure in page.failures:
        if failure.version == version:
            return f"did not start: {(failure.message.splitlines() or [''])[0]}"
    return ""


def scenarios(
    name: Annotated[str, typer.Argument(help="One scenario's league table.")] = "",
    *,
    json: JsonFlag = False,
) -> None:
    """Business scenarios and their gates, or one scenario's league table.

    Example: `citybrain scenarios evening-peak`
    """
    with client() as city:
        if name:
            league = city.league(name)
            if json:
                show_json(league)
                return
            show_table(
                f"League table of {name}", ["algorithm", "version", "figures", "gate", "when"],
                [[e.algorithm, e.version, _figures(e), "passed" if e.passed else "failed",
                  f"{e.created_at:%Y-%m-%d %H:%M}"] for e in league],
                empty=f"Nobody was examined yet: citybrain evaluate {name} --algorithm NAME",
            )  # fmt: skip
            return
        found = city.scenarios()
    if json:
        show_json(found)
        return
    show_table(
        "Scenarios", ["name", "title", "domain", "task", "gate"],
        [[s.name, f"{s.title_zh} {s.title_en}", s.domain, s.task, "; ".join(s.gate)]
         for s in found],
    )  # fmt: skip


def evaluate(
    scenario: Annotated[str, typer.Argument(help="A scenario; `citybrain scenarios` lists them.")],
    algorithm: Annotated[str, typer.Option(help="NAME, NAME@alias or NAME@version.")],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Other data than the scenario's own, in the task's format (see `train --help`). "
            "Counts as a measurement, not as evidence for promotion."
        ),
    ] = None,
    *,
    json: JsonFlag = False,
) -> None:
    """Examine a version in a business scenario: figures with intervals, slices, gate.

    Example: `citybrain evaluate evening-peak --algorithm traffic-flow@challenger`
    """
    ref = parse_ref(algorithm)
    path = str(existing(data, "data")) if data else ""
    with client() as city, progress(f"evaluating {ref}", hidden=json) as watch:
        found = city.evaluate(scenario, ref.algorithm, ref.target, path, watch)
    metrics = found.report["metrics"]
    if json:
        values = {
            name: {key: metric[key] for key in ("value", "low", "high")}
            for name, metric in metrics.items()
        }
        show_json(values)
        return
    baseline, champion = found.report["baseline"]["metrics"], found.report["champion"]
    show_table(
        f"{found.algorithm}@{found.version} in {scenario}, {found.report['items']} items",
        ["metric", "value", "95 % interval", found.report["baseline"]["name"], "champion"],
        [
            [name, f"{m['value']:.4g}", f"{m['low']:.4g} to {m['high']:.4g}",
             f"{baseline[name]:.4g}", f"{champion[name]:.4g}" if champion else ""]
            for name, m in metrics.items()
        ],
    )  # fmt: skip
    show_table(
        "Slices", ["slice", "items", *metrics],
        [[label, int(row["items"]), *(f"{row[name]:.4g}" for name in metrics)]
         for label, row in found.report["slices"].items()],
    )  # fmt: skip
    for rule in found.report["gate"]:
        screen.print(("[green]✓[/] " if rule["passed"] else "[red]✗[/] ") + rule["says"])
    screen.print("Gate passed." if found.passed else "Gate not passed.")


def _figures(found: Evaluation) -> str:
    return ", ".join(f"{k} {m['value']:.4g}" for k, m in found.report["metrics"].items())


def promote(
    name: Annotated[
        str, typer.Argument(help="NAME (its challenger), NAME@version or NAME@alias.")
    ] = "",
    alias: Annotated[
        str, typer.Option(help="The alias to move: champion, or an environment like staging.")
    ] = "champion",
    approve: Annotated[str, typer.Option(help="Approve this waiting promotion instead.")] = "",
    withdraw: Annotated[str, typer.Option(help="Withdraw this waiting promotion instead.")] = "",
    *,
    waiting: Annotated[bool, typer.Option(help="List what waits for approval instead.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would change, and who calls it.")
    ] = False,
    yes: Yes = False,
    json: JsonFlag = False,
) -> None:
    """Put a version behind an alias, if its gate is passed and the approval rule is met.

    Before the champion changes it shows who called in the last 30 days and, at a terminal, asks.

    Examples: `citybrain promote traffic-flow`, then `citybrain promote --approve ID`;
    `citybrain promote traffic-flow@staging --alias city`
    """
    with client() as city:
        if waiting:
            _show_waiting(city.promotions("waiting"), json=json)
            return
        if withdraw:
            done, facts = city.withdraw(withdraw), {}
        elif approve:
            asked = city.promotion(approve)
            callers = city.callers(asked.algorithm) if asked.alias == "champion" else []
            facts = {"callers": plain(callers)}
            if asked.alias == "champion":
                _before(asked.algorithm, asked.version, callers, yes=yes, json=json)
            done = city.approve(approve)
        else:
            ref = parse_ref(name)
            wanted = (ref.algorithm, ref.version, alias, ref.target if not ref.version else "")
            seen = city.promotion_notice(*wanted)
            if dry_run:
                _show_notice(seen, json=json)
                return
            facts = {"callers": plain(seen.callers)}
            if alias == "champion":
                _before(seen.algorithm, seen.version, seen.callers, yes=yes, json=json)
            done = city.promote(*wanted, expected=seen.previous)
    if json:
        show_json({**plain(done), **facts})
    elif done.state == "waiting":
        screen.print(f"{done.algorithm}@{done.version} waits for approval by another key:")
        screen.print(f"  citybrain promote --approve {done.id}")
    else:
        screen.print(f"Promotion {done.id} is {done.state}: {done.algorithm}@{done.alias} → "
                     f"version {done.version}.")  # fmt: skip


def _before(name: str, version: int, callers: list[Caller], *, yes: bool, json: bool) -> None:
    """Who is affected stands on the screen before the champion changes; a person may turn back."""
    if not json:
        show_callers(name, callers)
    if not yes and sys.stdin.isatty():
        typer.confirm(f"Make version {version} the champion of {name}?", abort=True, err=True)


def _show_notice(seen: PromotionNotice, *, json: bool) -> None:
    if json:
        show_json(seen)
        return
    before = f"version {seen.previous}" if seen.previous else "no version"
    screen.print(f"{seen.algorithm}@{seen.alias} points to {before}; version {seen.version} may "
                 f"follow (approval: {seen.approval}).")  # fmt: skip
    show_callers(seen.algorithm, seen.callers)


def _show_waiting(found: list[Promotion], *, json: bool) -> None:
    if json:
        show_json(found)
        return
    show_table(
        "Waiting promotions", ["id", "algorithm", "alias", "version", "asked by"],
        [[p.id, p.algorithm, p.alias, p.version, p.asked_by] for p in found],
        empty="Nothing waits for approval.",
    )  # fmt: skip


def rollback(
    name: Annotated[str, typer.Argument(help="An algorithm.")],
    alias: Annotated[str, typer.Option(help="The alias to move back.")] = "champion",
    *,
    json: JsonFlag = False,
) -> None:
    """Point an alias to the version before, past withdrawn and retired ones.

    Example: `citybrain rollback traffic-flow`
    """
    with client() as city:
        moved = city.roll_back(name, alias)
    if json:
        show_json(moved)
    else:
        screen.print(f"{name}@{alias} points to version {moved.version} again: {moved.reason}.")
