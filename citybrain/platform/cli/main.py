"""`citybrain`: every command, and the one place where errors become exit codes."""

from __future__ import annotations

import sys

import typer

from citybrain import __version__
from citybrain.core.errors import CityBrainError
from citybrain.platform.cli import (
    audits,
    backups,
    bills,
    catalogue,
    departments,
    grants,
    jobs,
    levels,
    lifecycle,
    local,
    making,
    people,
    predictions,
    quotas,
    registering,
    reloading,
    retention,
    rollouts,
    running,
    signers,
    users,
)
from citybrain.platform.cli.output import explain

app = typer.Typer(
    name="citybrain",
    help="One algorithm service platform for all departments of a city.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (
    local, reloading, making, registering, catalogue, lifecycle, signers, running, rollouts, predictions, jobs,
    departments, users, people, quotas, grants, levels, bills, audits, retention, backups,
):  # fmt: skip
    module.add_to(app)


@app.callback(invoke_without_command=True)
def root(
    *, version: bool = typer.Option(default=False, help="Print the version and leave.")
) -> None:
    """One algorithm service platform for all departments of a city."""
    if version:
        print(__version__)
        raise typer.Exit


def main() -> None:
    """Run a command: 0 when it worked, 1 when it did not, 2 when it was not understood."""
    try:
        app()
    except CityBrainError as error:
        sys.exit(explain(error))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
