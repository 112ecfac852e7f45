"""Commands about limits."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from citybrain.core.schemas.quotas import AllotmentUse, NewAllotment, NewQuota
from citybrain.platform.cli.output import JsonFlag, checked, client, screen, show_json, show_table


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    quotas = typer.Typer(help="What departments may use.", invoke_without_command=True)
    quotas.callback()(list_quotas)
    quotas.command("set")(set_quota)
    quotas.command("end")(end_quota)
    quotas.command("allot")(allot)
    quotas.command("allotments")(list_allotments)
    app.add_typer(quotas, name="quotas")


def list_quotas(context: typer.Context, *, json: JsonFlag = False) -> None:
    """Limits and what is used of them, or `set`, `end`, `allot` and `allotments`.

    Example: `citybrain quotas`
    """
    if context.invoked_subcommand:
        return
    with client() as city:
        found = city.quotas()
    if json:
        show_json(found)
        return
    show_table(
        "Limits", ["id", "department", "algorithm", "limit", "used", "left", "begins anew"],
        [
            [
                use.quota.id, use.quota.department, use.quota.algorithm or "all",
                f"{use.quota.amount:g} {use.quota.unit} {_per(use.quota.per)}",
                "" if use.quota.per == "second" else f"{use.used:g}",
                "" if use.quota.per == "second" else f"{use.left:g}", use.resets_at,
            ]
            for use in found
        ],
    )  # fmt: skip


def set_quota(
    department: str,
    amount: float,
    unit: Annotated[
        str,
        typer.Option(help="requests, rows, images, audio-seconds, texts, series, cpu-seconds …"),
    ] = "requests",
    per: Annotated[
        str, typer.Option(help="second, day, month, or once: at the same time.")
    ] = "day",
    algorithm: Annotated[str, typer.Option(help="Without: all of them together.")] = "",
    burst: Annotated[float, typer.Option(help="Of a limit per second: so many at once.")] = 0.0,
    *,
    json: JsonFlag = False,
) -> None:
    """Set a limit, in place of the one for the same algorithm, unit and period.

    Example: `citybrain quotas set tourism 10000 --per day --algorithm crowd-level`
    """
    said: dict[str, Any] = {
        "department": department, "amount": amount, "unit": unit, "per": per,
        "algorithm": algorithm, "burst": burst,
    }  # fmt: skip
    new = checked(NewQuota, **said)
    with client() as city:
        found = city.set_quota(new)
    if json:
        show_json(found)
    else:
        screen.print(f"{department}: {amount:g} {unit} {_per(per)} (limit {found.id}).")


def end_quota(quota_id: str) -> None:
    """Take a limit away.

    Example: `citybrain quotas end 5f0c2a9b1d3e`
    """
    with client() as city:
        city.end_quota(quota_id)
    screen.print(f"{quota_id} has ended.")


def allot(
    department: str,
    replicas: Annotated[int | None, typer.Option(help="Replicas of all its deployments.")] = None,
    cpus: Annotated[float | None, typer.Option(help="CPUs of all of them.")] = None,
    gpus: Annotated[float | None, typer.Option(help="GPUs of all of them.")] = None,
    memory: Annotated[int | None, typer.Option(help="Bytes of all of them.")] = None,
    *,
    json: JsonFlag = False,
) -> None:
    """Say what a department's deployments may take together; what is left out has no limit.

    Example: `citybrain quotas allot traffic --replicas 8 --cpus 8`
    """
    said: dict[str, Any] = {"replicas": replicas, "cpus": cpus, "gpus": gpus, "memory": memory}
    new = checked(NewAllotment, **said)
    with client() as city:
        found = city.allot(department, new)
    if json:
        show_json(found)
    else:
        limits = [f"{value:g} {name}" for name, value in said.items() if value is not None]
        screen.print(
            f"{department}'s deployments may take {', '.join(limits) or 'what they like'}."
        )


def list_allotments(*, json: JsonFlag = False) -> None:
    """What departments' deployments may take together, and what they take.

    Example: `citybrain quotas allotments`
    """
    with client() as city:
        found = city.allotments()
    if json:
        show_json(found)
        return
    kinds = ("replicas", "cpus", "gpus", "memory")
    show_table(
        "Taken of what is allotted", ["department", *kinds],
        [[use.allotment.department, *(_of(use, kind) for kind in kinds)] for use in found],
    )  # fmt: skip


def _of(use: AllotmentUse, kind: str) -> str:
    most = getattr(use.allotment, kind)
    return f"{getattr(use.taken, kind):.10g}" + ("" if most is None else f" of {most:.10g}")


def _per(per: str) -> str:
    return "at the same time" if per == "once" else f"a {per}"
