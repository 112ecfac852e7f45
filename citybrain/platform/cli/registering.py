"""The commands `register` (whatever a developer has) and `convert` (other forms of a version)."""

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
            "hf:ORG/NAME, torchvision:NAME, ultralytics:NAME.pt, triton://HOST/MODEL."
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
    serving: Annotated[
        str, typer.Option(help="auto: its fastest form that agrees with it; source: never another.")
    ] = "",
    option: Annotated[
        list[str] | None,
        typer.Option(help="An option of the task, as NAME=VALUE; lists with commas. Repeatable."),
    ] = None,
    level: Annotated[
        str, typer.Option(help="Of its data: public, internal, sensitive, personal.")
    ] = "",
    purpose: Annotated[
        list[str] | None, typer.Option(help="What it was made for; repeatable. None: anything.")
    ] = None,
    limit: Annotated[
        list[str] | None, typer.Option(help="Where it should not be used; repeatable.")
    ] = None,
    training_data: Annotated[str, typer.Option(help="What it was trained on, for people.")] = "",
    contact: Annotated[str, typer.Option(help="Whom to ask.")] = "",
    lineage: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE: source, recipe, data, data_digest, seed. Repeatable."),
    ] = None,
    max_batch: Annotated[int, typer.Option(help="Rows in one model call, at most.")] = 0,
    answer_seconds: Annotated[
        float, typer.Option(help="How long an answer stands for the same input; 0: never.")
    ] = 0.0,
    scenario: Annotated[
        str,
        typer.Option(
            help="Compare what is converted on this one's samples (else: the last exam's)."
        ),
    ] = "",
    *,
    json: JsonFlag = False,
) -> None:
    """Register a model as the next version of its algorithm: checked, converted, tried.

    A folder with an `algorithm.yaml` says all of this itself; an option that says otherwise is refused.
    Of later versions, title, description, level, purposes, limits and contact are as they were, where
    nobody says them.

    Example: `citybrain register ./road-damage`, or
    `citybrain register best.pt --name road-damage --owner traffic --licence MIT --domain traffic`
    """
    card = {
        "task": task, "architecture": architecture, "owner": owner, "licence": licence,
        "domain": domain, "description": description, "serving": serving,
        "title": {k: v for k, v in (("zh", title_zh), ("en", title_en)) if v},
        "options": dict(_option(text) for text in option or []), "level": level,
        "purposes": purpose, "limits": limit, "training_data": training_data, "contact": contact,
        "lineage": dict(_pair(text) for text in lineage or []), "max_batch": max_batch,
        "answer_seconds": answer_seconds,
    }  # fmt: skip
    card = {key: value for key, value in card.items() if value}
    taken: Path | str = source if is_address(source) else _file(source)
    algorithm = name or _name_in(taken)
    with client() as city, progress("opening, converting and trying it", hidden=json) as watch:
        found = city.register(taken, algorithm, card=card, scenario=scenario)
        report = city.admission(found.algorithm, found.version)
        watch(1.0, "registered")
    if json:
        show_json(found)
    else:
        _tell(found, report)


def convert(
    version: Annotated[str, typer.Argument(help="NAME@version or NAME@alias.")],
    to: Annotated[
        str, typer.Option(help="onnx: the same answers, faster. int8: smaller and less exact.")
    ] = "onnx",
    scenario: Annotated[
        str,
        typer.Option(
            help="Compare on this scenario's samples (else: the last exam's); INT8 is examined in it, "
            "and so is its source."
        ),
    ] = "",
    *,
    json: JsonFlag = False,
) -> None:
    """Make another form of a version, compared with it output by output.

    ONNX (of torch and transformers) is served in its place where it is faster, unless its
    `algorithm.yaml` says `serving: source`. INT8 answers a little differently: it becomes the next
    version, and its own gate decides.

    Example: `citybrain convert spoken-digits@champion`, or
    `citybrain convert crowd-level@1 --to int8 --scenario scenic-crowd`
    """
    if to not in ("onnx", "int8"):
        raise InvalidInput(f"There is no form {to[:40]!r}.", hint="Say --to onnx or --to int8.")
    ref = parse_ref(version)
    with client() as city, progress(f"converting {ref}", hidden=json) as watch:
        parent = city.version(ref.algorithm, ref.target or "challenger")
        number = str(parent.version)
        done = city.convert(parent.algorithm, number, to, scenario)  # type: ignore[arg-type]
        watch(1.0, "converted")
        served = [form for form in city.version(ref.algorithm, number).forms if form.served]
    if json:
        show_json(done)
        return
    report, name = done.report, parent.algorithm
    (size, small), (slow, fast) = report["bytes"], report["speed"]
    if to == "int8":
        screen.print(f"{name}@{done.made} is the INT8 form of version {parent.version}.")
    elif served:
        screen.print(f"{name}@{parent.version} is served as ONNX from now on.")
    else:
        screen.print(f"{name}@{parent.version} has an ONNX form; it is served as it was.")
    screen.print(f"{size / 1e3:,.0f} → {small / 1e3:,.0f} kB, {slow:g} → {fast:g} ms a call here.")
    _agreement(report, f"Agreement with version {parent.version}")
    if loss := report.get("loss"):
        show_table(
            f"In {done.scenario}", ["metric", f"version {parent.version}", "INT8", "95 % interval"],
            [[metric, f"{m['before']['value']:.4g}", f"{m['after']['value']:.4g}",
              f"{m['after']['low']:.4g} to {m['after']['high']:.4g}"] for metric, m in loss.items()],
        )  # fmt: skip
    elif to == "int8":
        reason = report.get("unexamined") or "no scenario examined it yet"
        screen.print(f"What it loses is not known: {reason}.")
        screen.print(f"Next: citybrain evaluate SCENARIO --algorithm {name}@{done.made}")


def _tell(found: Version, report: dict[str, Any]) -> None:
    screen.print(f"{found.algorithm}@{found.version} is registered, sha256 {found.digest[:16]}…")
    if report.get("converter"):
        screen.print(f"Converted from {report['source'].split(',')[0]} ({report['converter']}).")
        (size, small), (slow, fast) = report["bytes"], report["speed"]
        screen.print(
            f"{size / 1e3:,.0f} → {small / 1e3:,.0f} kB, {slow:g} → {fast:g} ms a call here."
        )
        _agreement(report, "Agreement with the source")
    if "examined" in report:
        screen.print(f"One call takes {report['examined']['milliseconds']:g} ms here.")
        if place := report["examined"]["describe"].get("address"):
            screen.print(f"It stays at {place}: digest and signature cover that address only.")
    screen.print(f"Next: citybrain evaluate SCENARIO --algorithm {found.algorithm}")


def _agreement(report: dict[str, Any], title: str) -> None:
    """How both were compared, and how closely they agree, output by output."""
    screen.print(
        f"Compared on {report['calls']} made-up inputs and {report['samples']} real samples."
    )
    if report.get("unread"):
        screen.print(report["unread"])
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
    name, value = _pair(text)
    parts = [yaml.safe_load(part) if part else part for part in value.split(",")]
    return name, parts if len(parts) > 1 else parts[0]


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise InvalidInput(f"{text[:80]!r} is not NAME=VALUE.")
    return name, value
