"""Commands about what runs: deploy, predict, features, usage, logs."""

from __future__ import annotations

import json as jsonlib
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from citybrain.core.errors import CityBrainError, InvalidInput
from citybrain.core.names import parse_ref
from citybrain.core.schemas import NewDeployment, Scaling
from citybrain.platform.cli.bodies import oip_example
from citybrain.platform.cli.output import (
    JsonFlag,
    client,
    existing,
    progress,
    reason_of,
    screen,
    show_json,
    show_table,
)


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (deploy, predict, usage, logs):
        app.command()(command)
    features = typer.Typer(help="The shared feature store.", no_args_is_help=True)
    features.command("online")(features_online)
    features.command("push")(features_push)
    app.add_typer(features, name="features")


def deploy(
    name: Annotated[str, typer.Argument(help="NAME, NAME@alias or NAME@version.")],
    replicas: Annotated[
        str, typer.Option(help="Processes that answer: 2, or 1..4 to follow the load; 0..: sleeps.")
    ] = "1",
    target_load: Annotated[
        float | None, typer.Option(help="Of a range: frames of calls that one replica should have.")
    ] = None,
    up_after: Annotated[
        float | None, typer.Option(help="Seconds above that load until replicas are added.")
    ] = None,
    down_after: Annotated[
        float | None, typer.Option(help="Seconds below it until replicas are taken down.")
    ] = None,
    sleep_after: Annotated[
        float | None, typer.Option(help="Of 0..: seconds without a call until none is left.")
    ] = None,
    cpus: Annotated[int, typer.Option(min=1, help="Of a replica: threads that one call has.")] = 1,
    gpus: Annotated[
        float, typer.Option(min=0, help="Of a replica: a share of one (0.5), or a whole number.")
    ] = 0.0,
    *,
    shared: Annotated[
        bool, typer.Option("--shared", help="In one process with other light algorithms.")
    ] = False,
    remove: Annotated[bool, typer.Option(help="Take it down instead.")] = False,
    json: JsonFlag = False,
) -> None:
    """Run an algorithm. A deployment of an alias follows it when it is promoted.

    Examples: `citybrain deploy traffic-flow --replicas 2`,
    `citybrain deploy traffic-flow --replicas 0..4 --sleep-after 600`,
    `citybrain deploy traffic-flow --shared`, `citybrain deploy street-scenes --cpus 2 --gpus 0.5`
    """
    ref = parse_ref(name)
    target = ref.target or "champion"
    many = _many(
        replicas, shared=shared, cpus=cpus, gpus=gpus, target_load=target_load, up_after=up_after, down_after=down_after,
        sleep_after=sleep_after,
    )  # fmt: skip
    with client() as city:
        if remove:
            city.undeploy(ref.algorithm, target)
            screen.print(f"{ref.algorithm}@{target} is being taken down.")
            return
        with progress(f"deploying {ref.algorithm}@{target}", hidden=json) as watch:
            found = city.deploy(
                ref.algorithm, target, many.replicas, scaling=many.scaling, shared=many.shared,
                cpus=many.cpus, gpus=many.gpus,
            )  # fmt: skip
            watch(1.0, f"{ref.algorithm}@{target} is {found.state}")
    if json:
        show_json(found)
    if found.state != "running":
        reason = found.message.splitlines()[0] if found.message else "it is still starting"
        raise CityBrainError(
            f"{ref.algorithm}@{target} (version {found.version}) does not run: {reason}",
            hint=f"See more with: citybrain logs {ref.algorithm}",
        )
    if not json:
        screen.print(f"{ref.algorithm}@{target} runs version {found.version}.")


def _many(
    replicas: str,
    *,
    shared: bool = False,
    cpus: int = 1,
    gpus: float = 0.0,
    **settings: float | None,
) -> NewDeployment:
    """A number or a range, when it moves, and what each has."""
    said = {name: value for name, value in settings.items() if value is not None}
    least, dots, most = replicas.partition("..")
    try:
        if dots:
            scaling = Scaling(min_replicas=int(least), max_replicas=int(most), **said)
            return NewDeployment(scaling=scaling, shared=shared, cpus=cpus, gpus=gpus)
        if said:
            option = "--" + next(iter(said)).replace("_", "-")
            raise InvalidInput(
                f"{option} has no effect on a fixed number of replicas.",
                hint="Say a range: --replicas 1..4",
            )
        return NewDeployment(replicas=int(replicas), shared=shared, cpus=cpus, gpus=gpus)
    except ValidationError as error:
        raise InvalidInput(f"--replicas {replicas[:20]}: {reason_of(error)}") from error
    except ValueError as error:
        raise InvalidInput(
            f"--replicas {replicas[:20]!r} is neither a number nor a range.",
            hint="Like: --replicas 2 or --replicas 0..4",
        ) from error


def predict(
    name: Annotated[str, typer.Argument(help="NAME or NAME@alias.")],
    inputs: Annotated[
        list[Path] | None, typer.Argument(help="Images or sounds, or one JSON file; - for stdin.")
    ] = None,
    purpose: Annotated[str, typer.Option(help="Why, for a key of several purposes.")] = "",
    *,
    example: Annotated[
        bool, typer.Option(help="Print a valid body for both APIs instead.")
    ] = False,
) -> None:
    """Call an algorithm.

    Examples: `citybrain predict vehicle-detector street.jpg`,
    `citybrain predict hotline-router --example > body.json`
    """
    ref = parse_ref(name)
    with client() as city:
        if example:
            page = city.algorithm(ref.algorithm)
            show_json({"task": page.example, "oip": oip_example(page.manifest, page.example)})
            return
        if not inputs:
            raise InvalidInput(
                "There is nothing to send.",
                hint=f"Give files or a JSON body; a valid one: citybrain predict {name} --example",
            )
        if str(inputs[0]) == "-" or inputs[0].suffix == ".json":
            raw = (
                sys.stdin.read()
                if str(inputs[0]) == "-"
                else existing(inputs[0], "file").read_text()
            )
            try:
                body: Any = jsonlib.loads(raw)
                body = body.get("task", body)
                items = body["inputs"]
            except (ValueError, KeyError, AttributeError) as error:
                raise InvalidInput('The body must be {"inputs": [...]}.') from error
            found = city.predict(str(ref), items, purpose=purpose)
        else:
            files = [existing(path, "file") for path in inputs]
            found = city.predict_files(str(ref), files, purpose=purpose)
    show_json(found)


def usage(
    since: Annotated[str, typer.Option(help="First day, YYYY-MM-DD.")] = "",
    request: Annotated[str, typer.Option(help="One call by its request id instead.")] = "",
    *,
    json: JsonFlag = False,
) -> None:
    """Calls by day, department, algorithm and version.

    Example: `citybrain usage --since 2026-01-01`
    """
    with client() as city:
        if request:
            show_json(city.request(request))
            return
        found = city.usage(since)
    if json:
        show_json(found)
        return
    show_table(
        "Usage", ["day", "department", "algorithm", "version", "calls", "failed", "rows", "mean ms"],
        [[u.day, u.department, u.algorithm, u.version, u.requests, u.failed, u.rows, u.mean_ms]
         for u in found],
        empty="No calls yet.",
    )  # fmt: skip


def logs(
    name: Annotated[str, typer.Argument(help="NAME or NAME@target.")],
    lines: Annotated[int, typer.Option(min=1, max=2000)] = 40,
    *,
    json: JsonFlag = False,
) -> None:
    """Why a version did not start, and the end of its replica's log.

    Example: `citybrain logs vehicle-detector --lines 100`
    """
    ref = parse_ref(name)
    with client() as city:
        found = city.logs(ref.algorithm, ref.target or "champion", lines)
    if json:
        show_json(found)
        return
    screen.print(f"{name} is {found['state']}, version {found['version']}")
    if found["message"]:
        screen.print(found["message"], markup=False, soft_wrap=True)
    for line in found["log"]:
        screen.print(line, markup=False, soft_wrap=True)


def features_online(
    service: Annotated[str, typer.Argument(help="A feature service, e.g. traffic-flow.")],
    entities: Annotated[list[str], typer.Argument(help="Entity ids.")],
) -> None:
    """Read the latest features of entities.

    Example: `citybrain features online traffic-flow sensor-001`
    """
    with client() as city:
        show_json(city.online_features(service, entities))


def features_push(
    file: Annotated[Path, typer.Argument(help='JSON lines: {"sensor", "values", "last_time"}.')],
) -> None:
    """Write sensor histories.

    Example: `citybrain features push histories.jsonl`
    """
    rows = []
    for number, line in enumerate(existing(file, "file").read_text().splitlines(), 1):
        try:
            rows.append(jsonlib.loads(line))
        except ValueError as error:
            raise InvalidInput(f"{file.name}:{number}: not a JSON object.") from error
    with client() as city:
        screen.print(f"{city.push_features(rows)} rows written.")
