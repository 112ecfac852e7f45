"""Admission from outside: two sandboxes, and a package that may be registered, or the reason why not.

A model that stays on another server is tried from here, for the sandbox has no network.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from citybrain.core.errors import BadPackage
from citybrain.models.package import MANIFEST, Package, package_files
from citybrain.models.runtime import RUNTIMES
from citybrain.registry.admission.archive import only_regular
from citybrain.registry.admission.examining import try_remote
from citybrain.registry.admission.samples import put_data
from citybrain.registry.sandbox import Isolation, Limits, isolation, run_isolated

STEPS = "citybrain.registry.admission"
Data = Callable[[], AbstractContextManager[Path | None]]
"""A data set to compare on, there while the context lasts; none where there is none."""
NO_DATA: Data = nullcontext


@dataclass
class Admitted:
    """A package that passed, and what was seen on the way."""

    folder: Path
    report: dict[str, Any] = field(default_factory=dict)


def admit(
    source: Path,
    work: Path,
    card: dict[str, Any],
    limits: Limits,
    *,
    usual: dict[str, Any] | None = None,
    data: Data = NO_DATA,
    how: Isolation | None = None,
) -> Admitted:
    """Open, convert if need be, and examine a file or folder; BadPackage, TooLarge say why not.

    `work` is an empty folder of the caller's, who removes it. The first sandbox may have been taken
    over by what it opened, so its result is examined in a second one that never saw the source.
    `card` is what was said of the model besides its files; `usual` what holds where neither says a word.
    `data` gives a data set whose samples are compared where something is converted; asked for only then.
    `how` is the best isolation that the machine gives, unless told.
    """
    if source.is_symlink() or not (source.is_dir() or source.is_file()):
        raise BadPackage(f"{source.name} is not a regular file or a folder.")
    how = how or isolation()[0]
    report: dict[str, Any] = {"isolation": how.value}
    package = source
    plain = source.is_dir() and _is_plain(source)
    if plain:
        package_files(source)  # too many are refused before they are copied twice
    if not plain:
        opened = work / "open"
        _copy(source, opened / "in")
        with data() as found:
            if found is not None:
                put_data(found, opened)
        told = {"card": card, "usual": usual or {}}
        report |= run_isolated(f"{STEPS}.opening:open_source", opened, told, limits=limits, how=how)
        package = opened / "out"
    only_regular(package)
    examined = work / "examine"
    _copy(package, examined / "in")
    report["examined"] = run_isolated(
        f"{STEPS}.examining:examine", examined, {}, limits=limits, how=how
    )
    manifest = Package.open(package).manifest
    if plain:
        manifest.check_words(card)
    if RUNTIMES.get(manifest.runtime).remote:
        report["examined"] |= try_remote(package)
    return Admitted(package, report)  # not the examined copy, which the second sandbox could write


def _is_plain(folder: Path) -> bool:
    """Whether it is a package already, with weights that are served as they are."""
    if not (folder / MANIFEST).is_file():
        return False
    suffixes = {path.suffix.lower() for path in folder.rglob("*")}
    return not suffixes & {".pt", ".pth", ".pt2", ".skops"}


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True)
    if source.is_dir():
        only_regular(source)
        shutil.copytree(source, target, symlinks=True)
    else:
        target.mkdir()
        shutil.copyfile(source, target / source.name, follow_symlinks=False)
