"""The lifecycle: a gate before every promotion, an approval, and the way back."""

from __future__ import annotations

from citybrain.core.errors import GateNotPassed, VersionNotFound
from citybrain.core.names import Ref
from citybrain.core.schemas import Actor, AliasMove, Evaluation, Promotion
from citybrain.registry.catalogue import Catalogue
from citybrain.registry.projection import Projection
from citybrain.storage.records.evaluations import Evaluations
from citybrain.storage.records.history import History


class Lifecycle:
    """Moves aliases, with evidence and a second pair of eyes."""

    def __init__(
        self, catalogue: Catalogue, projection: Projection, history: History,
        evaluations: Evaluations,
    ) -> None:  # fmt: skip
        self._catalogue = catalogue
        self._projection = projection
        self._history = history
        self._evaluations = evaluations

    def promote(self, name: str, version: int | None, alias: str, actor: Actor) -> Promotion:
        """Ask for a promotion; where the algorithm allows self-approval it is done at once."""
        algorithm = self._catalogue.algorithm(name)
        number = self._catalogue.resolve(Ref(name, str(version) if version else ""))
        self._catalogue.folder(name, number)  # an unusable version cannot be promoted
        evidence = self.evidence(name, number) if alias == "champion" else ""
        asked = self._history.ask(name, alias, number, evidence, actor)
        if algorithm.approval == "four-eyes":
            return asked
        return self.approve(asked.id, actor)

    def approve(self, promotion_id: str, actor: Actor) -> Promotion:
        """Approve a waiting promotion; the alias moves in the same transaction."""
        waiting = {p.id: p for p in self._history.promotions(state="waiting")}
        self_allowed = False
        if promotion_id in waiting:
            asked = waiting[promotion_id]
            self_allowed = self._catalogue.algorithm(asked.algorithm).approval == "self"
            if asked.alias == "champion":
                self.evidence(asked.algorithm, asked.version)  # it may have failed since
        done = self._history.approve(promotion_id, actor, self_allowed=self_allowed)
        self._projection.project(done.algorithm)
        return done

    def evidence(self, name: str, version: int) -> str:
        """The evaluation that a promotion rests on: the newest of every scenario must pass."""
        newest: dict[str, Evaluation] = {}
        for found in self._evaluations.find(algorithm=name, version=version, state="done"):
            if not found.data:  # only the scenario's own data count as an exam
                newest.setdefault(found.scenario, found)
        if not newest:
            raise GateNotPassed(
                f"{name}@{version} has not been evaluated in a scenario.",
                hint=f"Run: citybrain evaluate SCENARIO --algorithm {name}@{version}",
            )
        for found in newest.values():
            if not found.passed:
                failed = "; ".join(
                    rule["says"] for rule in found.report.get("gate", []) if not rule["passed"]
                )
                raise GateNotPassed(
                    f"{name}@{version} does not pass {found.scenario}: {failed}.",
                    hint="Train a better version, or ask the scenario's owner about the gate.",
                )
        return next(iter(newest.values())).id

    def roll_back(self, name: str, alias: str, actor: Actor) -> AliasMove:
        """Point an alias to the version that it pointed to before."""
        moves = self._history.moves(name, alias)
        if not moves or not moves[0].previous:
            raise VersionNotFound(f"{name}@{alias} has no earlier version to go back to.")
        now = moves[0].version
        # Back through the history past what stood there now: two rollbacks go two versions back.
        seen, target = {now}, moves[0].previous
        if moves[0].reason.startswith("rollback"):
            for move in moves[1:]:
                if move.version == now and not move.reason.startswith("rollback"):
                    target = move.previous
                    break
            if not target or target in seen:
                raise VersionNotFound(f"{name}@{alias} has no earlier version to go back to.")
        self._catalogue.folder(name, target)
        moved = self._history.move(
            name,
            alias,
            target,
            expected=now,
            reason=f"rollback from {now}",
            actor=actor,
        )
        self._projection.project(name)
        return moved
