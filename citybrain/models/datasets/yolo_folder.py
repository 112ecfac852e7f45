"""Detection: a folder in the YOLO layout.

`images/` (also in sub-folders), for each image `labels/<same name>.txt` with a line
`class cx cy w h` an object, in shares of the image (no file: no objects); optional
`data.yaml` with `names`; optional `tags.csv` (`file,<tag>,…`) for slices.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from citybrain.core.errors import BadData, BadMedia
from citybrain.core.tensors import Array
from citybrain.models.images import MAX_BYTES, image_size
from citybrain.models.yaml_file import parse_yaml

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
MAX_IMAGES = 200_000
MAX_TEXT = 50_000_000
MAX_OBJECTS = 2_000
MAX_CLASS = 999
_SLACK = 0.01  # exporters round: a box may stick out of its image by so much


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """One image: its encoded bytes on demand, its objects as class ids and shares."""

    path: Path
    name: str
    width: int
    height: int
    classes: Array
    shares: Array
    tags: dict[str, str]

    def read(self) -> bytes:
        """The encoded image."""
        return _bytes(self.path, self.name, MAX_BYTES)

    def boxes(self) -> Array:
        """Frames in pixels, `FP32[k,4]` (x1, y1, x2, y2), inside the image."""
        centre, half = self.shares[:, :2], self.shares[:, 2:] / 2
        corners = np.concatenate([centre - half, centre + half], axis=1).clip(0.0, 1.0)
        found: Array = corners * np.array([self.width, self.height] * 2)
        return found.astype(np.float32)


@dataclass(frozen=True, slots=True)
class YoloFolder:
    """The images in the order of their names, and the classes' names where `data.yaml` tells."""

    images: list[LabelledImage]
    names: dict[int, str]


class _Names(BaseModel):
    names: list[str] | dict[int, str] = {}


def read_yolo(path: Path) -> YoloFolder:
    """Read a folder; BadData names the first bad file and line. Images are not decoded yet."""
    if not (path / "images").is_dir():
        raise BadData(
            f"{path.name} has no folder images/.",
            hint="A detection data set is images/ and labels/*.txt (YOLO).",
        )
    root = path.resolve()
    files = sorted(p for p in (path / "images").rglob("*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise BadData(f"{path.name}/images holds no JPEG, PNG, WebP or BMP files.")
    if len(files) > MAX_IMAGES:
        raise BadData(f"{path.name}/images holds more than {MAX_IMAGES} files.")
    names = _names(path / "data.yaml")
    tags = _tags(path / "tags.csv")
    found = []
    for file in files:
        name = file.relative_to(path / "images").as_posix()
        if not file.resolve().is_relative_to(root):
            raise BadData(f"images/{name} is a link out of the folder.")
        label = path / "labels" / Path(name).with_suffix(".txt")
        classes, shares = _objects(label, f"labels/{Path(name).with_suffix('.txt').as_posix()}")
        if names and len(classes) and (unknown := set(classes.tolist()) - names.keys()):
            raise BadData(
                f"labels/{Path(name).with_suffix('.txt').as_posix()}: "
                f"data.yaml has no name for class {min(unknown)}."
            )
        try:
            width, height = image_size(_bytes(file, f"images/{name}", MAX_BYTES))
        except BadMedia as error:
            reason = error.message.removeprefix("Item 0: ")
            raise BadData(f"images/{name}: {reason}", hint=error.hint) from error
        found.append(LabelledImage(file, name, width, height, classes, shares, tags.pop(name, {})))
    if tags:
        raise BadData(f"tags.csv names {next(iter(tags))[:80]!r}, which images/ lacks.")
    return YoloFolder(found, names)


def _bytes(path: Path, name: str, limit: int) -> bytes:
    try:
        if path.stat().st_size > limit:
            raise BadData(f"{name} is larger than {limit // 10**6} MB.")
        return path.read_bytes()
    except OSError as error:
        raise BadData(f"{name} cannot be read: {error.strerror}.") from error


def _text(path: Path, name: str) -> str:
    try:
        return _bytes(path, name, MAX_TEXT).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise BadData(f"{name}:{line}: not UTF-8 text.") from error


def _objects(path: Path, name: str) -> tuple[Array, Array]:
    """Class ids `[k]` and shares `[k,4]` of one label file; none without a file."""
    lines = _text(path, name).splitlines() if path.is_file() else []
    classes, shares = [], []
    for number, line in enumerate(lines, 1):
        if not (fields := line.split()):
            continue
        where = f"{name}:{number}"
        if len(fields) != 5:
            raise BadData(f"{where}: five numbers (class cx cy w h) are needed, not {len(fields)}.")
        try:
            kind, box = float(fields[0]), [float(field) for field in fields[1:]]
        except ValueError:
            raise BadData(f"{where}: {line[:60]!r} is not five numbers.") from None
        if not (0 <= kind <= MAX_CLASS and kind.is_integer()):
            raise BadData(f"{where}: the class must be a whole number from 0 to {MAX_CLASS}.")
        _check_box(box, where)
        classes.append(int(kind))
        shares.append(box)
        if len(classes) > MAX_OBJECTS:
            raise BadData(f"{where}: more than {MAX_OBJECTS} objects.")
    return np.array(classes, np.int64), np.array(shares, np.float64).reshape(-1, 4)


def _check_box(box: list[float], where: str) -> None:
    x, y, wide, high = box
    inside = (x - wide / 2 >= -_SLACK and y - high / 2 >= -_SLACK
              and x + wide / 2 <= 1 + _SLACK and y + high / 2 <= 1 + _SLACK)  # fmt: skip
    if not (wide > 0 and high > 0 and inside):  # also refuses NaN and infinity
        raise BadData(
            f"{where}: the box is not inside the image.",
            hint="cx cy w h are shares of the image, from 0 to 1.",
        )


def _names(path: Path) -> dict[int, str]:
    if not path.is_file():
        return {}
    names = parse_yaml(_bytes(path, path.name, MAX_TEXT), path.name, _Names, BadData).names
    known = dict(enumerate(names)) if isinstance(names, list) else names
    for number, name in known.items():
        if not (0 <= number <= MAX_CLASS and 0 < len(name) <= 80 and name.isprintable()):
            raise BadData(f"data.yaml: names: class {number} has no usable name.")
    return known


def _tags(path: Path) -> dict[str, dict[str, str]]:
    """Tags by image name."""
    if not path.is_file():
        return {}
    rows = csv.reader(io.StringIO(_text(path, path.name), newline=""), strict=True)
    found: dict[str, dict[str, str]] = {}
    try:
        header = [name.strip() for name in next(rows, [])]
        if header[:1] != ["file"] or len(set(header)) < len(header):
            raise BadData("tags.csv:1: the header must be file,<tag>,….")
        for values in rows:
            if len(values) != len(header):
                raise BadData(
                    f"tags.csv:{rows.line_num}: {len(values)} values, "
                    f"where the header has {len(header)}."
                )
            found[values[0]] = dict(zip(header[1:], values[1:], strict=True))
    except csv.Error as error:
        raise BadData(f"tags.csv:{rows.line_num}: not CSV: {error}.") from error
    return found
