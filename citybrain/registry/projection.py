"""What keeps MLflow and the platform's history one: adopt new versions, project the aliases.

Tags of a version are its registrant's words. What they tell of the model is heard; whether it was
admitted, and by whom, is asked of the platform's own records.
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from citybrain.core.errors import BadPackage, CityBrainError
from citybrain.core.home import Home
from citybrain.core.names import RETIRED, check_name
from citybrain.core.schemas import Actor
from citybrain.models.package import Manifest, Package, check_card, folder_digest
from citybrain.registry import words
from citybrain.registry.catalogue import PROBLEM, SIGNED, SOURCE, Catalogue
from citybrain.registry.facts import check_same_question, describe
from citybrain.registry.intake import Intake
from citybrain.registry.runs import DIGEST, RUN, log_package
from citybrain.registry.tracker import ChangeSign, everything, registered_artifacts, run_of
from citybrain.storage.records.history import History
from citybrain.storage.records.verdicts import UNDECIDED, Verdict, Verdicts

log = logging.getLogger(__name__)
MLFLOW = Actor(key="mlflow", department="platform", role="admin")
"""Who writes to the home's own MLflow file: somebody who may write to the home."""
ACTOR = "citybrain.actor"
"""Tag of a version that came through the MLflow door, written by the door alone."""
TRIES = 3


class Projection:
    """Run every few seconds, and after each act that moves an alias."""

    def __init__(
        self, catalogue: Catalogue, history: History, verdicts: Verdicts, home: Home,
        intake: Intake,
    ) -> None:  # fmt: skip
        self._catalogue = catalogue
        self._history = history
        self._verdicts = verdicts
        self._intake = intake
        self._home = home
        self._client = catalogue.client
        self._sign = ChangeSign(home.mlflow)
        self._seen: tuple[int, int] = (-1, -1)
        self._failures: Counter[tuple[str, int]] = Counter()

    def run(self) -> None:
        """Adopt, then project every algorithm; nothing at all when neither side has changed."""
        stamp = (self._sign.now(), self._history.revision())
        if stamp == self._seen:
            return
        verdicts = self._verdicts.all()
        models = {model.name: model for model in everything(self._client.search_registered_models)}
        done = True
        for found in everything(self._client.search_model_versions):
            verdict = verdicts.get((found.name, int(found.version)), UNDECIDED)
            if found.name in models and self._is_due(models[found.name], found, verdict):
                done &= self._survives(lambda f=found: self._adopt(models[f.name], f))  # type: ignore[misc]
        for name in models:
            done &= self._survives(lambda n=name: self.project(n))  # type: ignore[misc]
        if done:
            self._seen = stamp

    def _is_due(self, model: Any, found: Any, verdict: Verdict) -> bool:
        """Whether something is left to do for a version; one without words waits for new ones."""
        if verdict.untold and self._untold(model, found) == [*verdict.untold]:
            return False
        return not _is_settled(found, verdict)

    def _survives(self, work: Callable[[], None]) -> bool:
        """Whether the work went well; what one version or algorithm breaks stops no other."""
        try:
            work()
        except Exception:
            log.exception("MLflow and the history could not be brought together, will repeat")
            return False
        return True

    def _adopt(self, model: Any, found: Any) -> None:
        """Take in a plain MLflow version, or finish what a kill interrupted."""
        key = (found.name, int(found.version))
        actor = _actor(found)
        try:
            if digest := self._interrupted(found):
                with self._catalogue.lock:
                    manifest = Package.open(self._home.packages / digest).manifest
                    self._note(found, manifest, digest, actor, self._run_with(found, digest))
            else:
                self._admit(model, found, actor)
        except CityBrainError as error:
            self._turn_away(found, f"{error} {error.hint}".strip(), actor)
        except Exception:
            self._failures[key] += 1
            if self._failures[key] < TRIES:
                raise
            log.exception("%s@%s cannot be taken in", *key)
            self._turn_away(found, "Admission failed inside the platform; its log says why.", actor)

    def _interrupted(self, found: Any) -> str:
        """The digest of a registration that was killed before its note.

        A stranger may set this tag too. It gains nothing: the digest must be of an admitted package
        (the platform's private folder holds no other) of this very algorithm.
        """
        digest = found.tags.get(DIGEST, "")
        folder = self._home.packages / digest
        if not re.fullmatch(r"[0-9a-f]{64}", digest) or not folder.is_dir():
            return ""
        return digest if Package.open(folder).manifest.name == found.name else ""

    def _run_with(self, found: Any, digest: str) -> str:
        """The platform's run that holds this package, of those that the version names."""
        for run_id in (found.tags.get(RUN), found.run_id):
            run = run_of(self._client, run_id)
            if run and run.data.tags.get(DIGEST) == digest:
                return str(run_id)
        return ""

    def _admit(self, model: Any, found: Any, actor: Actor) -> None:
        """Through the sandbox, as any stranger's upload; the lock is not held meanwhile."""
        name, version = check_name(found.name, "algorithm name"), str(found.version)
        card, usual = words.of(self._catalogue, model, found, _department(found))
        check_card(usual | card)
        if owner := card.get("owner") or usual.get("owner"):
            self._catalogue.check_owner(name, owner, actor)
        with tempfile.TemporaryDirectory(dir=self._home.work, prefix="adopt-") as work:
            source = registered_artifacts(
                self._client, found, self._home.mlflow, remote=_is_remote(found)
            )
            if untold := [] if words.in_files(source) else words.untold(card, usual):
                self._turn_away(found, words.how_to_say(name, version, untold), actor, untold)
                return
            admitted = self._intake.admit(
                source, Path(work) / "admitted", {**card, "name": name}, usual
            )
            manifest = Package.open(admitted.folder).manifest
            if manifest.name != name:
                raise BadPackage(f"The package says that it is {manifest.name}, not {name}.")
            self._catalogue.check_owner(name, manifest.owner, actor)
            digest = folder_digest(admitted.folder)
            with self._catalogue.lock:
                check_same_question(self._catalogue, manifest)
                self._catalogue.store(admitted.folder, digest)
                self._catalogue.ensure_algorithm(name)
                run_id = log_package(
                    self._client, self._home.mlflow, admitted.folder, manifest, digest,
                    metrics={}, report=admitted.report,
                )  # fmt: skip
                for tag, value in ((SOURCE, "mlflow"), (RUN, run_id), (DIGEST, digest)):
                    self._client.set_model_version_tag(name, version, tag, value)
                if PROBLEM in found.tags:  # it was turned away before its words were told
                    self._client.delete_model_version_tag(name, version, PROBLEM)
                self._note(found, manifest, digest, actor, run_id)

    def _untold(self, model: Any, found: Any) -> list[str]:
        """What nobody can guess and nobody has said, if the files do not say it."""
        with suppress(BadPackage):
            return words.untold(*words.of(self._catalogue, model, found, _department(found)))
        return []

    def _note(self, found: Any, manifest: Manifest, digest: str, actor: Actor, run_id: str) -> None:
        """Under the lock: a registration may have been under way when we looked."""
        name, version = found.name, int(found.version)
        now = self._client.get_model_version(name, str(version))
        if not _is_settled(now, self._verdicts.of(name, version)):
            self._catalogue.check_owner(name, manifest.owner, actor)
            self._catalogue.note(manifest, version, digest, actor, run_id)

    def _turn_away(
        self, found: Any, problem: str, actor: Actor, untold: Sequence[str] = ()
    ) -> None:
        self._verdicts.turn_away(found.name, int(found.version), problem[:4000], actor, untold)
        with suppress(Exception):  # it may be gone by now
            self._client.set_model_version_tag(found.name, found.version, PROBLEM, problem[:4000])

    def project(self, name: str) -> None:
        """Make MLflow's aliases those of the history, after any crash in between."""
        with self._catalogue.lock:  # of two at once, one would take the other's for a stranger's
            self._project(name)

    def _project(self, name: str) -> None:
        model = self._catalogue.registered(name)
        if model is None:
            return
        verdicts = self._verdicts.all(name)
        wanted = self._history.aliases(name).get(name, {})
        actual = {alias: int(version) for alias, version in model.aliases.items()}
        waiting = {alias for alias, version in actual.items()
                   if _is_open(verdicts.get((name, version), UNDECIDED))}  # fmt: skip
        for alias, version in actual.items():
            last = int(model.tags.get(f"citybrain.alias.{alias}", 0))
            if version == wanted.get(alias) or version == last:
                continue  # ours, perhaps not projected yet
            if alias == RETIRED or version in self._history.closed(name):
                continue  # neither is plain MLflow's to set: it is put back below
            if alias in waiting or verdicts[name, version].problem:
                continue  # not (yet) a version of ours
            if alias == "champion":
                if not any(
                    p.version == version and p.alias == alias
                    for p in self._history.promotions(name, "waiting")
                ):
                    self._history.ask(name, alias, version, "", MLFLOW)
            else:
                self._history.move(
                    name, alias, version, expected=wanted.get(alias, 0),
                    reason="set by plain MLflow", actor=MLFLOW,
                )  # fmt: skip
                wanted[alias] = version
        for alias, version in wanted.items():
            if actual.get(alias) != version and alias not in waiting:
                self._client.set_registered_model_alias(name, alias, str(version))
            if model.tags.get(f"citybrain.alias.{alias}") != str(version):
                self._client.set_registered_model_tag(
                    name, f"citybrain.alias.{alias}", str(version)
                )
        for alias in actual.keys() - wanted.keys() - waiting:
            self._client.delete_registered_model_alias(name, alias)
        describe(self._catalogue, name)


def _is_open(verdict: Verdict) -> bool:
    """Whether a version may still become one of ours."""
    return verdict == UNDECIDED or bool(verdict.untold)


def _is_settled(found: Any, verdict: Verdict) -> bool:
    """Whether nothing is left to do: turned away, or noted, with its tags in MLflow."""
    noted = verdict.digest and found.tags.get(DIGEST) and found.tags.get(SIGNED)
    return bool(noted or (verdict.problem and not verdict.untold))


def _is_remote(found: Any) -> bool:
    return ACTOR in found.tags


def _department(found: Any) -> str:
    """Whose key registered a version; nothing for the home's own MLflow file, which has no keys."""
    return _actor(found).department if _is_remote(found) else ""


def actor_tag(actor: Actor) -> str:
    """The value of the door's tag."""
    return f"{actor.role} {actor.department} {actor.key}"


def _actor(found: Any) -> Actor:
    """Who registered a version: the door says it of remote ones, nobody else can come here."""
    if not _is_remote(found):
        return MLFLOW
    role, _, rest = found.tags[ACTOR].partition(" ")
    department, _, key = rest.partition(" ")
    return Actor(key=key, department=department, role=role if role == "admin" else "developer")
