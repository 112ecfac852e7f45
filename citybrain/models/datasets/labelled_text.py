"""Labelled texts: CSV or JSONL (also gzipped) with `text`, `label` and `tag:` columns for slices."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from citybrain.core.errors import BadData

TAG = "tag:"
MAX_CHARACTERS = 2000
MAX_LABEL = 200


@dataclass(frozen=True)
class LabelledText:
    """One example, with the line of the file on which it starts."""

    text: str
    label: str
    tags: dict[str, str] = field(default_factory=dict)
    line: int = 0


def read_labelled_text(path: Path) -> list[LabelledText]:
    """All examples of a file; BadData names the first bad line.

    Columns other than `text`, `label` and `tag:…` are left aside.
    """
    if not path.is_file():
        raise BadData(f"There is no file {path.name}.")
    kind = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    if kind not in ("csv", "jsonl"):
        raise BadData(f"{path.name} is neither CSV nor JSONL.", hint="Name it .csv or .jsonl.")
    content = _decoded(path)
    records = _csv_records(content, path.name) if kind == "csv" else _jsonl(content, path.name)
    rows = [_checked(record, f"{path.name}:{line}", line) for line, record in records]
    if not rows:
        raise BadData(f"{path.name} holds no examples.")
    return rows


def _decoded(path: Path) -> str:
    try:
        raw = path.read_bytes()
        if path.suffix.lower() == ".gz":
            raw = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise BadData(f"{path.name} cannot be read: {type(error).__name__}.") from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise BadData(
            f"{path.name}:{line}: not UTF-8 text.", hint="Save the file as UTF-8."
        ) from error


def _csv_records(content: str, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)
    line = 1
    try:
        header = next(reader, [])
        if missing := [column for column in ("text", "label") if column not in header]:
            raise BadData(
                f"{name}:1: the column {missing[0]!r} is missing.", hint=f"It has: {header[:12]}."
            )
        if len(set(header)) < len(header):
            raise BadData(f"{name}:1: two columns have one name.")
        line = reader.line_num + 1
        for values in reader:
            if values:
                if len(values) != len(header):
                    raise BadData(f"{name}:{line}: {len(values)} values for {len(header)} columns.")
                yield line, dict(zip(header, values, strict=True))
            line = reader.line_num + 1  # a quoted text may span lines
    except csv.Error as error:
        raise BadData(f"{name}:{line}: {error}.") from error


def _jsonl(content: str, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    # Not splitlines(): it also splits at U+2028 and others, which JSON allows inside a text.
    for line, text in enumerate(content.split("\n"), 1):
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", "nested too deeply")
            raise BadData(f"{name}:{line}: not JSON: {reason}.") from error
        if not isinstance(record, dict):
            raise BadData(f"{name}:{line}: a JSON object was expected.")
        yield line, record


def _checked(record: dict[str, Any], where: str, line: int) -> LabelledText:
    text, label = record.get("text"), record.get("label")
    if isinstance(label, int) and not isinstance(label, bool):
        label = str(label)
    for column, value in (("text", text), ("label", label)):
        if not isinstance(value, str) or not value.strip():
            raise BadData(f"{where}: {column} is empty or no text.")
    clean, name = str(text).strip(), str(label).strip()
    if len(clean) > MAX_CHARACTERS:
        raise BadData(f"{where}: text has {len(clean)} characters, at most {MAX_CHARACTERS} go.")
    if len(name) > MAX_LABEL:
        raise BadData(f"{where}: label is longer than {MAX_LABEL} characters.")
    tags = {k.removeprefix(TAG): str(v) for k, v in record.items() if k.startswith(TAG)}
    try:
        "".join((clean, name, *tags, *tags.values())).encode()
    except UnicodeEncodeError as error:
        raise BadData(f"{where}: half a surrogate pair, which no text can hold.") from error
    return LabelledText(clean, name, tags, line)
