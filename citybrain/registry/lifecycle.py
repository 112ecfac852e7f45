"""The lifecycle: a gate before every promotion, an approval, and the way back."""

from __future__ import annotations

from collections.abc import Callable

from citybrain.core.errors import Conflict, GateNotPassed, InvalidInput, VersionNotFound
from citybrain.core.names import RETIRED, Ref, check_alias
from citybrain.core.schemas import (
    Actor,
    AliasMove,
    Evaluation,
    NewPromotion,
    Promotion,
    PromotionNotice,
)
from citybrain.registry.catalogue import Catalogue
from citybrain.registry.endings import LOOK_BACK
from citybrain.registry.projection import Projection
from citybrain.storage.moments import now
from citybrain.storage.records.aliases import CHAMPION, ROLLBACK
from citybrain.storage.records.endings import Endings
from citybrain.storage.records.evaluations import Evaluations
from citybrain.storage.records.history import History

CheckRoom = Callable[[str, str, int], None]
"""Told of an algorithm, an alias and the version that it is to point to."""


class Lifecycle:
    """Moves aliases, with evidence and a second pair of eyes."""

    def __init__(
        self, catalogue: Catalogue, projection: Projection, history: History,
        evaluations: Evaluations, endings: Endings, check_room: CheckRoom = lambda *_: None,
    ) -> None:  # fmt: skip
        """`check_room` refuses a version that is too large for what runs under an alias."""
        self._check_room = check_room
        self._catalogue = catalogue
        self._projection = projection
        self._history = history
        self._evaluations = evaluations
        self._endings = endings

    def notice(self, name: str, new: NewPromotion) -> PromotionNotice:
        """What a promotion would change, and for whom; refused as the promotion would be."""
        number, _ = self._candidate(name, new)
        return PromotionNotice(
            algorithm=name, alias=new.alias, version=number,
            previous=self._history.aliases(name).get(name, {}).get(new.alias, 0),
            approval=self._catalogue.algorithm(name).approval,
            callers=self._endings.callers(name, 0, now() - LOOK_BACK),
        )  # fmt: skip

    def promote(self, name: str, new: NewPromotion, actor: Actor) -> Promotion:
        """Ask for a promotion; where the algorithm allows self-approval it is done at once.

        With a source alias, the version behind it is copied: the same version in another
        environment, with the same lineage.
        """
        number, evidence = self._candidate(name, new)
        asked = self._history.ask(
            name, new.alias, number, evidence, actor, source=new.source, expected=new.expected
        )
        if self._catalogue.algorithm(name).approval == "four-eyes":
            return asked
        return self.approve(asked.id, actor)

    def _candidate(self, name: str, new: NewPromotion) -> tuple[int, str]:
        """The version that is meant and its evidence, or why no alias may move to it."""
        check_alias(new.alias)
        if new.source and (new.version or new.source == new.alias):
            raise InvalidInput("A promotion takes a version, or another alias to copy it from.")
        target = str(new.version) if new.version else new.source
        number = self._catalogue.resolve(Ref(name, target))
        if self._history.closed(name).get(number) == RETIRED:
            raise Conflict(
                f"{name}@{number} is retired.",
                hint=f"Take that back first: citybrain retire {name}@{number} --undo",
            )
        self._catalogue.folder(name, number)  # an unusable version cannot be promoted
        self._check_room(name, new.alias, number)
        return number, self.evidence(name, number) if new.alias == CHAMPION else ""

    def approve(self, promotion_id: str, actor: Actor) -> Promotion:
        """Approve a waiting promotion; the alias moves in the same transaction."""
        asked = self._history.promotion(promotion_id)
        if asked.state == "waiting":  # it may have failed since, or others taken the room
            if asked.alias == CHAMPION:
                self.evidence(asked.algorithm, asked.version)
            self._check_room(asked.algorithm, asked.alias, asked.version)
        self_allowed = self._catalogue.algorithm(asked.algorithm).approval == "self"
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
        """Point an alias to the version before, past closed ones; again: one more back."""
        check_alias(alias)
        moves = self._history.moves(name, alias)
        # Promotions pile versions up, rollbacks take from the top: what lies below comes next.
        pile: list[int] = []
        for move in reversed(moves):
            if move.reason.startswith(ROLLBACK):
                while pile and pile[-1] != move.version:
                    pile.pop()
            else:
                pile.append(move.version)
        before = moves[0].version if moves else 0
        closed, passed = self._history.closed(name), dict[int, str]()
        target = 0
        for version in reversed(pile):
            if version in closed and version != before:
                passed[version] = closed[version]
            elif version not in (0, before):
                target = version
                break
        past = ", ".join(f"{version} ({why})" for version, why in passed.items())
        if not before or not target:
            why = f" Closed: {past}." if past else ""
            raise VersionNotFound(f"{name}@{alias} has no earlier version to go back to.{why}")
        self._catalogue.folder(name, target)
        moved = self._history.move(
            name, alias, target, expected=before, actor=actor,
            reason=f"{ROLLBACK} from {before}" + (f", past {past}" if past else ""),
        )  # fmt: skip
        self._projection.project(name)
        return moved
