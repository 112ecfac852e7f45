"""The lifecycle: a gate before every promotion, an approval, and the way back."""

from __future__ import annotations

from citybrain.core.errors import Conflict, GateNotPassed, InvalidInput, VersionNotFound
from citybrain.core.names import Ref, check_alias
from citybrain.core.schemas import Actor, AliasMove, Evaluation, Promotion
from citybrain.registry.catalogue import Catalogue
from citybrain.registry.projection import Projection
from citybrain.storage.records.endings import Endings
from citybrain.storage.records.evaluations import Evaluations
from citybrain.storage.records.history import History

ROLLBACK = "rollback"


class Lifecycle:
    """Moves aliases, with evidence and a second pair of eyes."""

    def __init__(
        self, catalogue: Catalogue, projection: Projection, history: History,
        evaluations: Evaluations, endings: Endings,
    ) -> None:  # fmt: skip
        self._catalogue = catalogue
        self._projection = projection
        self._history = history
        self._evaluations = evaluations
        self._endings = endings

    def promote(
        self, name: str, version: int | None, alias: str, actor: Actor, *, source: str = ""
    ) -> Promotion:
        """Ask for a promotion; where the algorithm allows self-approval it is done at once.

        With a source alias, the version behind it is copied: the same version in another
        environment, with the same lineage.
        """
        check_alias(alias)
        if source and (version or source == alias):
            raise InvalidInput("A promotion takes a version, or another alias to copy it from.")
        algorithm = self._catalogue.algorithm(name)
        number = self._catalogue.resolve(Ref(name, str(version) if version else source))
        if any(r.version == number for r in self._endings.retirements(name)):
            raise Conflict(
                f"{name}@{number} is retired.",
                hint=f"Take that back first: citybrain retire {name}@{number} --undo",
            )
        self._catalogue.folder(name, number)  # an unusable version cannot be promoted
        evidence = self.evidence(name, number) if alias == "champion" else ""
        asked = self._history.ask(name, alias, number, evidence, actor, source=source)
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
        """Point an alias to the version before, past withdrawn ones; again: one more back."""
        moves = self._history.moves(name, alias)
        # Promotions pile versions up, rollbacks take from the top: what lies below comes next.
        pile: list[int] = []
        for move in reversed(moves):
            if move.reason.startswith(ROLLBACK):
                while pile and pile[-1] != move.version:
                    pile.pop()
            else:
                pile.append(move.version)
        now = moves[0].version if moves else 0
        gone = {end.version for end in self._endings.ends(name)} | {0, now}
        target = next((version for version in reversed(pile) if version not in gone), 0)
        if not now or not target:
            raise VersionNotFound(f"{name}@{alias} has no earlier version to go back to.")
        self._catalogue.folder(name, target)
        moved = self._history.move(
            name,
            alias,
            target,
            expected=now,
            reason=f"{ROLLBACK} from {now}",
            actor=actor,
        )
        self._projection.project(name)
        return moved
