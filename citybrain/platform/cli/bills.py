"""Commands about prices, statements, own calls, ratings, and how scenarios are used."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from citybrain.core.schemas.bills import YUAN, NewPrice
from citybrain.platform.cli.output import JsonFlag, checked, client, screen, show_json, show_table


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    prices = typer.Typer(help="The price book.", invoke_without_command=True)
    prices.callback()(list_prices)
    prices.command("set")(set_price)
    app.add_typer(prices, name="prices")
    for command in (bill, income, calls, rate, operation):
        app.command()(command)


def list_prices(context: typer.Context, *, json: JsonFlag = False) -> None:
    """The price book with its versions, or `set` a new one.

    Example: `citybrain prices`
    """
    if context.invoked_subcommand:
        return
    with client() as city:
        found = city.prices()
    if json:
        show_json(found)
        return
    show_table(
        "Prices", ["algorithm", "unit", "version", "yuan", "since", "note"],
        [[p.algorithm or "all others", p.unit, p.version, f"{p.micros / YUAN:g}", p.begins, p.note]
         for p in found],
        empty="Nothing has a price.",
    )  # fmt: skip


def set_price(
    yuan: float,
    unit: Annotated[str, typer.Option(help="requests, rows, images, audio-seconds …")] = "requests",
    algorithm: Annotated[str, typer.Option(help="Without: all that have no own line.")] = "",
    begins: Annotated[str, typer.Option(help="With offset; without: now.")] = "",
    note: Annotated[str, typer.Option(help="Why, or by which decision.")] = "",
) -> None:
    """Set what one unit costs from now, or from a moment to come.

    Example: `citybrain prices set 0.002 --unit audio-seconds --algorithm spoken-digits`
    """
    said: dict[str, Any] = {
        "yuan": yuan, "unit": unit, "algorithm": algorithm, "begins": begins or None, "note": note,
    }  # fmt: skip
    with client() as city:
        found = city.set_price(checked(NewPrice, **said))
    screen.print(f"Version {found.version}: {yuan:g} yuan for one of {unit}, from {found.begins}.")


def bill(
    department: str,
    month: Annotated[str, typer.Argument(help="2026-11")],
    line: Annotated[int, typer.Option(help="Show the calls behind this line.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write the statement as CSV.")] = None,
    *,
    issue: Annotated[bool, typer.Option("--issue", help="Fix a month that is over.")] = False,
    json: JsonFlag = False,
) -> None:
    """A department's month: each line leads to its calls and to the version of its price.

    Example: `citybrain bill tourism 2026-11 --line 2`
    """
    with client() as city:
        if out is not None:
            screen.print(f"Written: {city.statement_csv(department, month, out)}")
            return
        if line:
            behind = city.calls_of_line(department, month, line)
            if json:
                show_json(behind)
                return
            show_table(
                f"Calls of line {line}", ["request", "when", "version", "rows", "amount"],
                [[c.request_id, c.at, c.version, c.rows, f"{c.amount:g} {c.unit}"] for c in behind],
            )  # fmt: skip
            return
        found = (
            city.issue_statement(department, month) if issue else city.statement(department, month)
        )
    if json:
        show_json(found)
        return
    show_table(
        f"{department}, {month}",
        ["line", "algorithm", "purpose", "scenario", "quantity", "unit", "price", "version", "yuan"],
        [[n.number, n.algorithm, n.purpose, n.scenario, f"{n.quantity:g}", n.unit,
          f"{n.price_micros / YUAN:g}", n.price_version, f"{n.micros / YUAN:.6f}"] for n in found.lines],
        empty="No call was answered.",
    )  # fmt: skip
    screen.print(
        f"{found.micros / YUAN:.6f} yuan for {found.requests} calls; {found.failed} failed, free."
    )


def income(
    month: Annotated[str, typer.Argument(help="2026-11")],
    owner: Annotated[str, typer.Option(help="For admins: another department.")] = "",
    *,
    json: JsonFlag = False,
) -> None:
    """Who used this department's algorithms, and what they owe for it.

    Example: `citybrain income 2026-11`
    """
    with client() as city:
        found = city.income(month, owner)
    if json:
        show_json(found)
        return
    show_table(
        "Reuse and income", ["algorithm", "department", "calls", "yuan"],
        [[i.algorithm, i.department, i.requests, f"{i.micros / YUAN:.6f}"] for i in found],
    )  # fmt: skip


def calls(
    algorithm: Annotated[str, typer.Argument(help="Without: all.")] = "",
    since: Annotated[str, typer.Option(help="2026-11-20, or a moment.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    *,
    failed: Annotated[bool, typer.Option("--failed", help="Only those without an answer.")] = False,
    json: JsonFlag = False,
) -> None:
    """This department's own calls, newest first.

    Example: `citybrain calls crowd-level --failed`
    """
    with client() as city:
        found = city.calls(algorithm, failed=failed, since=since, limit=limit)
    if json:
        show_json(found)
        return
    show_table(
        "Calls", ["request", "when", "algorithm", "version", "purpose", "door", "status", "ms"],
        [[c.request_id, f"{c.at:%Y-%m-%d %H:%M:%S}", c.algorithm, c.version, c.purpose, c.door,
          c.status, f"{c.micros / 1000:.1f}"] for c in found],
    )  # fmt: skip


def rate(
    request_id: str,
    stars: Annotated[int, typer.Argument(min=1, max=5)],
    reason: Annotated[str, typer.Option(help="Why.")] = "",
) -> None:
    """Say what an answer was worth, 1 to 5.

    Example: `citybrain rate 0194f3… 2 --reason "wrong lake"`
    """
    with client() as city:
        found = city.rate(request_id, stars, reason)
    screen.print(f"{found.algorithm}@{found.version}: {'★' * stars}")


def operation(
    scenario: Annotated[str, typer.Argument(help="Without: algorithms that few use.")] = "",
    *,
    json: JsonFlag = False,
) -> None:
    """How a scenario is used: departments, callers, errors, satisfaction, weeks.

    Example: `citybrain operation scenic-crowd`
    """
    with client() as city:
        if not scenario:
            low = city.low_use()
            if json:
                show_json(low)
                return
            show_table(
                "Hardly used in 30 days", ["algorithm", "owner", "calls", "departments", "last"],
                [[n.algorithm, n.owner, n.requests, n.departments, n.last_day] for n in low],
                empty="Every algorithm is used.",
            )  # fmt: skip
            return
        found = city.operation(scenario)
    if json:
        show_json(found)
        return
    stars = "none" if found.satisfaction is None else f"{found.satisfaction:.2f}"
    screen.print(
        f"{scenario}: {found.registered} departments registered, {found.active_day} active today, "
        f"{found.active_week} this week (use rate {found.use_rate:.0%}); {found.requests} calls in 30 "
        f"days, {found.error_rate:.2%} failed; satisfaction {stars} of 5 ({found.ratings} ratings)."
    )
    show_table(
        "Weeks", ["ends", "departments", "calls", "failed", "stars"],
        [[w.ends, w.active, w.requests, w.failed, w.stars] for w in found.trend],
    )  # fmt: skip
