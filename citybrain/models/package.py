"""The package format: a folder with an `algorithm.yaml` and the files that it names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from citybrain.core.errors import BadPackage, DigestMismatch
from citybrain.core.levels import Level
from citybrain.core.names import Name
from citybrain.models.yaml_file import read_yaml

MANIFEST = "algorithm.yaml"
MAX_FILES = 500
UNSAFE = {
    ".pkl",
    ".pickle",
    ".joblib",
    ".pt",
    ".pth",
    ".ckpt",
    ".bin",
    ".npy",
    ".dill",
    ".h5",
}

Domain = Literal[
    "traffic", "safety", "city-management", "tourism", "health",
    "environment", "credit", "economy", "community", "government",
]  # fmt: skip


class Strict(BaseModel):
    """A schema that refuses fields it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Title(Strict):
    """A name for people, in the two languages of the console."""

    zh: str = Field(min_length=1, max_length=80)
    en: str = Field(min_length=1, max_length=80)


class Lineage(Strict):
    """Where the weights come from."""

    recipe: str = ""
    data: str = ""
    data_digest: str = ""
    seed: int | None = None
    source: str = ""


class Manifest(Strict):
    """The fields of `algorithm.yaml`, format 1."""

    format: Literal[1] = 1
    name: Name
    title: Title
    description: str = Field(default="", max_length=2000)
    task: Name
    runtime: Name
    weights: str = Field(description="The file in this folder that the runtime loads.")
    domain: Domain
    owner: Name = Field(description="The department that answers for the algorithm.")
    licence: str = Field(min_length=2, max_length=80, description="SPDX id of the weights.")
    max_batch: int = Field(default=64, ge=1, le=4096, description="Rows in one model call.")
    answer_seconds: float = Field(
        default=0.0, ge=0.0, le=86_400.0,
        description="How long an answer stands: the same input is answered without the model. 0: never.",
    )  # fmt: skip
    options: dict[str, Any] = Field(default_factory=dict, description="What the task asks for.")
    lineage: Lineage = Lineage()
    serving: Literal["auto", "source"] = Field(
        default="auto",
        description="auto: the fastest form that agrees with the source; source: never another.",
    )
    level: Level = Field(default=Level.INTERNAL, description="How sensitive its data are.")
    purposes: list[Name] = Field(
        default_factory=list, max_length=20, description="What it was made for; empty: anything."
    )
    limits: list[Annotated[str, Field(min_length=1, max_length=500)]] = Field(
        default_factory=list, max_length=20, description="Where it should not be used."
    )
    training_data: str = Field(default="", max_length=2000)
    contact: str = Field(default="", max_length=200)

    @field_validator("weights")
    @classmethod
    def _inside(cls, value: str) -> str:
        check_relative(value)
        return value

    def check_words(self, card: Mapping[str, Any]) -> None:
        """BadPackage for a card that says otherwise: where there is a manifest, it speaks alone."""
        if card.get("architecture") and not self.weights.endswith((".pt", ".pth")):
            raise BadPackage(f"{self.weights} needs no architecture.", hint="Leave it out.")
        plain = self.model_dump(mode="json")
        for field in sorted(CARD & card.keys()):
            told, said = card[field], plain[field]
            if not told:
                continue
            whole = {**said, **told} if isinstance(told, dict) and isinstance(said, dict) else told
            try:
                new = type(self).model_validate({**plain, field: whole}).model_dump(mode="json")
            except ValidationError as error:
                raise BadPackage(_complaint(error)) from error
            if new[field] != said:
                raise BadPackage(
                    f"{MANIFEST} says {field}: {str(said or 'nothing')[:200]}, and it was handed in "
                    f"with {str(told)[:200]}.",
                    hint=f"Change {MANIFEST}, or leave that word out.",
                )


CARD = frozenset(Manifest.model_fields) - {"format", "name", "runtime", "weights"}
"""What may be said of a model besides its files: the options of `register`, the fields of the API's
`card` and the tags `citybrain.…` of a plain MLflow version. The one list of them."""
NEEDED = ("owner", "licence", "domain")
"""What nobody can guess; without it nothing is registered."""
JSON_WORDS = frozenset(
    {"title", "max_batch", "answer_seconds", "options", "lineage", "purposes", "limits"}
)
"""Those of `CARD` that are no text: a tag holds them as JSON."""
_WHOLE = {
    "name": "any", "title": {"zh": "-", "en": "-"}, "task": "any", "runtime": "any",
    "weights": "any", "domain": "government", "owner": "any", "licence": "any",
}  # fmt: skip


def check_card(card: Mapping[str, Any]) -> None:
    """BadPackage for words about a model that `algorithm.yaml` could not hold."""
    told = {field: value for field, value in card.items() if field in CARD and value}
    if isinstance(told.get("title"), dict):
        told["title"] = {**_WHOLE["title"], **told["title"]}  # type: ignore[dict-item]
    try:
        Manifest.model_validate({**_WHOLE, **told})
    except ValidationError as error:
        raise BadPackage(_complaint(error)) from error


def _complaint(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}."


@dataclass(frozen=True)
class Package:
    """An algorithm's folder that was read and checked."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path, *, digest: str = "") -> Package:
        """Read a folder; with a digest, refuse it unless every byte is the registered one."""
        if not folder.is_dir():
            raise BadPackage(f"{folder} is not a folder.")
        if digest and (found := folder_digest(folder)) != digest:
            raise DigestMismatch(
                f"The files in {folder.name} are not those that were registered "
                f"(sha256 {found[:12]}…, registered {digest[:12]}…).",
                hint="Register the folder again as a new version.",
            )
        manifest = read_yaml(folder / MANIFEST, Manifest, BadPackage)
        for path in package_files(folder):
            if path.suffix.lower() in UNSAFE:
                raise BadPackage(
                    f"{path.relative_to(folder)} may hold a pickle, which can run code when loaded.",
                    hint="Save weights as safetensors or ONNX.",
                )
        if not (folder / manifest.weights).is_file():
            raise BadPackage(f"{MANIFEST} names {manifest.weights!r}, and the folder lacks it.")
        return cls(folder, manifest)

    @property
    def weights(self) -> Path:
        """The file (or, for transformers, the folder's config) that the runtime loads."""
        return self.folder / self.manifest.weights


def check_relative(path: str) -> PurePosixPath:
    """A path that stays inside its folder, or BadPackage."""
    pure = PurePosixPath(path)
    bad = not path or len(path) > 200 or "\\" in path or not path.isprintable()
    if bad or pure.is_absolute() or any(part in ("..", ".", "") for part in path.split("/")):
        raise BadPackage(f"{path[:80]!r} is not a path inside the folder.")
    return pure


def package_files(folder: Path, *, limit: int = MAX_FILES) -> list[Path]:
    """The regular files of a folder, sorted; links and devices are refused."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise BadPackage(f"{path.relative_to(folder)} is not a regular file.")
        if path.is_file():
            found.append(path)
        if len(found) > limit:
            raise BadPackage(f"The folder holds more than {limit} files.")
    return found


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def data_digest(path: Path) -> str:
    """SHA-256 of a data set: a file, or a folder of any number of files."""
    return folder_digest(path, limit=10_000_000) if path.is_dir() else file_digest(path)


def folder_digest(folder: Path, *, limit: int = MAX_FILES) -> str:
    """SHA-256 over the sorted names and digests of a folder's files, in hex."""
    whole = hashlib.sha256()
    for path in package_files(folder, limit=limit):
        name = path.relative_to(folder).as_posix()
        whole.update(f"{file_digest(path)}  {name}\n".encode())
    return whole.hexdigest()
