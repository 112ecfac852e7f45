"""Our own extractor for zip and tar: regular files only, nothing outside, nothing too large.

Python's `tarfile` before 3.12 has no safe default, and its `data` filter was passable
(CVE-2025-4517, -4330, -4138), so every file is created here, by us, under a name that was checked.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from citybrain.core.errors import BadPackage, TooLarge
from citybrain.models.package import check_relative
from citybrain.models.zip_file import open_zip

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_ENTRIES = 5_000
MAX_BYTES = 8 << 30
MAX_RATIO = 100
SMALL = 1 << 20
"""A file or an archive below this may be compressed as well as it likes."""
CHUNK = 1 << 20
MAX_DEPTH = 20
MAX_HEADER = 64 << 10
DESCRIBING = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)  # fmt: skip
UNPACK: dict[str, Callable[..., Any]] = {
    "gz": gzip.open, "bz2": bz2.open, "xz": lzma.open, "tgz": gzip.open,
}  # fmt: skip
BROKEN = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError,
    NotImplementedError, RuntimeError, ValueError, OverflowError, TypeError, IndexError, KeyError,
    struct.error,
)  # fmt: skip


@dataclass
class Member:
    """A file in an archive."""

    name: str
    size: int
    """As the archive says; what comes out is counted."""
    open: Callable[[], IO[bytes]]


def is_archive(path: Path) -> bool:
    """Whether the name says that it is one."""
    return path.name.lower().endswith(SUFFIXES)


def extract(archive: Path, out: Path) -> None:
    """Write every file of the archive below `out`; BadPackage or TooLarge, and then use nothing."""
    seen: set[str] = set()
    total, allowed = 0, max(archive.stat().st_size * MAX_RATIO, SMALL)
    try:
        for count, member in enumerate(_members(archive), 1):
            if count > MAX_ENTRIES:
                raise TooLarge(f"The archive holds more than {MAX_ENTRIES} files.")
            name = check_relative(member.name).as_posix()
            if name.casefold() in seen:
                raise BadPackage(f"The archive holds {name[:80]!r} twice (letter case is ignored).")
            seen.add(name.casefold())
            if total + member.size > min(allowed, MAX_BYTES):
                raise TooLarge(_too_much(allowed))
            target = out / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with member.open() as source, target.open("xb") as file:
                while chunk := source.read(CHUNK):
                    total += len(chunk)
                    if total > min(allowed, MAX_BYTES):
                        raise TooLarge(_too_much(allowed))
                    file.write(chunk)
    except BROKEN as error:
        # An OSError's text would tell where the files lie.
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise BadPackage(f"The archive cannot be read: {reason[:200]}.") from error
    if not seen:
        raise BadPackage("The archive is empty.")


def single_folder(folder: Path) -> Path:
    """The only folder in this one, if it holds nothing else: archives often wrap everything."""
    inside = list(folder.iterdir())
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


def _too_much(allowed: int) -> str:
    return f"The archive unpacks to more than {min(allowed, MAX_BYTES) >> 20} MB ({MAX_RATIO} times its size)."


def _members(archive: Path) -> Iterator[Member]:
    if archive.name.lower().endswith(".zip"):
        yield from _zip_members(archive)
    else:
        yield from _tar_members(archive)


def _zip_members(archive: Path) -> Iterator[Member]:
    with open_zip(archive, MAX_ENTRIES) as opened:
        for entry in opened.infolist():
            if entry.flag_bits & 1:
                raise BadPackage(f"{entry.filename[:80]!r} is encrypted.")
            kind = entry.external_attr >> 28
            if entry.filename.endswith("/"):  # is_dir() fails on an empty name
                check_relative(entry.filename.rstrip("/"))
                continue
            if kind not in (0, 8):  # Unix mode: absent, or a regular file
                raise BadPackage(f"{entry.filename[:80]!r} is not a regular file.")
            if entry.orig_filename != entry.filename:  # a NUL or a backslash was in it
                raise BadPackage(f"{entry.orig_filename[:80]!r} is not a path inside the folder.")
            yield Member(entry.filename, entry.file_size, partial(opened.open, entry))


def _tar_members(archive: Path) -> Iterator[Member]:
    # `r|` reads once from front to back: no seeking to where the archive would like us to. Unpacked
    # by us: tarfile's own stream makes 10 KB of .bz2 into gigabytes at once.
    unpack = next((u for end, u in UNPACK.items() if archive.name.lower().endswith(end)), Path.open)
    with (
        unpack(archive, "rb") as plain,
        tarfile.open(fileobj=plain, mode="r|", tarinfo=_Careful) as opened,
    ):
        for count, entry in enumerate(opened):
            if count > MAX_ENTRIES:
                raise TooLarge(f"The archive holds more than {MAX_ENTRIES} entries.")
            if entry.isdir():
                if entry.name.rstrip("/") != ".":  # `tar -C folder .` begins with the folder itself
                    check_relative(entry.name.rstrip("/").removeprefix("./"))
                continue
            if entry.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or entry.sparse is not None:
                raise BadPackage(f"{entry.name[:80]!r} is not a regular file.")
            if "\0" in entry.name:
                raise BadPackage(f"{entry.name[:80]!r} is not a path inside the folder.")
            yield Member(
                entry.name.removeprefix("./"), entry.size,
                partial(opened.extractfile, entry),  # type: ignore[arg-type]
            )  # fmt: skip


class _Careful(tarfile.TarInfo):
    """Headers that describe the next one are read into memory whole; so only small ones."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in DESCRIBING and self.size > MAX_HEADER:
            raise BadPackage(f"The archive holds a header of {self.size} bytes.")
        found: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        return found


def only_regular(folder: Path) -> None:
    """Whatever wrote this folder: regular files with one name each, or BadPackage."""
    for root, folders, files in os.walk(folder):
        if len(Path(root).relative_to(folder).parts) > MAX_DEPTH:
            raise BadPackage(f"The folder is more than {MAX_DEPTH} folders deep.")
        for name in (*folders, *files):
            path = Path(root, name)
            found = path.lstat()
            if name in folders and not path.is_symlink():
                continue
            if not path.is_file() or path.is_symlink() or found.st_nlink != 1:
                raise BadPackage(f"{path.relative_to(folder)} is not a regular file of its own.")
