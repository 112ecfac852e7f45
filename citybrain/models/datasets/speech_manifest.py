"""Speech: a folder or zip with sound files and a `manifest.csv` of `file,text[,speaker]`.

Columns named `tag:…` describe slices, as in tables. A number is written in digits, without
spaces: `3 0 7` is read as `307`. A zip is read in memory and never unpacked.
"""

from __future__ import annotations

import csv
import io
import unicodedata
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from citybrain.core.errors import BadData, BadMedia, BadPackage
from citybrain.core.tensors import Array
from citybrain.models.audio import MAX_BYTES, decode
from citybrain.models.package import check_relative

MANIFEST = "manifest.csv"
MAX_MANIFEST = 50_000_000
MAX_LINES = 200_000
MAX_ENTRIES = 400_000
MAX_TEXT = 2_000
TAG = "tag:"


@dataclass(frozen=True, slots=True)
class Utterance:
    """One recording with what is said in it."""

    samples: Array
    rate: int
    text: str
    speaker: str
    tags: dict[str, str]
    name: str


def normalise(text: str) -> str:
    """Lower case, full-width forms made plain, single spaces; digits without spaces."""
    plain = " ".join(unicodedata.normalize("NFKC", text).lower().split())
    joined = plain.replace(" ", "")
    return joined if joined.isdecimal() else plain


def read_speech(path: Path) -> Iterator[Utterance]:
    """The utterances in the manifest's order; BadData names the first bad line."""
    with ExitStack() as stack:
        source: _Folder | _Zip
        if path.is_dir():
            source = _Folder(path)
        elif path.is_file():
            source = _Zip(path, stack)
        else:
            raise BadData(f"There is no folder or file {path.name}.")
        yield from _utterances(source)


def _utterances(source: _Folder | _Zip) -> Iterator[Utterance]:
    try:
        table = source.read(MANIFEST, MAX_MANIFEST).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise BadData(f"{MANIFEST}:{line}: not UTF-8 text.") from error
    rows = csv.reader(io.StringIO(table, newline=""), strict=True)
    found = 0
    try:
        header = [name.strip() for name in next(rows, [])]
        if len(set(header)) < len(header) or not {"file", "text"} <= set(header):
            raise BadData(f"{MANIFEST}:1: the header must be file,text[,speaker].")
        for values in rows:
            if not any(values):
                continue
            found += 1
            if found > MAX_LINES:
                raise BadData(f"{MANIFEST}:{rows.line_num}: more than {MAX_LINES} lines.")
            if len(values) != len(header):
                raise BadData(
                    f"{MANIFEST}:{rows.line_num}: {len(values)} values, "
                    f"where the header has {len(header)}."
                )
            yield _utterance(source, dict(zip(header, values, strict=True)), rows.line_num)
    except csv.Error as error:
        raise BadData(f"{MANIFEST}:{rows.line_num}: not CSV: {error}.") from error
    if not found:
        raise BadData(f"{MANIFEST} lists no recordings.")


def _utterance(source: _Folder | _Zip, row: dict[str, str], line: int) -> Utterance:
    where = f"{MANIFEST}:{line}"
    file, text = row["file"].strip(), normalise(row["text"])
    if not text or len(text) > MAX_TEXT or not text.isprintable():
        raise BadData(f"{where}: the text must have 1 to {MAX_TEXT} printable characters.")
    try:
        check_relative(file)
        samples, rate = decode(source.read(file, MAX_BYTES))
    except BadPackage as error:
        raise BadData(f"{where}: {file[:80]!r} is not a path inside the data set.") from error
    except BadMedia as error:
        reason = error.message.removeprefix("Item 0: ")
        raise BadData(f"{where}: {file[:80]}: {reason}") from error
    except BadData as error:
        raise BadData(f"{where}: {error.message}") from error
    speaker = row.get("speaker", "").strip()[:80]
    tags = {"speaker": speaker} if speaker else {}
    tags |= {k.removeprefix(TAG): v.strip() for k, v in row.items() if k.startswith(TAG)}
    return Utterance(samples, rate, text, speaker, tags, file)


class _Folder:
    """Files below one folder; a link that leads out of it is refused."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    def read(self, name: str, limit: int) -> bytes:
        path = (self._root / name).resolve()
        if not path.is_relative_to(self._root) or not path.is_file():
            raise BadData(f"there is no file {name[:80]}.")
        if path.stat().st_size > limit:
            raise BadData(f"{name[:80]} is larger than {limit // 1_000_000} MB.")
        try:
            return path.read_bytes()
        except OSError as error:
            raise BadData(f"{name[:80]} cannot be read: {error.strerror}.") from error


class _Zip:
    """Members of a zip, read into memory one at a time."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        try:
            self._zip = stack.enter_context(zipfile.ZipFile(path))
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise BadData(f"{path.name} is not a zip file that can be read.") from error
        names = self._zip.namelist()
        if len(names) > MAX_ENTRIES:
            raise BadData(f"{path.name} holds more than {MAX_ENTRIES} files.")
        # A zipped folder has everything one level down; the manifest says where.
        found = [PurePosixPath(n) for n in names if PurePosixPath(n).name == MANIFEST]
        shallow = sorted(found, key=lambda entry: len(entry.parts))
        if not shallow or len(shallow[0].parts) > 2:
            raise BadData(f"{path.name} has no {MANIFEST} at its top.")
        self._prefix = "" if len(shallow[0].parts) == 1 else f"{shallow[0].parent}/"

    def read(self, name: str, limit: int) -> bytes:
        try:
            entry = self._zip.getinfo(self._prefix + name)
            if entry.flag_bits & 1:
                raise BadData(f"{name[:80]} is encrypted.")
            with self._zip.open(entry) as file:
                raw = file.read(limit + 1)  # the directory's word for the size is not taken
        except KeyError as error:
            raise BadData(f"there is no file {name[:80]}.") from error
        except BadData:
            raise
        except Exception as error:  # zipfile, zlib, lzma and bz2 have an error each for it
            raise BadData(f"{name[:80]} is damaged.") from error
        if len(raw) > limit:
            raise BadData(f"{name[:80]} is larger than {limit // 1_000_000} MB.")
        return raw
