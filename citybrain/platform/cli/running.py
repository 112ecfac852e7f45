"""Commands about what runs: deploy, predict, features, usage, logs, audit."""

from __future__ import annotations

import json as jsonlib
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from citybrain.core.errors import CityBrainError, InvalidInput
from citybrain.core.names import parse_ref
from citybrain.platform.cli.output import (
    JsonFlag,
    client,
    existing,
    progress,
    screen,
    show_json,
    show_table,
)


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (deploy, predict, usage, logs, audit):
        app.command()(command)
    features = typer.Typer(help="The shared feature store.", no_args_is_help=True)
    features.command("online")(features_online)
    features.command("push")(features_push)
    app.add_typer(features, name="features")


def deploy(
    name: Annotated[str, typer.Argument(help="NAME, NAME@alias or NAME@version.")],
    replicas: Annotated[int, typer.Option(min=1, max=64, help="Processes that answer.")] = 1,
    *,
    remove: Annotated[bool, typer.Option(help="Take it down instead.")] = False,
    json: JsonFlag = False,
) -> None:
    """Run an algorithm. A deployment of an alias follows it when it is promoted.

    Example: `citybrain deploy traffic-flow --replicas 2`
    """
    ref = parse_ref(name)
    target = ref.target or "champion"
    with client() as city:
        if remove:
            city.undeploy(ref.algorithm, target)
            screen.print(f"{ref.algorithm}@{target} is being taken down.")
            return
        with progress(f"deploying {ref.algorithm}@{target}", hidden=json) as watch:
            found = city.deploy(ref.algorithm, target, replicas)
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
            show_json({"task": page.example, "oip": _oip(page.manifest, page.example)})
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


def _oip(manifest: dict[str, Any], example: dict[str, Any]) -> dict[str, Any]:
    """The example as a body for the Open Inference Protocol."""
    import msgspec
    import numpy as np

    from citybrain.core.tensors import datatype
    from citybrain.models.package import Manifest
    from citybrain.models.task import open_task

    task = open_task(Manifest.model_validate(manifest))
    items = msgspec.convert(example["inputs"], list[task.Input])  # type: ignore[name-defined]
    tensors = task.read(items)
    if any(a.dtype == np.object_ and _binary(a) for a in tensors.values()):
        return {"note": "This input is binary: send it with tritonclient, or use the task API."}
    return {
        "inputs": [
            {
                "name": name, "datatype": datatype(array), "shape": list(array.shape),
                "data": [v.decode() if isinstance(v, bytes) else v for v in array.ravel().tolist()],
            }
            for name, array in tensors.items()
        ]
    }  # fmt: skip


def _binary(array: Any) -> bool:
    try:
        return not all(value.decode().isprintable() for value in array.ravel())
    except UnicodeDecodeError:
        return True


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


def audit(
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50, *, json: JsonFlag = False
) -> None:
    """Every control act: when, who, what. For admins and auditors.

    Example: `citybrain audit --limit 20`
    """
    with client() as city:
        found = city.audit(limit)
    if json:
        show_json(found)
        return
    show_table(
        "Audit", ["id", "when", "who", "department", "act", "on", "detail"],
        [[e.id, f"{e.at:%Y-%m-%d %H:%M:%S}", e.actor, e.department, e.action, e.object,
          ", ".join(f"{k}={v}" for k, v in e.detail.items())] for e in found],
    )  # fmt: skip


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
