"""The command `predictions`: what was sampled of an algorithm's calls."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import Annotated

import typer

from citybrain.core.errors import InvalidInput
from citybrain.core.schemas import NewSampling, Prediction, Sampling
from citybrain.platform.cli.output import JsonFlag, client, screen, show_json, show_table


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(predictions)


def predictions(
    name: Annotated[str, typer.Argument(help="The algorithm.")],
    since: Annotated[str, typer.Option(help="A date or moment; empty: the newest.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Rows to show.")] = 20,
    out: Annotated[Path | None, typer.Option(help="FILE.parquet for all of them.")] = None,
    rate: Annotated[
        float | None, typer.Option(min=0, max=1, help="Keep this share of the calls; 0: none.")
    ] = None,
    keep_days: Annotated[
        int | None, typer.Option(min=1, max=3650, help="Keep them so many days.")
    ] = None,
    *,
    reset: Annotated[bool, typer.Option("--reset", help="Keep what the platform keeps.")] = False,
    json: JsonFlag = False,
) -> None:
    """Show a sample of an algorithm's calls, take it as a file, or say how much is kept.

    Who owns the algorithm sees all departments' calls, others their own. Of algorithms that are
    `sensitive` or `personal` only digests are kept.

    Example: `citybrain predictions flow --rate 0.1 --keep-days 30`, then
    `citybrain predictions flow --since 2026-11-20 --out flow.parquet`
    """
    if reset and (rate is not None or keep_days is not None):
        raise InvalidInput("--reset takes the platform's settings; leave --rate and --keep-days.")
    with client() as city:
        if reset:
            _show_sampling(city.sample(name, NewSampling()), json=json)
        elif rate is not None or keep_days is not None:
            said = {"rate": rate, "keep_days": keep_days}
            changed = {key: value for key, value in said.items() if value is not None}
            own = city.sampling(name).own.model_copy(update=changed)
            _show_sampling(city.sample(name, own), json=json)
        elif out is not None:
            path = city.export_predictions(name, out, since=since)
            if json:
                show_json({"file": str(path)})
            else:
                screen.print(f"{path}: {path.stat().st_size} bytes")
        else:
            found = city.predictions(name, since=since, limit=limit)
            if json:
                show_json(found)
            else:
                _show(city.sampling(name), found)


def _show_sampling(found: Sampling, *, json: bool) -> None:
    if json:
        show_json(found)
    else:
        screen.print(_said(found))


def _said(found: Sampling) -> str:
    return (
        f"{found.rate:.2%} of the calls of {found.algorithm} are kept for {found.keep_days} days."
    )


def _show(sampling: Sampling, found: list[Prediction]) -> None:
    screen.print(_said(sampling))
    show_table(
        sampling.algorithm,
        ["when", "version", "department", "status", "ms", "input", "output"],
        [
            [f"{row.at.astimezone():%m-%d %H:%M:%S}", row.version, row.department,
             row.code or row.status, f"{row.latency_ms:.1f}", _short(row.input, row.input_digest),
             _short(row.output, row.output_digest or "")]
            for row in found
        ],
    )  # fmt: skip


def _short(value: object, digest: str) -> str:
    if value is None:
        return f"sha256 {digest[:12]}" if digest else ""
    text = json_text.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:59]}…"
