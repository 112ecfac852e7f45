"""Image classification: a folder with one sub-folder of images a class, named like the class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from citybrain.core.errors import BadData, BadMedia
from citybrain.models.images import MAX_BYTES, image_size

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


@dataclass(frozen=True, slots=True)
class ClassifiedImage:
    """One image, encoded, and the name of its class."""

    raw: bytes
    label: str
    name: str


def read_image_folders(path: Path) -> Iterator[ClassifiedImage]:
    """The images in the order of their names; BadData names the first bad file."""
    if not path.is_dir():
        raise BadData(f"There is no folder {path.name}.")
    root = path.resolve()
    folders = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    files = [p for folder in folders for p in sorted(folder.iterdir())
             if p.suffix.lower() in SUFFIXES]  # fmt: skip
    if not files:
        raise BadData(
            f"{path.name} holds no images.", hint="Put each class into a sub-folder of its name."
        )
    for file in files:
        name = file.relative_to(path).as_posix()
        try:
            if not file.resolve().is_relative_to(root) or not file.is_file():
                raise BadData(f"{name} is not a file of this folder.")
            if file.stat().st_size > MAX_BYTES:
                raise BadData(f"{name} is larger than {MAX_BYTES // 10**6} MB.")
            raw = file.read_bytes()
            image_size(raw)
        except OSError as error:
            raise BadData(f"{name} cannot be read: {error.strerror}.") from error
        except BadMedia as error:
            reason = error.message.removeprefix("Item 0: ")
            raise BadData(f"{name}: {reason}", hint=error.hint) from error
        yield ClassifiedImage(raw, file.parent.name, name)
