"""What a call that writes to MLflow may say, beyond what MLflow itself checks.

MLflow separates the departments' experiments and models. Here stands what it cannot know: which
algorithms the platform governs and whose they are, which versions are registered, and that
`citybrain.*` tags, `champion` and `retired` are not set by hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from citybrain.core.errors import ApprovalNeeded, InvalidInput, NotAllowed
from citybrain.core.names import RETIRED, check_name
from citybrain.core.schemas import Actor
from citybrain.platform.policy import reaches
from citybrain.platform.tracking.routes import check_path
from citybrain.platform.tracking.server import artifacts_address
from citybrain.platform.tracking.users import Users
from citybrain.platform.wiring import ControlPlane
from citybrain.registry.projection import ACTOR, actor_tag
from citybrain.registry.tracker import OWN, everything, run_of
from citybrain.registry.words import WORDS
from citybrain.storage.records.verdicts import UNDECIDED, Verdict

Body = dict[str, Any]
CHAMPION = "champion"
CREATIONS = ("POST registered-models/create", "POST model-versions/create")


class Rules:
    """One check for each write; returns the body that MLflow gets."""

    def __init__(self, plane: ControlPlane, users: Users) -> None:
        self._plane = plane
        self._users = users
        self._client = plane.catalogue.client
        self._inside = artifacts_address(plane.truths.home) + "/"

    def check(self, name: str, body: Body, actor: Actor) -> Body:
        """Refuse, or give back the body as MLflow may see it."""
        _check_form(body)
        method, _, route = name.partition(" ")
        what, _, act = route.partition("/")
        owner = ""
        if what in ("registered-models", "model-versions"):
            owner = self._check_owner(_text(body, "name"), actor)
        self._check_tags(name, body, governed=bool(owner))
        match what, act:
            case "registered-models", "create":
                check_name(_text(body, "name"), "algorithm name")
            case "registered-models", "delete" if owner:
                raise NotAllowed(
                    f"{_text(body, 'name')} is an algorithm of the platform.",
                    hint="Retire it: citybrain retire NAME --sunset DATE",
                )
            case "registered-models", "alias":
                self._check_alias(body, actor, deletes=method == "DELETE")
            case "model-versions", "create":
                return self._new_version(body, actor)
            case "model-versions", "delete":
                self._check_version_may_go(body)
            case "experiments", "create" | "update":
                _check_experiment(body)
            case "experiments", "delete":
                self._check_experiment_may_go(_text(body, "experiment_id"))
            case "runs", "delete":
                self._check_run_may_go(_text(body, "run_id"))
            case "runs", "create" if actor.role != "admin":
                _check_not_nobodys(body)
            case "logged-models", _ if act:
                model = act.partition("/")[0]
                if body.get("model_id", model) != model:
                    raise InvalidInput("The body names another model than the address.")
                if method == "DELETE":
                    self._check_logged_model_may_go(model)
        return body

    def _check_owner(self, name: str, actor: Actor) -> str:
        """The department that owns an algorithm of the platform; nothing for other models."""
        owner = self._plane.truths.history.algorithms().get(name, ("", ""))[0]
        if owner and not reaches(actor, "version.register", owner):
            raise NotAllowed(f"{name} belongs to {owner}, not to {actor.department}.")
        if owner and actor.role != "admin":
            self._users.let_manage(actor.department, name)
        return owner

    def _check_tags(self, name: str, body: Body, *, governed: bool) -> None:
        open_to_all = name in CREATIONS or (
            name == "POST registered-models/set-tag" and not governed
        )
        for key in _tag_keys(body):
            if key.startswith("mlflow.prompt."):
                raise NotAllowed("Prompts are not kept here.")
            if key.startswith("citybrain.") and not (key in WORDS and open_to_all):
                raise NotAllowed(
                    f"The tag {key[:80]} is the platform's own.",
                    hint=f"When a model or version is made, {', '.join(sorted(WORDS))} may be told.",
                )

    def _check_alias(self, body: Body, actor: Actor, *, deletes: bool) -> None:
        name, alias, version = (_text(body, field) for field in ("name", "alias", "version"))
        if alias == RETIRED:
            raise NotAllowed(
                f"The alias {RETIRED} marks what was retired.",
                hint="Use: citybrain retire NAME@version",
            )
        if alias != CHAMPION:
            return
        history = self._plane.truths.history
        if deletes or not version.isdigit() or not self._verdict(name, version).digest:
            raise NotAllowed(
                f"The alias {CHAMPION} is moved by promotions alone, to registered versions.",
                hint=f"Evaluate one, then: citybrain promote {name}",
            )
        number = int(version)
        if history.aliases(name).get(name, {}).get(CHAMPION) == number:
            return  # as it is
        same = [p for p in history.promotions(name, "waiting")
                if (p.alias, p.version) == (CHAMPION, number)]  # fmt: skip
        asked = same[0] if same else history.ask(name, CHAMPION, number, "", actor)
        raise ApprovalNeeded(
            f"{name}@{CHAMPION} is moved by promotions alone. One to version {number} was asked for"
            f" and waits: {asked.id}.",
            hint=f"When it has passed its gate: citybrain promote --approve {asked.id}",
        )

    def _new_version(self, body: Body, actor: Actor) -> Body:
        """Its source must be MLflow's own; who made it is written into it, once and for all."""
        source = _text(body, "source")
        scheme, _, rest = source.partition(":/")
        if scheme not in ("runs", "models", "mlflow-artifacts"):
            raise InvalidInput(
                f"{source[:100]!r} is not a source of this MLflow.",
                hint="Give a runs:/, models:/ or mlflow-artifacts:/ address.",
            )
        check_path(f"/{rest}")  # the second slash of a host is an empty part
        if scheme == "mlflow-artifacts":
            source = f"{self._inside}{rest}"
        tags = [*body.get("tags", []), {"key": ACTOR, "value": actor_tag(actor)}]
        return {**body, "source": source, "tags": tags}

    def _check_version_may_go(self, body: Body) -> None:
        name, version = _text(body, "name"), _text(body, "version")
        if not version.isdigit() or self._verdict(name, version).digest:
            raise NotAllowed(
                f"{name}@{version[:20]} is registered; its lineage is kept.",
                hint=f"Close it: citybrain withdraw {name}@{version[:20]} --reason TEXT",
            )

    def _verdict(self, name: str, version: str) -> Verdict:
        return self._plane.truths.verdicts.of(name, int(version))

    def _registered(self) -> Iterator[tuple[Any, Verdict]]:
        verdicts = self._plane.truths.verdicts.all()
        for found in everything(self._client.search_model_versions):
            verdict = verdicts.get((found.name, int(found.version)), UNDECIDED)
            if verdict.digest:
                yield found, verdict

    def _check_run_may_go(self, run_id: str) -> None:
        """It may be what a version came from, or hold a version's files."""
        for found, verdict in self._registered():
            if run_id in (found.run_id, verdict.run):
                raise _lineage(found)

    def _check_experiment_may_go(self, number: str) -> None:
        for found, verdict in self._registered():
            for run_id in filter(None, (found.run_id, verdict.run)):
                run = run_of(self._client, run_id)
                if run and run.info.experiment_id == number:
                    raise _lineage(found)

    def _check_logged_model_may_go(self, model_id: str) -> None:
        for found, _ in self._registered():
            if model_id in (found.model_id, found.source.removeprefix("models:/")):
                raise _lineage(found)


def _lineage(found: Any) -> NotAllowed:
    return NotAllowed(
        f"{found.name}@{found.version} was registered from it; its lineage is kept.",
        hint=f"See: citybrain lineage {found.name}",
    )


def _check_form(body: Body) -> None:
    """MLflow reads `runId` as `run_id` too: with one spelling, checks see what it sees."""
    for key in body:
        if not re.fullmatch(r"[a-z_]+", key):
            raise InvalidInput(f"{key[:40]!r} is not a field; fields are written like run_id.")
    tags = body.get("tags", [])
    if not isinstance(tags, list) or not all(isinstance(tag, dict) for tag in tags):
        raise InvalidInput("`tags` is not a list of keys and values.")
    if any(not isinstance(tag.get("key"), str) or tag.keys() - {"key", "value"} for tag in tags):
        raise InvalidInput("A tag has a key and a value.")


def _check_experiment(body: Body) -> None:
    if body.get("artifact_location"):
        raise NotAllowed(
            "Where artifacts lie is the platform's business.", hint="Leave artifact_location out."
        )
    for field in ("name", "new_name"):
        if str(body.get(field, "")).startswith(OWN):
            raise NotAllowed(f"Names that begin with {OWN} are the platform's own.")


def _check_not_nobodys(body: Body) -> None:
    if _text(body, "experiment_id") in ("", "0"):
        raise NotAllowed(
            "Experiment 0 belongs to no department.",
            hint="Name your own first: mlflow.set_experiment('NAME')",
        )


def _tag_keys(body: Body) -> list[str]:
    keys = [tag["key"] for tag in body.get("tags", [])]
    return [*keys, _text(body, "key")] if "key" in body else keys


def _text(body: Body, field: str) -> str:
    value = body.get(field, "")
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise InvalidInput(f"`{field}` is not text.")
    return value
