"""The commands `register` (whatever a developer has) and `convert` (a version's INT8 form)."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from citybrain.core.errors import BadPackage, InvalidInput
from citybrain.core.names import parse_ref
from citybrain.core.schemas import Version
from citybrain.platform.cli.output import (
    JsonFlag,
    client,
    existing,
    progress,
    screen,
    show_json,
    show_table,
)
from citybrain.registry.sources import is_address

MANIFEST = "algorithm.yaml"


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(register)
    app.command()(convert)


def register(
    source: Annotated[
        str,
        typer.Argument(
            help="A folder with algorithm.yaml; a .zip or .tar of one; a .onnx, .pt2, .pt, "
            ".safetensors or .skops file; a transformers folder; or runs:/…, models:/…, "
            "hf:ORG/NAME, torchvision:NAME, ultralytics:NAME.pt."
        ),
    ],
    name: Annotated[str, typer.Option(help="The algorithm, where no algorithm.yaml says it.")] = "",
    task: Annotated[str, typer.Option(help="What it answers, where the file does not say.")] = "",
    architecture: Annotated[
        str, typer.Option(help="Of weights alone: torchvision:mobilenet_v3_small.")
    ] = "",
    owner: Annotated[str, typer.Option(help="The department that answers for it.")] = "",
    licence: Annotated[str, typer.Option(help="SPDX id of the weights.")] = "",
    domain: Annotated[str, typer.Option(help="traffic, safety, health, tourism, …")] = "",
    title_zh: Annotated[str, typer.Option(help="Its name in Chinese.")] = "",
    title_en: Annotated[str, typer.Option(help="Its name in English.")] = "",
    description: Annotated[str, typer.Option(help="A sentence for the catalogue.")] = "",
    option: Annotated[
        list[str] | None,
        typer.Option(help="An option of the task, as NAME=VALUE; lists with commas. Repeatable."),
    ] = None,
    *,
    json: JsonFlag = False,
) -> None:
    """Register a model as the next version of its algorithm: checked, converted, tried.

    Example: `citybrain register ./road-damage`, or
    `citybrain register best.pt --name road-damage --owner traffic --licence MIT --domain traffic`
    """
    card = {
        "task": task, "architecture": architecture, "owner": owner, "licence": licence,
        "domain": domain, "description": description,
        "title": {k: v for k, v in (("zh", title_zh), ("en", title_en)) if v},
        "options": dict(_option(text) for text in option or []),
    }  # fmt: skip
    card = {key: value for key, value in card.items() if value}
    taken: Path | str = source if is_address(source) else _file(source)
    algorithm = name or _name_in(taken)
    with client() as city, progress("opening, converting and trying it", hidden=json) as watch:
        found = city.register(taken, algorithm, card=card)
        report = city.admission(found.algorithm, found.version)
        watch(1.0, "registered")
    if json:
        show_json(found)
    else:
        _tell(found, report)


def convert(
    version: Annotated[str, typer.Argument(help="NAME@version or NAME@alias, an ONNX version.")],
    scenario: Annotated[
        str, typer.Option(help="Examine both in this scenario, and show what the INT8 form loses.")
    ] = "",
    *,
    json: JsonFlag = False,
) -> None:
    """Register a version's INT8 form as the next version: smaller, often faster, less exact.

    Example: `citybrain convert crowd-level@1 --scenario scenic-crowd`
    """
    ref = parse_ref(version)
    with client() as city, progress(f"converting {ref}", hidden=json) as watch:
        parent = city.version(ref.algorithm, ref.target or "challenger")
        found = city.to_int8(parent.algorithm, parent.version)
        report = city.admission(found.algorithm, found.version)
        watch(0.5 if scenario else 1.0, "converted")
        exams = [
            city.evaluate(scenario, one.algorithm, str(one.version)).report["metrics"]
            for one in ((parent, found) if scenario else ())
        ]
    if json:
        show_json({"version": found.model_dump(mode="json"), "admission": report, "exams": exams})
        return
    (size, small), (slow, fast) = report["bytes"], report["speed"]
    screen.print(f"{found.algorithm}@{found.version} is the INT8 form of version {parent.version}.")
    screen.print(f"{size / 1e3:,.0f} → {small / 1e3:,.0f} kB, {slow:g} → {fast:g} ms a call here.")
    _agreement(report, f"Agreement with version {parent.version}")
    if exams:
        show_table(
            f"In {scenario}", ["metric", f"version {parent.version}", "INT8", "95 % interval"],
            [[name, f"{m['value']:.4g}", f"{exams[1][name]['value']:.4g}",
              f"{exams[1][name]['low']:.4g} to {exams[1][name]['high']:.4g}"]
             for name, m in exams[0].items()],
        )  # fmt: skip


def _tell(found: Version, report: dict[str, Any]) -> None:
    screen.print(f"{found.algorithm}@{found.version} is registered, sha256 {found.digest[:16]}…")
    if report.get("converter"):
        screen.print(f"Converted from {report['source'].split(',')[0]} ({report['converter']}).")
        _agreement(report, "Agreement with the source")
    if "examined" in report:
        screen.print(f"One call takes {report['examined']['milliseconds']:g} ms here.")
    screen.print(f"Next: citybrain evaluate SCENARIO --algorithm {found.algorithm}")


def _agreement(report: dict[str, Any], title: str) -> None:
    show_table(
        title, ["output", "largest deviation", "mean", "relative"],
        [[name, f"{row['max']:.2g}", f"{row['mean']:.2g}", f"{row['relative']:.2g}"]
         for name, row in report["parity"].items()],
    )  # fmt: skip


def _file(source: str) -> Path:
    path = Path(source)
    return existing(path, "file" if path.suffix else "folder")


def _name_in(source: Path | str) -> str:
    """The name in the source's own algorithm.yaml."""
    text = b""
    if isinstance(source, Path) and (source / MANIFEST).is_file():
        text = (source / MANIFEST).read_bytes()
    elif isinstance(source, Path) and source.is_file() and zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as opened:
            inside = [n for n in opened.namelist() if n.split("/")[-1] == MANIFEST]
            if inside and opened.getinfo(inside[0]).file_size < 1 << 20:
                text = opened.read(inside[0])
    try:
        found = yaml.safe_load(text) if text else {}
    except yaml.YAMLError as error:
        raise BadPackage(f"{MANIFEST} is not YAML: {str(error).splitlines()[0]}") from error
    if isinstance(found, dict) and isinstance(found.get("name"), str):
        return str(found["name"])
    raise InvalidInput(
        f"{source} does not say what the algorithm is called.", hint="Say it: --name road-damage"
    )


def _option(text: str) -> tuple[str, Any]:
    """`labels=a,b` or `image_size=224`: numbers, lists and words, as YAML reads them."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise InvalidInput(f"{text[:80]!r} is not NAME=VALUE.")
    parts = [yaml.safe_load(part) if part else part for part in value.split(",")]
    return name, parts if len(parts) > 1 else parts[0]
