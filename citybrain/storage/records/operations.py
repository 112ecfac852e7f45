"""How scenarios and algorithms are used, and how satisfied callers are: from the ledger and ratings."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from sqlalchemy import Integer, cast, func, select
from sqlalchemy.orm import Session

from citybrain.core.dates import month_of
from citybrain.core.errors import RowNotFound
from citybrain.core.schemas import Actor
from citybrain.core.schemas.bills import (
    LowUse,
    NewRating,
    Operation,
    OperationWeek,
    PurposeUse,
    Rating,
)
from citybrain.storage.bill_tables import RatingRow
from citybrain.storage.database import Database
from citybrain.storage.grant_tables import GrantRow
from citybrain.storage.moments import now
from citybrain.storage.tables import AlgorithmRow, RequestRow, UsageDayRow

WEEKS = 8
FAILED = cast(RequestRow.status >= 500, Integer)


class Operations:
    """The plan's operation evaluation."""

    def __init__(self, database: Database, zone: ZoneInfo) -> None:
        self._database = database
        self._zone = zone

    def rate(self, request_id: str, department: str, new: NewRating, actor: Actor) -> Rating:
        """Say what an answer was worth; again: anew. Only the department that got it."""
        with self._database.write() as session:
            call = session.get(RequestRow, request_id)
            if call is None or (department and call.department != department):
                raise RowNotFound(
                    "There is no such call in the ledger.",
                    hint="A call appears within a second or two.",
                )
            row = session.get(RatingRow, request_id)
            if row is None:
                row = RatingRow(
                    request_id=request_id, department=call.department, algorithm=call.algorithm,
                    version=call.version, scenario=call.scenario,
                )  # fmt: skip
                session.add(row)
            row.stars, row.reason = new.stars, new.reason
            row.rated_by, row.at = actor.person, now()
            return Rating.model_validate(row, from_attributes=True)

    def ratings(self, algorithm: str, limit: int = 100) -> list[Rating]:
        """What callers said of an algorithm, newest first."""
        query = select(RatingRow).where(RatingRow.algorithm == algorithm)
        with self._database.read() as session:
            rows = session.scalars(query.order_by(RatingRow.at.desc()).limit(limit))
            return [Rating.model_validate(row, from_attributes=True) for row in rows]

    def scenario(self, name: str) -> Operation:
        """Who is registered, who calls, with what success, how satisfied, and the weeks before."""
        moment = now()
        week, month = moment - timedelta(days=7), moment - timedelta(days=30)
        with self._database.read() as session:
            registered = session.scalar(
                select(func.count(func.distinct(GrantRow.department))).where(
                    GrantRow.scenario == name, GrantRow.revoked_at.is_(None),
                    GrantRow.until.is_(None) | (GrantRow.until > moment),
                )
            )  # fmt: skip
            active_day = _active(session, name, moment - timedelta(days=1), moment)
            active_week = _active(session, name, week, moment)
            calls, failed = _calls(session, name, month, moment)
            stars, ratings = _stars(session, name, month, moment)
            trend = [self._week(session, name, moment - timedelta(weeks=n)) for n in range(WEEKS)]
        return Operation(
            scenario=name, registered=registered or 0, active_day=active_day,
            active_week=active_week,
            use_rate=round(active_week / registered, 4) if registered else 0.0, requests=calls,
            error_rate=round(failed / calls, 6) if calls else 0.0, satisfaction=stars,
            ratings=ratings, trend=trend[::-1],
        )  # fmt: skip

    def _week(self, session: Session, name: str, end: datetime) -> OperationWeek:
        begin = end - timedelta(weeks=1)
        calls, failed = _calls(session, name, begin, end)
        return OperationWeek(
            ends=f"{end.astimezone(self._zone):%Y-%m-%d}", requests=calls, failed=failed,
            active=_active(session, name, begin, end), stars=_stars(session, name, begin, end)[0],
        )  # fmt: skip

    def low_use(self, *, days: int = 30, fewer: int = 100) -> list[LowUse]:
        """Algorithms that are older than these days and were called less often, to be retired."""
        moment = now()
        since = f"{(moment - timedelta(days=days)).astimezone(self._zone):%Y-%m-%d}"
        used = (
            select(
                UsageDayRow.algorithm, func.sum(UsageDayRow.requests).label("requests"),
                func.count(func.distinct(UsageDayRow.department)).label("departments"),
                func.max(UsageDayRow.day).label("last_day"),
            )
            .where(UsageDayRow.day >= since).group_by(UsageDayRow.algorithm).subquery()
        )  # fmt: skip
        query = (
            select(
                AlgorithmRow.name,
                AlgorithmRow.owner,
                used.c.requests,
                used.c.departments,
                used.c.last_day,
            )
            .outerjoin(used, used.c.algorithm == AlgorithmRow.name)
            .where(AlgorithmRow.created_at < moment - timedelta(days=days))
            .where(func.coalesce(used.c.requests, 0) < fewer)
            .order_by(func.coalesce(used.c.requests, 0), AlgorithmRow.name)
        )
        with self._database.read() as session:
            return [
                LowUse(algorithm=name, owner=owner, requests=int(requests or 0),
                       departments=int(departments or 0), last_day=last or "")
                for name, owner, requests, departments, last in session.execute(query)
            ]  # fmt: skip

    def purposes(self, month: str, department: str = "") -> list[PurposeUse]:
        """What was called for which purpose in a month; the sums are those of the ledger."""
        begin, end = month_of(month, self._zone)
        row = RequestRow
        keys = (row.department, row.algorithm, row.purpose)
        query = (
            select(*keys, func.count(), func.sum(cast(row.state != "SERVED", Integer)))
            .where(row.at >= begin, row.at < end).group_by(*keys).order_by(*keys)
        )  # fmt: skip
        if department:
            query = query.where(row.department == department)
        with self._database.read() as session:
            return [
                PurposeUse(department=whose, algorithm=algorithm, purpose=purpose,
                           requests=count, failed=int(failed or 0))
                for whose, algorithm, purpose, count, failed in session.execute(query)
            ]  # fmt: skip


def _active(session: Session, scenario: str, begin: datetime, end: datetime) -> int:
    query = select(func.count(func.distinct(RequestRow.department))).where(
        RequestRow.scenario == scenario, RequestRow.at >= begin, RequestRow.at < end
    )
    return session.scalar(query) or 0


def _calls(session: Session, scenario: str, begin: datetime, end: datetime) -> tuple[int, int]:
    query = select(func.count(), func.sum(FAILED)).where(
        RequestRow.scenario == scenario, RequestRow.at >= begin, RequestRow.at < end
    )
    calls, failed = session.execute(query).one()
    return int(calls), int(failed or 0)


def _stars(
    session: Session, scenario: str, begin: datetime, end: datetime
) -> tuple[float | None, int]:
    query = select(func.avg(RatingRow.stars), func.count()).where(
        RatingRow.scenario == scenario, RatingRow.at >= begin, RatingRow.at < end
    )
    mean, count = session.execute(query).one()
    return (round(float(mean), 3) if mean is not None else None), int(count)
