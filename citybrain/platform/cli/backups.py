"""Commands that copy a home and put it back."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from citybrain.core.home import Home
from citybrain.core.settings import Settings
from citybrain.platform.cli.output import JsonFlag, home_of, progress, screen, show_json


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(backup)
    app.command()(restore)


def backup(
    out: Annotated[Path | None, typer.Option(help="The file; citybrain-DATE.tar here.")] = None,
    home: Annotated[Path | None, typer.Option(help="Home folder; CITYBRAIN_HOME.")] = None,
    *,
    json: JsonFlag = False,
) -> None:
    """Write a home into one file, while it runs or not. It holds the home's secrets: keep it as such.

    Example: `citybrain backup --out /mnt/backups/city.tar`
    """
    from citybrain.platform.backup import back_up

    settings = Settings()
    place = Home(home.expanduser().resolve()) if home else home_of(settings)
    target = out or Path(f"citybrain-{datetime.now(settings.zone):%Y%m%d-%H%M%S}.tar")
    with progress("Backing up", hidden=json) as watch:
        found = back_up(place, settings, target.expanduser(), watch)
    if json:
        show_json({"file": str(target), "files": len(found["files"]), "at": found["at"]})
    else:
        screen.print(f"{len(found['files'])} files are in {target}.", soft_wrap=True)


def restore(
    file: Path,
    home: Annotated[Path | None, typer.Option(help="An empty folder; CITYBRAIN_HOME.")] = None,
) -> None:
    """Put a backup into an empty home; nothing appears there unless every file is as it was.

    Example: `citybrain restore city.tar --home ~/citybrain-again`
    """
    from citybrain.platform.backup import restore as put_back

    settings = Settings()
    place = Home(home.expanduser().resolve()) if home else home_of(settings)
    found = put_back(file.expanduser(), place, database_url=settings.database_url)
    screen.print(
        f"{place.root} is as it was at {found['at']}. Start it: citybrain up", soft_wrap=True
    )
