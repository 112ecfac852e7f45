"""What is it, and how does it become a package? The first step of admission, in the sandbox.

The answer is a folder `out` with an `algorithm.yaml` and weights in a safe format, and a report:
what was found, what converted it, how closely the conversion agrees with its source.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from citybrain.core.errors import BadPackage
from citybrain.core.tensors import Tensors
from citybrain.models.converter import (
    CONVERTERS,
    Draft,
    Wanted,
    parity,
    samples_for,
    tensor_options,
)  # fmt: skip
from citybrain.models.onnx_session import OnnxSession
from citybrain.models.package import CARD, MANIFEST, NEEDED, UNSAFE, Manifest, Package, file_digest
from citybrain.models.task import open_task, row_count
from citybrain.models.yaml_file import read_yaml
from citybrain.registry.admission import (
    graphs,
    mlflow_folder,
    pickles,
    remote_model,
    transformers_folder,
)
from citybrain.registry.admission.archive import extract, is_archive, only_regular, single_folder
from citybrain.registry.admission.examining import median_milliseconds
from citybrain.registry.admission.samples import real_calls
from citybrain.registry.admission.tensor_files import check_safetensors

TAKEN = (
    "a folder with algorithm.yaml, .onnx, .pt2, .pt (state dict or YOLO), .safetensors, .skops, "
    "a transformers folder, an MLflow model, or a .zip/.tar of one of these"
)


@dataclass
class Report:
    """What admission tells people about a source; kept with the version."""

    kind: str = ""
    source: str = ""
    """Name and SHA-256 of the file that the weights come from."""
    converter: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    parity: dict[str, dict[str, float]] = field(default_factory=dict)
    calls: int = 0
    """Random inputs that source and result were compared on, and real samples beside them."""
    samples: int = 0
    unread: str = ""
    """Why there were no real samples, where some had been given."""
    speed: list[float] = field(default_factory=list)
    """Milliseconds of one call of one row here, of the source and of the result."""
    bytes: list[int] = field(default_factory=list)
    scan: list[str] = field(default_factory=list)
    """What the tripwire read in pickles: names and its opinion of each."""


def open_source(work: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Turn what lies in `work/in` into a package in `work/out`."""
    only_regular(work / "in")
    source = single_folder_or_file(work)
    out = work / "out"
    out.mkdir()
    report = Report()
    card, isolated = dict(request["card"]), bool(request["isolated"])
    usual = dict(request.get("usual") or {})
    if source.is_dir() and (source / MANIFEST).exists():
        _from_package(source, out, card, report, isolated=isolated)
    elif source.is_dir() and (source / "MLmodel").exists():
        inner, told = mlflow_folder.find_model(source)
        _from_model(inner, out, _merged(usual, told, card), report, isolated=isolated)
        report.kind = f"mlflow {report.kind}"
    else:
        _from_model(source, out, _merged(usual, card), report, isolated=isolated)
    return asdict(report)


def _merged(*cards: dict[str, Any]) -> dict[str, Any]:
    """Later words go over earlier ones; of a title, each language by itself."""
    title: dict[str, Any] = {}
    whole: dict[str, Any] = {}
    for card in cards:
        title |= card.get("title") or {}
        whole |= card
    return whole | ({"title": title} if title else {})


def single_folder_or_file(work: Path) -> Path:
    """The source: a file, an unpacked archive, or a folder."""
    source = work / "in"
    inside = list(source.iterdir())
    if len(inside) == 1 and inside[0].is_file() and is_archive(inside[0]):
        extract(inside[0], work / "unpacked")
        source = work / "unpacked"
    source = single_folder(source)
    inside = list(source.iterdir())
    if not inside:
        raise BadPackage("Nothing was handed in.")
    if len(inside) == 1 and inside[0].is_file() and inside[0].name not in (MANIFEST, "MLmodel"):
        return inside[0]
    return source


def _from_package(
    source: Path, out: Path, card: dict[str, Any], report: Report, *, isolated: bool
) -> None:
    """A folder with algorithm.yaml; weights that cannot be served as they are become ONNX."""
    manifest = read_yaml(source / MANIFEST, Manifest, BadPackage)
    manifest.check_words(card)
    weights = source / manifest.weights
    if weights.is_file() and weights.suffix in (".pt", ".pth", ".pt2", ".skops"):
        told = manifest.model_dump(mode="json", include={"name", *CARD})
        if manifest.task == "tensor":
            del told["options"]  # the converted graph's own tensors
        told["architecture"] = card.get("architecture", "")
        for path in sorted(source.iterdir()):  # first: what the converter writes goes over it
            if path.is_file() and path not in (weights, source / MANIFEST):
                shutil.copyfile(path, out / path.name)
        _from_model(weights, out, told, report, isolated=isolated)
    else:
        shutil.copytree(source, out, dirs_exist_ok=True)
        report.kind = manifest.runtime
    report.kind = f"package {report.kind}"


def _from_model(
    source: Path, out: Path, card: dict[str, Any], report: Report, *, isolated: bool
) -> None:
    """A model without a manifest: the card is what the developer said besides."""
    if missing := [field for field in ("name", *NEEDED) if not card.get(field)]:
        flags = " ".join(f"--{field}" for field in missing)
        raise BadPackage(
            f"The algorithm's {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing.",
            hint=f"Say it with {flags}.",
        )
    wanted = Wanted(
        name=str(card.get("name", "")), task=str(card.get("task", "")),
        architecture=str(card.pop("architecture", "")), options=card.get("options") or {},
    )  # fmt: skip
    report.source = source.name
    if source.is_dir():
        draft = transformers_folder.as_draft(source, out, wanted)
        report.kind = "transformers"
    elif source.suffix == ".json":
        draft = remote_model.as_draft(source, out, wanted)
        report.kind = "remote"
    else:
        report.source += f", sha256 {file_digest(source)}"
        if source.suffix == ".onnx":
            draft = _from_onnx(source, out)
            report.kind = "onnx"
        else:
            report.converter = _converter_for(source, report, isolated=isolated)
            report.kind = report.converter
            draft = CONVERTERS.get(report.converter).convert(source, out, wanted)
    report.facts = draft.facts
    if draft.weights.endswith(".onnx"):
        graphs.check_graph(out / draft.weights)
        session = OnnxSession(out / draft.weights)
        fixed = int(draft.options.pop("batch", 0))
        _choose_task(draft, wanted, session)
        _write_manifest(draft, card, out, report)
        if draft.reference is not None:
            _compare(draft, session, source, out, report, fixed)
    else:
        _write_manifest(draft, card, out, report)


def _compare(
    draft: Draft, session: OnnxSession, source: Path, out: Path, report: Report, fixed: int
) -> None:
    """Source against result, output by output: on noise, and on real samples where there are some.

    `fixed` is the number of rows that the graph was made for, 0 for any.
    """
    reference, weights = draft.reference, out / draft.weights
    assert reference is not None
    noise = _in_rows(samples_for(session.signature(), free_size=draft.free_size), fixed)
    real = real_calls(open_task(Package.open(out).manifest, out), out.parent)
    samples = _in_rows([_named(call, session) for call in real.calls], fixed)
    report.parity = parity(reference, session, noise + samples)
    report.calls, report.samples, report.unread = len(noise), len(samples), real.unread
    one = {name: array[: fixed or 1] for name, array in (samples or noise)[0].items()}
    report.speed = [median_milliseconds(partial(run, one)) for run in (reference, session.run)]
    report.bytes = [source.stat().st_size, weights.stat().st_size]


def _named(call: Tensors, session: OnnxSession) -> Tensors:
    """A model of one input takes it whatever the task's name for it."""
    names = [spec.name for spec in session.signature().inputs]
    return dict(zip(names, call.values(), strict=True)) if len(names) == len(call) == 1 else call


def _in_rows(samples: list[Tensors], fixed: int) -> list[Tensors]:
    """Samples of a fixed number of rows, where one is given; smaller ones are left out."""
    if not fixed:
        return samples
    return [
        {name: array[:fixed] for name, array in sample.items()}
        for sample in samples if row_count(sample) >= fixed
    ]  # fmt: skip


def _converter_for(source: Path, report: Report, *, isolated: bool) -> str:
    """The converter of a file; pickles only after a look, and only in a real sandbox."""
    if source.suffix in (".pt", ".pth"):
        if not isolated:
            raise BadPackage(
                f"{source.name} is a pickle, and this machine gives no namespaces to open it in.",
                hint=pickles.SAVE_SAFELY["torch"],
            )
        classes = pickles.check_checkpoint(source)
        report.scan = pickles.tripwire(source)
        if any(name.startswith("ultralytics.") for name in classes):
            return "ultralytics"
        if classes:
            pickles.refuse(source, sorted(classes))
        return "torch-weights"
    if source.suffix == ".safetensors":
        check_safetensors(source)
    if source.suffix == ".pt2":
        pickles.check_program(source)
    for name in CONVERTERS:
        if source.suffix in CONVERTERS.get(name).takes:
            return name
    if source.suffix.lower() in UNSAFE:
        raise BadPackage(
            f"{source.name} may hold a pickle, which can run code when loaded.",
            hint=pickles.SAVE_SAFELY[""],
        )
    raise BadPackage(f"{source.name[:80]} is nothing that is taken in.", hint=f"Taken: {TAKEN}.")


def _from_onnx(source: Path, out: Path) -> Draft:
    graphs.check_graph(source)
    shutil.copyfile(source, out / "model.onnx")
    return Draft("model.onnx")


def _choose_task(draft: Draft, wanted: Wanted, session: OnnxSession) -> None:
    signature = session.signature()
    pictures = [s for s in signature.inputs if len(s.shape) == 4 and 3 in (s.shape[1], s.shape[3])]
    # A graph with pictures fits several tasks, and guessing would give wrong answers politely.
    if pictures and not (wanted.task or draft.task):
        raise BadPackage(
            "The model takes pictures, and the file does not say what it answers.",
            hint="Say it: --task image-classification, --task object-detection, or --task tensor "
            "to pass its tensors through; with --option labels=a,b,c --option image_size=224.",
        )
    if wanted.task and wanted.task != draft.task:
        draft.options = {}
    draft.task = wanted.task or draft.task or "tensor"
    if draft.task == "tensor":
        draft.options = tensor_options(signature)


def _write_manifest(draft: Draft, card: dict[str, Any], out: Path, report: Report) -> None:
    """All that was said goes into the manifest; what the files tell goes over it."""
    title, options = card.get("title") or {}, card.get("options") or {}
    if draft.task == "tensor" and options != draft.options:
        if options.keys() - {"image_size"}:  # which a converter read, if there was one
            raise BadPackage(
                "The task tensor takes no options: its tensors are those of the graph.",
                hint="Leave them out, or say which task it is: --task image-classification.",
            )
        options = {}
    lineage = {"source": report.source, **(card.get("lineage") or {})}
    manifest = {
        **{field: card[field] for field in ("name", *sorted(CARD)) if card.get(field)},
        "format": 1,
        "title": {"zh": title.get("zh") or card["name"], "en": title.get("en") or card["name"]},
        "task": draft.task, "runtime": draft.runtime, "weights": draft.weights,
        "max_batch": min(int(card.get("max_batch") or 64), draft.max_batch),
        "options": {**draft.options, **options},
        "lineage": {k: v for k, v in lineage.items() if v not in ("", None)},
    }  # fmt: skip
    # JSON first: what the card brought is plain data, whatever it was.
    plain = json.loads(json.dumps({k: manifest[k] for k in Manifest.model_fields if k in manifest}))
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
    (out / MANIFEST).write_text(text, encoding="utf-8")
