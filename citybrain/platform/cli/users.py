"""Commands about people who sign in to the console."""

from __future__ import annotations

from typing import Annotated

import typer

from citybrain.core.errors import InvalidInput
from citybrain.core.schemas import IssuedUser, NewUser, User, UserChange
from citybrain.platform.cli.output import (
    JsonFlag,
    checked,
    client,
    screen,
    show_json,
    show_table,
)

RoleOption = Annotated[
    str | None, typer.Option("--role", help="department, developer, auditor or admin.")
]
LevelOption = Annotated[
    str | None, typer.Option("--level", help="public, internal, sensitive or personal.")
]
Title = Annotated[str | None, typer.Option(help="How people call them.")]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    users = typer.Typer(help="People who sign in to the console.", invoke_without_command=True)
    users.callback()(list_users)
    for command, name in (
        (add_user, "add"), (change_user, "change"), (reset_user, "reset"),
        (disable_user, "disable"), (enable_user, "enable"),
    ):  # fmt: skip
        users.command(name)(command)
    app.add_typer(users, name="users")


def list_users(
    context: typer.Context,
    under: Annotated[str, typer.Option(help="Of this department and all below it.")] = "",
    *,
    json: JsonFlag = False,
) -> None:
    """People who sign in; `add`, `change`, `reset`, `disable` or `enable` one.

    Example: `citybrain users`
    """
    if context.invoked_subcommand:
        return
    with client() as city:
        found = city.users(under)
    if json:
        show_json(found)
        return
    show_table(
        "Users", ["name", "title", "department", "role", "level", "codes", "state", "sessions"],
        [[u.name, u.title, u.department, u.role, u.level, "yes" if u.second_factor else "", _state(u),
          u.sessions] for u in found],
        empty="Nobody yet. Let somebody in: citybrain users add NAME --department DEPARTMENT",
    )  # fmt: skip


def add_user(
    name: str,
    department: Annotated[str, typer.Option(help="Where they work.")],
    role: RoleOption = None,
    level: LevelOption = None,
    title: Title = None,
    *,
    json: JsonFlag = False,
) -> None:
    """Let a person in; the one-time password is shown once.

    Admins and auditors scan a picture with an authenticator app at their first sign-in.

    Example: `citybrain users add li-na --department tourism --role developer --title 李娜`
    """
    said = {"role": role, "level": level, "title": title}
    given = {field: value for field, value in said.items() if value is not None}
    new = checked(NewUser, name=name, department=department, **given)
    with client() as city:
        _show_password(city.add_user(new), json=json)


def change_user(
    name: str,
    department: Annotated[str | None, typer.Option(help="Where they work.")] = None,
    role: RoleOption = None,
    level: LevelOption = None,
    title: Title = None,
    *,
    json: JsonFlag = False,
) -> None:
    """Give a person another department, role, level or title; their sessions end.

    Example: `citybrain users change li-na --role admin --department platform`
    """
    change = checked(UserChange, department=department, role=role, level=level, title=title)
    if not change.model_dump(exclude_none=True):
        raise InvalidInput(
            "There is nothing to change.", hint="Say --department, --role, --level or --title."
        )
    with client() as city:
        _show(city.change_user(name, change), json=json)


def reset_user(name: str, *, json: JsonFlag = False) -> None:
    """A new one-time password for who lost theirs, or the device with their codes.

    Example: `citybrain users reset li-na`
    """
    with client() as city:
        _show_password(city.reset_user(name), json=json)


def disable_user(name: str, *, json: JsonFlag = False) -> None:
    """Let a person in no more; their sessions end at once.

    Example: `citybrain users disable li-na`
    """
    with client() as city:
        _show(city.disable_user(name), json=json)


def enable_user(name: str, *, json: JsonFlag = False) -> None:
    """Let a person in again, with the password and codes that they had.

    Example: `citybrain users enable li-na`
    """
    with client() as city:
        _show(city.enable_user(name), json=json)


def _show(user: User, *, json: bool) -> None:
    if json:
        show_json(user)
    else:
        screen.print(f"{user.name}: {user.role} of {user.department}, {_state(user)}.")


def _show_password(user: IssuedUser, *, json: bool) -> None:
    if json:
        show_json(user)
        return
    screen.print(user.password, markup=False, soft_wrap=True)
    until = f"{user.one_time_until:%Y-%m-%d %H:%M} UTC" if user.one_time_until else ""
    screen.print(f"Hand it to {user.name}: it opens the first sign-in until {until}.", style="dim")


def _state(user: User) -> str:
    if user.disabled_at:
        return "disabled"
    return "has yet to sign in" if user.one_time_until else "signs in"
