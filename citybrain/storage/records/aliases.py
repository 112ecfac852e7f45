"""Where aliases point, and how they move: the parts of a transaction that several acts share."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from citybrain.core.errors import AliasMoved
from citybrain.core.schemas import Actor, AliasMove
from citybrain.storage.database import bump, lock
from citybrain.storage.moments import now
from citybrain.storage.records.audit import note
from citybrain.storage.records.closed import refuse_withdrawn
from citybrain.storage.records.notices import tell_users
from citybrain.storage.records.past import note_promotion
from citybrain.storage.tables import AliasMoveRow, PromotionRow

CHAMPION = "champion"
ROLLBACK = "rollback"
"""How the reason of a move begins that goes back."""
OVERTAKEN = "overtaken"
"""The state of a promotion whose alias moved before anybody decided it."""


def move_alias(
    session: Session, algorithm: str, alias: str, version: int, expected: int, reason: str,
    actor: Actor,
) -> AliasMove:  # fmt: skip
    """Append a move inside a transaction; version 0 takes the alias away."""
    lock(session, algorithm)
    newest = newest_move(session, algorithm, alias, expected)
    refuse_withdrawn(session, algorithm, version)
    row = AliasMoveRow(
        algorithm=algorithm, alias=alias, sequence=newest.sequence + 1 if newest else 1,
        version=version, previous=expected, reason=reason, moved_by=actor.key, at=now(),
    )  # fmt: skip
    session.add(row)
    note(session, actor, "alias.move", f"{algorithm}@{alias}", version=version,
         previous=expected, reason=reason)  # fmt: skip
    others = select(PromotionRow).where(
        PromotionRow.algorithm == algorithm, PromotionRow.alias == alias,
        PromotionRow.state == "waiting",
    )  # fmt: skip
    for promotion in session.scalars(others):  # asked for about what the alias was before
        decide(session, promotion, OVERTAKEN, actor)
    if alias == CHAMPION:
        back = reason.startswith(ROLLBACK)
        tell_users(session, algorithm, "champion.back" if back else "champion.changed",
                   version=version, previous=expected)  # fmt: skip
    bump(session)
    session.flush()
    return AliasMove.model_validate(row, from_attributes=True)


def newest_move(session: Session, algorithm: str, alias: str, expected: int) -> AliasMoveRow | None:
    """The alias's latest move, or AliasMoved when it points elsewhere than somebody believes."""
    newest = session.scalars(
        select(AliasMoveRow)
        .where(AliasMoveRow.algorithm == algorithm, AliasMoveRow.alias == alias)
        .order_by(AliasMoveRow.sequence.desc())
        .limit(1)
    ).first()
    found = newest.version if newest else 0
    if found != expected:
        raise AliasMoved(
            f"{algorithm}@{alias} points to version {found}, not {expected}.",
            hint="Look again and repeat what you still want.",
        )
    return newest


def latest_aliases(session: Session, algorithm: str) -> dict[str, int]:
    """Where each alias of an algorithm points, seen from inside a transaction."""
    query = (
        select(AliasMoveRow.alias, AliasMoveRow.version)
        .where(AliasMoveRow.algorithm == algorithm)
        .order_by(AliasMoveRow.sequence)
    )
    newest = {row.alias: row.version for row in session.execute(query)}
    return {alias: version for alias, version in newest.items() if version}


def decide(session: Session, row: PromotionRow, state: str, actor: Actor) -> None:
    """Bring a waiting promotion to its end."""
    row.state, row.decided_by, row.decided_at = state, actor.key, now()
    if state == "withdrawn" and row.alias == CHAMPION:  # who was told that it changes is told
        tell_users(session, row.algorithm, "champion.stays", version=row.version)
    note_promotion(session, row, actor.key, row.decided_at)
