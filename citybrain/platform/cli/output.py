"""How commands speak: tables or JSON, progress bars, errors with the next step."""

from __future__ import annotations

import json
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import BaseModel, ValidationError
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from citybrain.core.errors import CityBrainError, InvalidInput, PlatformDown
from citybrain.core.home import Home
from citybrain.core.settings import Settings
from citybrain.platform.state import read_state
from citybrain.sdk import CityBrain
from citybrain.sdk.trust import pinned, trusting

Schema = TypeVar("Schema", bound=BaseModel)
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
WIDE = 150
"""Columns where the output is no terminal: a log or a file has no edge to keep to."""
screen = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
errors = Console(stderr=True, highlight=False)


def home_of(settings: Settings) -> Home:
    """The home that the settings name."""
    return Home(settings.home.expanduser().resolve())


def reason_of(error: Exception) -> str:
    """Why a schema refused what was typed, in its first complaint."""
    if isinstance(error, ValidationError):
        first = error.errors(include_input=False, include_url=False)[0]
        said = first["msg"].removeprefix("Value error, ")
        return f"{'.'.join(map(str, first['loc']))}: {said}.".lstrip(": ")
    return f"{error}."


def checked(schema: type[Schema], **said: Any) -> Schema:
    """What was typed as a schema, or InvalidInput that says which part is wrong."""
    try:
        return schema.model_validate(said)
    except ValidationError as error:
        raise InvalidInput(reason_of(error)) from error


def client(*, timeout: float = 600.0, auditor: bool = False) -> CityBrain:
    """A client by `CITYBRAIN_URL` and `CITYBRAIN_KEY`, else by what the home says.

    `auditor`: of the home's two first keys the auditor's, not the admin's.
    """
    settings = Settings()
    home = home_of(settings)
    url = settings.url
    verify = trusting(existing(Path(settings.ca), "file")) if settings.ca else None
    if not url:
        state = read_state(home)
        if "url" not in state:
            raise PlatformDown(
                f"No platform runs in {home.root}.", hint="Start one with: citybrain up --detach"
            )
        url, verify = state["url"], verify_of(state)
    key = settings.key.get_secret_value()
    first = home.auditor_key if auditor else home.admin_key
    if not key and first.exists():
        key = first.read_text().strip()
    return CityBrain(url, key, timeout=timeout, verify=verify)


def verify_of(state: dict[str, Any]) -> ssl.SSLContext | None:
    """Whose certificate answers at the platform of this machine, as its supervisor wrote it down."""
    return pinned(Path(state["certificate"])) if state.get("certificate") else None


def auditor() -> CityBrain:
    """The same for what only auditors may: the home's own auditor, where no key is set."""
    return client(auditor=True)


def plain(value: Any) -> Any:
    """Schemas as what JSON can hold."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def show_json(value: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(plain(value), ensure_ascii=False, indent=2, default=str))


def show_table(title: str, columns: list[str], rows: list[list[Any]], *, empty: str = "") -> None:
    """A table for people, or the sentence that says what to do when it is empty."""
    if not rows:
        screen.print(empty or "Nothing yet.")
        return
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*["" if value is None else str(value) for value in row])
    screen.print(table)


@contextmanager
def progress(what: str, *, hidden: bool = False) -> Iterator[Callable[[float, str], None]]:
    """A progress bar on stderr; the callback takes the share done and what is being done."""
    if hidden:
        yield lambda _share, _text: None
        return
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(), console=errors, transient=not errors.is_terminal,
    )  # fmt: skip
    with bar:
        task = bar.add_task(what, total=1.0)
        yield lambda share, text: bar.update(task, completed=share, description=text or what)


def explain(error: CityBrainError) -> int:
    """Print an error; the exit code that belongs to it."""
    if "--json" in sys.argv:
        body = {"code": error.code, "message": error.message, "hint": error.hint}
        print(json.dumps({"error": body}, ensure_ascii=False), file=sys.stderr)
    else:
        errors.print(f"[bold red]error[/] ({error.code}): ", end="")
        errors.print(error.message, markup=False, soft_wrap=True)
        if error.hint:
            errors.print(f"  → {error.hint}", markup=False, soft_wrap=True)
    return 2 if isinstance(error, PlatformDown) else 1


def existing(path: Path, what: str) -> Path:
    """An absolute path that exists, or an error that names it."""
    if not path.exists():
        raise CityBrainError(f"There is no {what} at {path}.", hint="Give an existing path.")
    return path.expanduser().resolve()
