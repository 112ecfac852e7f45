"""Commands that make algorithms: init, train, demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from citybrain.core.errors import InvalidInput, PlatformDown
from citybrain.core.settings import Settings
from citybrain.platform.cli.output import (
    JsonFlag,
    client,
    existing,
    home_of,
    progress,
    screen,
    show_json,
)


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (init, train, demo):
        app.command()(command)


def init(
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
    task: Annotated[str, typer.Option(help="What the algorithm answers.")] = "tensor",
    runtime: Annotated[str, typer.Option(help="How its model runs.")] = "onnx",
) -> None:
    """Write a new algorithm's folder: an `algorithm.yaml` to fill in, with every field explained.

    Example: `citybrain init road-damage --task object-detection`
    """
    from citybrain.platform.scaffold import write_scaffold

    path = write_scaffold(folder, task, runtime)
    screen.print(f"Wrote {path}. Put the weights beside it, then: citybrain register {folder}")


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name; `citybrain doctor` lists them.")],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Training data; nothing: generated. Forecasting: CSV/Parquet, wide or "
            "series,time,value. Detection: folder with images/ and labels/*.txt (YOLO). "
            "Transcription: folder or zip with manifest.csv (file,text[,speaker]). "
            "Text: CSV/JSONL text,label. Tabular: CSV/Parquet with a column label."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal models.")] = 0,
    budget: Annotated[
        float | None,
        typer.Option(help="Seconds; nothing: the recipe's steps, however slow the machine."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Keep the package here, too.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="name=value of the recipe; repeat for more.")
    ] = None,
    *,
    json: JsonFlag = False,
) -> None:
    """Train an algorithm and register it as a new version.

    Example: `citybrain train traffic-flow --data speeds.csv --set horizon=3 --budget 60`
    """
    from citybrain.platform.training import register_package, train_package

    home = home_of(Settings()).make()
    source = existing(data, "data") if data else None
    pairs = dict(_pair(text) for text in settings or [])
    with progress(f"training {recipe}", hidden=json) as watch:
        trained = train_package(
            recipe, home, source, seed=seed, budget=budget, watch=watch, out=out, settings=pairs
        )
        try:
            city = client()
            city.status()
        except PlatformDown:
            city = None
        version = register_package(trained, home, city)
    result = {
        "algorithm": version.algorithm, "version": version.version, "run_id": version.run_id,
        "metrics": trained.metrics,
    }  # fmt: skip
    if json:
        show_json(result)
        return
    figures = ", ".join(f"{name} {value:.4g}" for name, value in trained.metrics.items())
    screen.print(f"{version.algorithm}@{version.version} is registered ({figures}).")
    screen.print(f"Next: citybrain evaluate SCENARIO --algorithm {version.algorithm}")


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign:
        raise InvalidInput(f"{text[:60]!r} is not name=value.", hint="For example: --set horizon=3")
    return name, value


def demo(
    *,
    exit_: Annotated[
        bool, typer.Option("--exit", help="Stop what it started when it is done.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """The whole life of a starter algorithm of each family, with a table of what happened.

    Example: `citybrain demo --exit`
    """
    from citybrain.platform.cli.demonstration import run_demo

    code = run_demo(Settings(), stop_after=exit_, as_json=json)
    if code:
        raise typer.Exit(code)
