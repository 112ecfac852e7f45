"""A home in one file, made while it runs, and put back into an empty folder.

Every database is copied by SQLite's own online backup. Journals are linked before the platform's database is
copied and once more after it: whatever the loader does meanwhile, each line is in the copied ledger or in a
journal beside it, and the ledger takes every call once. So nothing that was answered before the copy
began is missing.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import sqlite3
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from citybrain import __version__
from citybrain.core.errors import BadData, Conflict, InvalidInput, MissingLibrary
from citybrain.core.home import Home
from citybrain.core.settings import Settings
from citybrain.models.package import check_relative
from citybrain.platform.state import supervisor_alive

MANIFEST = "manifest.json"
FORMAT = 1
DUMP = "platform.pgdump"
LEFT_OUT = {"run", "denials", "logs", "work", "spool", "backups"}
"""What a start makes anew, or is no use elsewhere."""
SQLITE = b"SQLite format 3\0"
SIDES = ("-wal", "-shm", "-journal")
Watch = Callable[[float, str], None]


def back_up(
    home: Home, settings: Settings, out: Path, watch: Watch = lambda _, __: None
) -> dict[str, Any]:
    """Write a home into a tar file, which appears whole under its name; what is in it."""
    if not home.pepper.exists():
        raise InvalidInput(
            f"{home.root} is no home of a platform.", hint="--home, or CITYBRAIN_HOME"
        )
    if out.exists():
        raise Conflict(f"{out} exists.", hint="Give another name; nothing is written over.")
    if out.resolve().is_relative_to(home.root.resolve()):
        raise InvalidInput(
            "A backup inside the home would contain itself.", hint="Give another folder."
        )
    files: dict[str, dict[str, Any]] = {}
    fresh = out.with_name(f".{out.name}.part")
    begun = datetime.now(UTC)
    try:
        with (
            tempfile.TemporaryDirectory(dir=home.root, prefix=".backup-") as folder,
            tarfile.open(fresh, "w", format=tarfile.PAX_FORMAT) as archive,
        ):
            fresh.chmod(0o600)
            staged = Path(folder)
            _link_journals(home, staged)
            if settings.database_url:
                _dump(settings.database_url, staged / DUMP)
            else:
                copy_database(home.database, staged / home.database.name)
            _link_journals(home, staged)
            told = [*_staged(staged), *_others(home)]
            size = sum(path.stat().st_size for _, path in told) or 1
            done = 0
            for name, path in told:
                done += _add(archive, name, path, staged, files)
                watch(min(1.0, done / size), name)
            manifest = {
                "format": FORMAT, "citybrain": __version__, "at": begun.isoformat(),
                "database": "postgresql" if settings.database_url else "sqlite", "files": files,
            }  # fmt: skip
            data = json.dumps(manifest, indent=1).encode()
            info = tarfile.TarInfo(MANIFEST)
            info.size, info.mode = len(data), 0o600
            archive.addfile(info, io.BytesIO(data))
        with fresh.open("rb") as file:
            os.fsync(file.fileno())
        fresh.rename(out)
    finally:
        fresh.unlink(missing_ok=True)
    return manifest


def copy_database(source: Path, target: Path) -> None:
    """A consistent copy of a SQLite database that others write to."""
    with (
        contextlib.closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True, timeout=60)) as old,
        contextlib.closing(sqlite3.connect(target)) as new,
    ):
        old.backup(new)
        new.execute("PRAGMA journal_mode=DELETE")
    target.chmod(0o600)


def _dump(url: str, target: Path) -> None:
    if shutil.which("pg_dump") is None:
        raise MissingLibrary("pg_dump is not installed.", hint="apt install postgresql-client")
    address = url.replace("+psycopg", "", 1)
    command = ["pg_dump", "--format=custom", "--no-owner", "--file", str(target), address]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BadData(f"pg_dump failed: {done.stderr.strip()[-300:]}")


def _link_journals(home: Home, staged: Path) -> None:
    """Journals under a second name: the loader may finish and remove the first meanwhile."""
    folder = staged / "journal"
    folder.mkdir(exist_ok=True)
    for path in home.journal.glob("*.journal"):
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            os.link(path, folder / path.name)


def _staged(staged: Path) -> list[tuple[str, Path]]:
    return [(p.relative_to(staged).as_posix(), p) for p in sorted(staged.rglob("*")) if p.is_file()]


def _others(home: Home) -> Iterator[tuple[str, Path]]:
    """Everything else of a home."""
    own = {"journal", *LEFT_OUT}
    for top in sorted(home.root.iterdir()):
        if top.name in own or top.name.startswith(".") or top.is_symlink():
            continue
        if top.name.startswith(home.database.name):
            continue
        paths = sorted(top.rglob("*")) if top.is_dir() else [top]
        for path in paths:
            if path.is_symlink() or not path.is_file() or path.name.endswith(SIDES):
                continue
            yield path.relative_to(home.root).as_posix(), path


def _add(
    archive: tarfile.TarFile, name: str, path: Path, staged: Path, files: dict[str, dict[str, Any]]
) -> int:
    """One file into the archive: a database by its own copy, others up to their length of now."""
    try:
        with path.open("rb") as file:
            is_database = file.read(len(SQLITE)) == SQLITE
    except FileNotFoundError:  # it was removed meanwhile: a result that expired
        return 0
    if is_database and not path.is_relative_to(staged):
        copy = staged / f"copy-{len(files)}"
        copy_database(path, copy)
        path = copy
    digest = hashlib.sha256()
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, 0o600

        class Counted(io.RawIOBase):
            def read(self, wanted: int = -1) -> bytes:
                data = file.read(wanted)
                digest.update(data)
                return data

        archive.addfile(info, Counted())
    files[name] = {"size": size, "sha256": digest.hexdigest()}
    return size


def restore(archive: Path, home: Home, *, database_url: str = "") -> dict[str, Any]:
    """Put a backup into an empty home; nothing is there until all of it was checked."""
    if supervisor_alive(home):
        raise Conflict(f"A platform runs in {home.root}.", hint="Restore into another folder.")
    if home.root.exists() and any(home.root.iterdir()):
        raise Conflict(f"{home.root} is not empty.", hint="Restore into a new folder: --home")
    home.root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.root.parent, prefix=".restore-") as folder:
        fresh = Path(folder) / "home"
        manifest = _unpack(archive, fresh)
        if manifest["database"] == "postgresql":
            _load_dump(fresh / DUMP, database_url)
        with contextlib.suppress(FileNotFoundError):
            home.root.rmdir()
        fresh.rename(home.root)
    Home(home.root).make()
    return manifest


def _unpack(archive: Path, folder: Path) -> dict[str, Any]:
    """Regular files only, each where its name says, and each as the manifest says."""
    folder.mkdir(mode=0o700)
    found: dict[str, tuple[int, str]] = {}
    manifest: dict[str, Any] = {}
    try:
        with tarfile.open(archive, "r:") as packed:
            for member in packed:
                if not member.isreg():
                    raise BadData(f"{archive.name} holds {member.name[:80]!r}, which is no file.")
                content = packed.extractfile(member)
                assert content is not None
                if member.name == MANIFEST:
                    manifest = json.loads(content.read())
                    continue
                target = folder / check_relative(member.name)
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                digest = hashlib.sha256()
                with target.open("xb") as out:
                    target.chmod(0o600)
                    while data := content.read(1 << 20):
                        digest.update(data)
                        out.write(data)
                found[member.name] = (member.size, digest.hexdigest())
    except (tarfile.TarError, EOFError, ValueError, FileExistsError) as error:
        raise BadData(f"{archive.name} is not a whole backup: {str(error)[:200]}") from error
    if manifest.get("format") != FORMAT:
        raise BadData(f"{archive.name} is not a whole backup of this form.")
    said = {name: (fact["size"], fact["sha256"]) for name, fact in manifest["files"].items()}
    for name in sorted(said.keys() ^ found.keys()) or sorted(
        n for n in said if said[n] != found[n]
    ):
        raise BadData(f"{archive.name}: {name} is not as it was backed up.")
    return manifest


def _load_dump(dump: Path, url: str) -> None:
    if not url:
        raise InvalidInput(
            "This backup holds a PostgreSQL database.",
            hint="Name an empty one: CITYBRAIN_DATABASE_URL=postgresql+psycopg://…",
        )
    if shutil.which("pg_restore") is None:
        raise MissingLibrary("pg_restore is not installed.", hint="apt install postgresql-client")
    address = url.replace("+psycopg", "", 1)
    command = ["pg_restore", "--no-owner", "--exit-on-error", "--dbname", address, str(dump)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BadData(f"pg_restore failed: {done.stderr.strip()[-300:]}")
    dump.unlink()
