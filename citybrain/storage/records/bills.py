"""The price book, and months computed from the ledger: every line leads back to its calls."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Select, func, select

from citybrain.core.dates import month_of
from citybrain.core.errors import Conflict, InvalidInput, RowNotFound
from citybrain.core.schemas import Actor
from citybrain.core.schemas.bills import (
    YUAN,
    Income,
    NewPrice,
    OneCall,
    Price,
    Statement,
    StatementLine,
)
from citybrain.storage.bill_tables import PriceRow, StatementRow
from citybrain.storage.database import Database, lock
from citybrain.storage.moments import now
from citybrain.storage.records.audit import note
from citybrain.storage.tables import AlgorithmRow, RequestRow

SERVED = "SERVED"


class Bills:
    """What is owed, and for what."""

    def __init__(self, database: Database, zone: ZoneInfo) -> None:
        self._database = database
        self._zone = zone

    def prices(self) -> list[Price]:
        """The whole price book, newest first."""
        query = select(PriceRow).order_by(PriceRow.begins.desc(), PriceRow.id.desc())
        with self._database.read() as session:
            return [
                Price.model_validate(row, from_attributes=True) for row in session.scalars(query)
            ]

    def set_price(self, new: NewPrice, actor: Actor) -> Price:
        """Add a version of a line; what was used before it begins keeps its price."""
        moment = now()
        begins = new.begins or moment
        if (moment - begins).total_seconds() > 60:
            raise InvalidInput("A price cannot begin in the past: what was used has its price.")
        with self._database.write() as session:
            lock(session, "prices")
            same = select(func.max(PriceRow.version)).where(
                PriceRow.algorithm == new.algorithm, PriceRow.unit == new.unit
            )
            row = PriceRow(
                algorithm=new.algorithm, unit=new.unit, version=(session.scalar(same) or 0) + 1,
                micros=round(new.yuan * YUAN), begins=begins, note=new.note, set_by=actor.person,
                set_at=moment,
            )  # fmt: skip
            session.add(row)
            session.flush()
            note(session, actor, "price.set", new.algorithm or "all", unit=new.unit,
                 version=row.version, micros=row.micros, begins=begins)  # fmt: skip
            return Price.model_validate(row, from_attributes=True)

    def statement(self, department: str, month: str) -> Statement:
        """A month as it was issued, or as it is now."""
        with self._database.read() as session:
            row = session.get(StatementRow, (department, month))
            if row is not None:
                return Statement.model_validate(row.content | {"digest": row.digest})
        return self._work_out(department, month)

    def issue(self, department: str, month: str, actor: Actor) -> Statement:
        """Fix a month that is over: from now on it is shown as it is today."""
        if month_of(month, self._zone)[1] > now():
            raise Conflict(f"{month} is not over yet.", hint="Look at it without issuing it.")
        found = self._work_out(department, month).model_copy(update={"issued_at": now()})
        digest = hashlib.sha256(found.model_dump_json(exclude={"digest"}).encode()).hexdigest()
        with self._database.write() as session:
            lock(session, f"statement/{department}")
            if session.get(StatementRow, (department, month)) is not None:
                raise Conflict(f"The statement of {department} for {month} is issued already.")
            session.add(
                StatementRow(
                    department=department, month=month, digest=digest, micros=found.micros,
                    content=found.model_dump(mode="json"), issued_by=actor.person,
                    issued_at=found.issued_at,
                )
            )  # fmt: skip
            note(session, actor, "statement.issue", department, month=month, digest=digest,
                 micros=found.micros)  # fmt: skip
        return found.model_copy(update={"digest": digest})

    def calls_of(
        self, department: str, month: str, number: int, after: str = "", limit: int = 200
    ) -> list[OneCall]:
        """The answered calls behind one line, in order of their ids."""
        line = next(
            (one for one in self.statement(department, month).lines if one.number == number), None
        )
        if line is None:
            raise RowNotFound(
                f"The statement of {department[:63]} for {month} has no line {number}."
            )
        query = (
            select(RequestRow)
            .where(
                RequestRow.department == department, RequestRow.algorithm == line.algorithm,
                RequestRow.purpose == line.purpose, RequestRow.scenario == line.scenario,
                RequestRow.state == SERVED, RequestRow.at >= line.begins, RequestRow.at < line.ends,
                RequestRow.request_id > after,
            )
            .order_by(RequestRow.request_id).limit(limit)
        )  # fmt: skip
        return self._calls(query)

    def calls(
        self, department: str, *, algorithm: str = "", failed: bool = False,
        since: datetime | None = None, limit: int = 100,
    ) -> list[OneCall]:  # fmt: skip
        """A department's own calls, newest first."""
        query = select(RequestRow).where(RequestRow.department == department)
        if algorithm:
            query = query.where(RequestRow.algorithm == algorithm)
        if failed:
            query = query.where(RequestRow.state != SERVED)
        if since:
            query = query.where(RequestRow.at >= since)
        return self._calls(query.order_by(RequestRow.at.desc()).limit(limit))

    def income(self, owner: str, month: str) -> list[Income]:
        """What departments used and owe of an owner's algorithms, most first."""
        begin, end = month_of(month, self._zone)
        with self._database.read() as session:
            departments = session.scalars(
                select(RequestRow.department).distinct()
                .join(AlgorithmRow, AlgorithmRow.name == RequestRow.algorithm)
                .where(RequestRow.at >= begin, RequestRow.at < end, AlgorithmRow.owner == owner)
            ).all()  # fmt: skip
        found: dict[tuple[str, str], list[int]] = {}
        for department in departments:
            for line in self.statement(department, month).lines:
                if line.owner == owner:
                    sums = found.setdefault((line.algorithm, department), [0, 0])
                    sums[0] += line.requests if line.unit == "requests" else 0
                    sums[1] += line.micros
        rows = [
            Income(algorithm=algorithm, department=department, requests=requests, micros=micros)
            for (algorithm, department), (requests, micros) in found.items()
        ]
        return sorted(rows, key=lambda row: (-row.micros, -row.requests))

    def _calls(self, query: Select[Any]) -> list[OneCall]:
        with self._database.read() as session:
            return [
                OneCall.model_validate(row, from_attributes=True) for row in session.scalars(query)
            ]

    def _work_out(self, department: str, month: str) -> Statement:
        begin, end = month_of(month, self._zone)
        book = self.prices()
        # A price holds from its beginning to the next one's: the month is cut where one begins.
        cuts = sorted({begin, end, *(p.begins for p in book if begin < p.begins < end)})
        lines: list[StatementLine] = []
        for first, last in pairwise(cuts):
            for used in self._used(department, first, last):
                lines += _lines(used, book, first, last, len(lines) + 1)
        with self._database.read() as session:
            failed = session.scalar(
                select(func.count()).select_from(RequestRow).where(
                    RequestRow.department == department, RequestRow.at >= begin,
                    RequestRow.at < end, RequestRow.state == "FAILED",
                )
            )  # fmt: skip
        return Statement(
            department=department, month=month, lines=lines,
            micros=sum(line.micros for line in lines), failed=int(failed or 0),
            requests=sum(line.requests for line in lines if line.unit == "requests"),
        )  # fmt: skip

    def _used(self, department: str, begin: datetime, end: datetime) -> Iterator[Any]:
        row = RequestRow
        keys = (row.algorithm, AlgorithmRow.owner, row.purpose, row.scenario)
        query = (
            select(
                *keys, func.max(row.unit).label("unit"), func.count().label("requests"),
                func.sum(row.rows).label("rows"), func.sum(row.amount).label("amount"),
                func.sum(row.work_micros).label("work"),
            )
            .outerjoin(AlgorithmRow, AlgorithmRow.name == row.algorithm)
            .where(row.department == department, row.state == SERVED, row.at >= begin, row.at < end)
            .group_by(*keys).order_by(*keys)
        )  # fmt: skip
        with self._database.read() as session:
            yield from session.execute(query).all()


def _lines(
    used: Any, book: list[Price], begin: datetime, end: datetime, number: int
) -> list[StatementLine]:
    """One line for each unit that has a price; requests always have a line."""
    quantities = {
        "requests": float(used.requests), "rows": float(used.rows), used.unit: float(used.amount),
        "cpu-seconds": float(used.work) / 1e6,
    }  # fmt: skip
    found: list[StatementLine] = []
    for unit, quantity in quantities.items():
        price = price_at(book, used.algorithm, unit, begin)
        if not unit or (price is None and unit != "requests"):
            continue
        micros = price.micros if price else 0
        found.append(
            StatementLine(
                number=number + len(found), algorithm=used.algorithm, owner=used.owner or "",
                purpose=used.purpose, scenario=used.scenario, unit=unit,
                quantity=round(quantity, 6), requests=used.requests, price_micros=micros,
                price_version=price.version if price else 0, micros=round(quantity * micros),
                begins=begin, ends=end,
            )
        )  # fmt: skip
    return found


def price_at(book: list[Price], algorithm: str, unit: str, moment: datetime) -> Price | None:
    """The newest price that has begun: of the algorithm, else of all."""
    for whose in (algorithm, ""):
        begun = [p for p in book if (p.algorithm, p.unit) == (whose, unit) and p.begins <= moment]
        if begun:
            return max(begun, key=lambda price: (price.begins, price.version))
    return None
