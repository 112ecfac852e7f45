"""Commands to ask for grants and answer, to stop things at once, and to stay with a version."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from citybrain.core.names import parse_ref
from citybrain.core.schemas.grants import (
    NewGrantRequest,
    NewSuspension,
)
from citybrain.platform.cli.output import JsonFlag, checked, client, screen, show_json, show_table


def add_requests(grants: typer.Typer) -> None:
    """Add the commands of `citybrain grants` that are about requests."""
    grants.command("ask")(ask)
    grants.command("requests")(list_requests)
    grants.command("approve")(approve)
    grants.command("refuse")(refuse)
    grants.command("withdraw")(withdraw)


def add_to(app: typer.Typer) -> None:
    """Add the others."""
    for command in (suspend, lift, pin, unpin, notices):
        app.command()(command)


def ask(
    algorithm: str,
    reason: Annotated[str, typer.Option(help="What it is needed for, in a sentence.")],
    department: Annotated[str, typer.Option(help="Without: the key's own.")] = "",
    purpose: Annotated[str, typer.Option(help="One of those that the card names.")] = "operation",
    scenario: Annotated[str, typer.Option(help="The business scenario.")] = "",
    basis: Annotated[str, typer.Option(help="The legal basis.")] = "",
    until: Annotated[str, typer.Option(help="With offset: 2027-06-30T00:00+08:00.")] = "",
    view: Annotated[bool, typer.Option("--view", help="It is a feature view.")] = False,
    column: Annotated[list[str] | None, typer.Option(help="Of a view; repeat.")] = None,
    *,
    json: JsonFlag = False,
) -> None:
    """Ask the owner of an algorithm for a grant.

    Example: `citybrain grants ask crowd-level --reason "crowds at the lake" --scenario scenic-crowd`
    """
    with client() as city:
        whose = department or str(city.call("GET", "/api/v1/me")["department"])
        said: dict[str, Any] = {
            "department": whose, "algorithm": algorithm, "reason": reason, "purpose": purpose,
            "scenario": scenario, "basis": basis, "until": until or None,
            "kind": "view" if view else "algorithm", "columns": column or [],
        }  # fmt: skip
        found = city.ask_grant(checked(NewGrantRequest, **said))
    if json:
        show_json(found)
    else:
        screen.print(f"{whose} asks for {algorithm} (request {found.id}); its owner answers.")


def list_requests(
    state: Annotated[str, typer.Option(help="waiting, approved, refused, withdrawn.")] = "",
    *,
    json: JsonFlag = False,
) -> None:
    """Requests of this department and about its algorithms.

    Example: `citybrain grants requests --state waiting`
    """
    with client() as city:
        found = city.grant_requests(state)
    if json:
        show_json(found)
        return
    show_table(
        "Requests", ["id", "department", "asks for", "purpose", "scenario", "until", "why", "state", "answer"],
        [[r.id, r.department, r.algorithm, r.purpose, r.scenario, f"{r.until:%Y-%m-%d}" if r.until else "",
          r.reason, r.state, r.answer] for r in found],
    )  # fmt: skip


def approve(
    request_id: str, answer: Annotated[str, typer.Option(help="What to say.")] = ""
) -> None:
    """Say yes to a request: the department may call at once.

    Example: `citybrain grants approve 5f0c2a9b1d3e`
    """
    with client() as city:
        found = city.decide_grant(request_id, "approve", answer)
    screen.print(f"{found.department} may use {found.algorithm} (grant {found.grant_id}).")


def refuse(request_id: str, answer: Annotated[str, typer.Option(help="Why.")]) -> None:
    """Say no to a request, and why.

    Example: `citybrain grants refuse 5f0c2a9b1d3e --answer "ask for the aggregates"`
    """
    with client() as city:
        city.decide_grant(request_id, "refuse", answer)
    screen.print(f"{request_id} is refused.")


def withdraw(request_id: str) -> None:
    """Take one's own request back.

    Example: `citybrain grants withdraw 5f0c2a9b1d3e`
    """
    with client() as city:
        city.decide_grant(request_id, "withdraw")
    screen.print(f"{request_id} is withdrawn.")


def suspend(
    kind: Annotated[str, typer.Argument(help="grant, algorithm, department or key.")],
    target: Annotated[str, typer.Argument(help="Its id or name.")],
    reason: Annotated[str, typer.Option(help="Callers read it.")],
    *,
    json: JsonFlag = False,
) -> None:
    """Stop something at once, at every door.

    Example: `citybrain suspend algorithm vehicle-detector --reason "wrong at night"`
    """
    new = checked(NewSuspension, kind=kind, target=target, reason=reason)
    with client() as city:
        found = city.suspend(new)
    if json:
        show_json(found)
    else:
        screen.print(f"{kind} {target} is suspended. Lift it: citybrain lift {found.id}")


def lift(
    suspension_id: Annotated[str, typer.Argument(help="Without: show them.")] = "",
    *,
    json: JsonFlag = False,
) -> None:
    """Let something go on that was suspended; without an id, show what is.

    Example: `citybrain lift 5f0c2a9b1d3e`
    """
    with client() as city:
        if suspension_id:
            found = city.lift(suspension_id)
            screen.print(f"{found.kind} {found.target} goes on.")
            return
        several = city.suspensions()
    if json:
        show_json(several)
        return
    show_table(
        "Suspended", ["id", "kind", "what", "reason", "by", "since"],
        [[s.id, s.kind, s.target, s.reason, s.suspended_by, s.at] for s in several],
        empty="Nothing is suspended.",
    )  # fmt: skip


def pin(
    ref: Annotated[str, typer.Argument(metavar="NAME@VERSION", help="Without: show them.")] = "",
    *,
    json: JsonFlag = False,
) -> None:
    """Stay with a version: this department's calls go to it, whatever the champion is.

    Example: `citybrain pin crowd-level@3`
    """
    with client() as city:
        if ref:
            wanted = parse_ref(ref)
            if wanted.version is None:
                raise typer.BadParameter("Write NAME@VERSION: crowd-level@3.")
            found = city.pin(wanted.algorithm, wanted.version)
            screen.print(f"{found.department} stays with {found.algorithm}@{found.version}.")
            return
        several = city.pins()
    if json:
        show_json(several)
        return
    show_table(
        "Pins", ["department", "algorithm", "version", "since"],
        [[p.department, p.algorithm, p.version, p.set_at] for p in several],
        empty="Everybody follows the champions.",
    )  # fmt: skip


def unpin(name: str) -> None:
    """Follow the champion of an algorithm again.

    Example: `citybrain unpin crowd-level`
    """
    with client() as city:
        city.unpin(name)
    screen.print(f"{name}: the champion again.")


def notices(
    *,
    unread: Annotated[bool, typer.Option("--unread", help="Only new ones.")] = False,
    read: Annotated[bool, typer.Option("--read", help="Mark all as read.")] = False,
    json: JsonFlag = False,
) -> None:
    """What this department should know: champions that change, what stops or ends, answers to requests.

    Example: `citybrain notices --unread`
    """
    with client() as city:
        found = city.notices(unread=unread)
        if read:
            city.read_notices()
    if json:
        show_json(found)
        return
    show_table(
        "Notices", ["id", "when", "what", "about", "detail"],
        [[n.id, f"{n.at:%Y-%m-%d %H:%M}", n.kind, n.target,
          ", ".join(f"{k}={v}" for k, v in n.detail.items())] for n in found],
    )  # fmt: skip
