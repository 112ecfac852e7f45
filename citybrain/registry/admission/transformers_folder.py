"""A folder that `save_pretrained` wrote: which task its architecture answers, with which options."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from citybrain.core.errors import BadPackage
from citybrain.models.converter import Draft, Wanted
from citybrain.models.package import UNSAFE
from citybrain.models.transformers_checks import WEIGHTS, check_files, read_object
from citybrain.registry.admission.tensor_files import check_safetensors

TASKS = (
    ("ForSequenceClassification", "text-classification"),
    ("ForImageClassification", "image-classification"),
    ("ForCTC", "transcription"),
    ("ForConditionalGeneration", "transcription"),
    ("VitsModel", "speech-synthesis"),
    ("ForPrediction", "forecasting"),
)
KEPT = {".json", ".safetensors", ".txt", ".model"}


def as_draft(folder: Path, out: Path, wanted: Wanted) -> Draft:
    """Copy what serving needs, and read labels, sizes and rates from the folder's own files."""
    config = read_object(folder / "config.json")
    architectures = config.get("architectures") or []
    if not isinstance(architectures, list):
        raise BadPackage("config.json: architectures is not a list.")
    name = str(architectures[0]) if architectures else ""
    task = wanted.task or next((task for end, task in TASKS if name.endswith(end)), "")
    if not task:
        raise BadPackage(
            f"config.json names the architecture {name[:60] or 'none'}, and no task is known for it.",
            hint="Say it with --task.",
        )
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix.lower() in UNSAFE:
            raise BadPackage(
                f"{path.name} may hold a pickle, which can run code when loaded.",
                hint="Save it with model.save_pretrained(folder), which writes model.safetensors.",
            )
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in KEPT:
            shutil.copyfile(path, out / path.name)
    # The second sandbox asks this again; here it saves the start of one.
    check_files(out)
    check_safetensors(out / WEIGHTS)
    try:
        options = _options(task, config, folder)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise BadPackage("config.json: labels or sizes are not those of a model.") from error
    facts = {"architecture": name, "transformers": str(config.get("transformers_version", ""))[:20]}
    return Draft("config.json", runtime="transformers", task=task, options=options, facts=facts)


def _options(task: str, config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What the folder's own files say of the task's options; the developer's words go over them."""
    labels = config.get("id2label") or {}
    looks = _read(folder / "preprocessor_config.json")
    found: dict[str, Any] = {}
    if task.endswith("classification") and labels:
        found["labels"] = [str(labels[key]) for key in sorted(labels, key=int)]
    if task == "text-classification" and config.get("max_position_embeddings"):
        found["max_length"] = min(int(config["max_position_embeddings"]), 512)
    if task == "image-classification":
        size = looks.get("size") or {}
        side = size if isinstance(size, int) else size.get("height") or size.get("shortest_edge")
        found["image_size"] = int(side or config.get("image_size", 224))
        if looks.get("do_normalize", True) and looks.get("image_mean"):
            found["mean"], found["std"] = looks["image_mean"], looks["image_std"]
    if task == "transcription":
        found |= _hearing(config, folder)
    if task == "speech-synthesis":
        found["sample_rate"] = int(config.get("sampling_rate", 16_000))
        found["speakers"] = max(1, int(config.get("num_speakers") or 1))
    if task == "forecasting":
        head = {"mse": "point", "nll": str(config.get("distribution_output", "")).replace("_", "-")}
        found |= {
            "context": config.get("context_length"), "horizon": config.get("prediction_length"),
            "calendar": False, "head": head.get(str(config.get("loss")), "point"),
        }  # fmt: skip
    return found


def _hearing(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Transcription: whisper writes by its tokenizer, the others by the letters of vocab.json."""
    if config.get("model_type") == "whisper":
        return {"features": "whisper"}
    vocabulary = _read(folder / "vocab.json")
    if not vocabulary:
        return {}
    tokens = sorted(vocabulary, key=lambda token: int(vocabulary[token]))
    told = _read(folder / "tokenizer_config.json")
    names = ("pad_token", "bos_token", "eos_token", "unk_token")
    special = [str(told[name]) for name in names if isinstance(told.get(name), str)]
    space = str(told.get("word_delimiter_token", "|"))
    return {
        "features": "waveform", "tokens": tokens, **({"space": space} if space in tokens else {}),
        "unwritten": [token for token in special[1:] if token in tokens],
        "blank": int(config.get("pad_token_id") or 0),
    }  # fmt: skip


def _read(path: Path) -> dict[str, Any]:
    """A JSON object that the folder may lack."""
    return read_object(path) if path.exists() else {}
