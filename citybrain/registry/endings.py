"""How an algorithm ends: retired with notice to its callers, or a mistaken version taken away."""

from __future__ import annotations

import shutil
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

from citybrain.core.dates import read_moment
from citybrain.core.errors import InvalidInput, VersionNotFound
from citybrain.core.home import Home
from citybrain.core.names import Ref, parse_ref
from citybrain.core.schemas import Actor
from citybrain.core.schemas.history import Caller, NewRetirement, Retirement, VersionEnd
from citybrain.registry.catalogue import Catalogue
from citybrain.registry.projection import Projection
from citybrain.registry.runs import DIGEST, FORMS, PACKAGE, forms_in
from citybrain.registry.tracker import everything, run_folder
from citybrain.storage.moments import now
from citybrain.storage.records.endings import Endings
from citybrain.storage.records.verdicts import Verdicts

LOOK_BACK = timedelta(days=30)


class Undertaker:
    """Retires, withdraws and deletes; what happened stays in the history and the audit."""

    def __init__(
        self, catalogue: Catalogue, projection: Projection, endings: Endings, verdicts: Verdicts,
        home: Home, zone: ZoneInfo,
    ) -> None:  # fmt: skip
        self._catalogue = catalogue
        self._projection = projection
        self._endings = endings
        self._verdicts = verdicts
        self._home = home
        self._zone = zone

    def callers(self, name: str, version: int | None) -> list[Caller]:
        """Who called it in the last 30 days."""
        self._known(name, version)
        return self._endings.callers(name, version or 0, now() - LOOK_BACK)

    def retire(self, name: str, new: NewRetirement, actor: Actor) -> Retirement:
        """Give notice; from the sunset on, calls are refused."""
        self._known(name, new.version)
        sunset = read_moment(new.sunset, self._zone, end=True)
        if sunset <= now():
            raise InvalidInput(
                f"The sunset {sunset:%Y-%m-%d %H:%M %z} is in the past.",
                hint="Give callers time: choose a later date.",
            )
        if new.replacement:
            self._check_replacement(name, new)
        done = self._endings.retire(name, new.version or 0, sunset, new.replacement, actor)
        self._projection.project(name)
        return done

    def _check_replacement(self, name: str, new: NewRetirement) -> None:
        ref = parse_ref(new.replacement)
        self._catalogue.algorithm(ref.algorithm)
        ends = {r.version for r in self._endings.retirements(ref.algorithm)}
        number = self._catalogue.resolve(ref) if ref.target else 0
        itself = ref.algorithm == name and (new.version is None or number == new.version)
        if itself or ends & {0, number}:
            why = "is what is being retired" if itself else "is retired itself"
            raise InvalidInput(
                f"{ref} {why}.", hint="Name another algorithm or version as the replacement."
            )

    def undo(self, name: str, version: int | None, actor: Actor) -> None:
        """Take the notice back."""
        self._catalogue.algorithm(name)
        self._endings.undo(name, version or 0, actor)
        self._projection.project(name)

    def withdraw(self, name: str, version: int, reason: str, actor: Actor) -> VersionEnd:
        """Close a mistaken version for promotion and deployment."""
        digest = self._known(name, version)
        done = self._endings.withdraw(name, version, digest, reason, actor)
        self._projection.project(name)
        return done

    def delete(self, name: str, version: int, actor: Actor) -> VersionEnd:
        """Remove a withdrawn version from MLflow and its package from the disk.

        The intent is written first and MLflow's version goes last, so that asking again finishes what
        a kill interrupted; asking once more is no error.
        """
        with self._catalogue.lock:
            self._catalogue.algorithm(name)
            versions = everything(self._catalogue.client.search_model_versions)
            found = [one for one in versions if (one.name, int(one.version)) == (name, version)]
            known = {(end.version, end.kind) for end in self._endings.ends(name)}
            if not found and (version, "deleted") not in known:
                raise VersionNotFound(f"{name} has no version {version}.")
            verdict = self._verdicts.of(name, version)
            done = self._endings.delete(name, version, verdict.digest, actor)
            if verdict.run:  # a developer's own are theirs
                self._remove_artifacts(verdict.run, PACKAGE)
                self._remove_artifacts(verdict.run, FORMS)
            own = {done.digest}.union(*(_digests(one) for one in found))
            for digest in own.difference(*(_digests(one) for one in versions if one not in found)):
                if digest:
                    shutil.rmtree(self._home.packages / digest, ignore_errors=True)
            if found:
                self._catalogue.client.delete_model_version(name, str(version))
        return done

    def _remove_artifacts(self, run_id: str, path: str) -> None:
        try:
            folder = run_folder(self._catalogue.client, run_id, path)
        except VersionNotFound:
            return  # gone already, or never there
        if folder.resolve().is_relative_to(self._home.mlflow.resolve()):
            shutil.rmtree(folder, ignore_errors=True)

    def _known(self, name: str, version: int | None) -> str:
        """The digest of an existing version; nothing for a whole algorithm."""
        self._catalogue.algorithm(name)
        if version is None:
            return ""
        return self._catalogue.version(Ref(name, str(version))).digest


def _digests(found: Any) -> set[str]:
    """The packages that an MLflow version needs: its own, and those of its forms."""
    return {found.tags.get(DIGEST, ""), *(form.digest for form in forms_in(found.tags))}
