"""U3: an act and its record are one transaction. Killed anywhere, there is never one without the other."""

import os
import random
from collections import Counter
from pathlib import Path

import pytest
from audit_worker import ADMIN, acts
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError
from support_kills import forking, killed

from citybrain.core.schemas import NewDepartment
from citybrain.storage.audit_tables import AuditRow
from citybrain.storage.grant_tables import ForbiddenRow, GrantRow, PinRow, SuspensionRow
from citybrain.storage.people_tables import DepartmentRow, KeyRow
from citybrain.storage.quota_tables import AllotmentRow, QuotaRow
from citybrain.storage.records.audit import entries
from citybrain.storage.records.audit_chain import rows, verify
from citybrain.storage.records.people import People
from citybrain.storage.tables import Table

WORKER = Path(__file__).parents[1] / "audit_worker.py"
SEED = int(os.environ.get("AUDIT_KILL_SEED", "1"))
BOOM = {
    "sqlite": "CREATE TRIGGER full_disk BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'disk full'); END",
    "postgresql": "CREATE RULE full_disk AS ON INSERT TO audit DO INSTEAD SELECT 1 / 0",
}
CALM = {"sqlite": "DROP TRIGGER full_disk", "postgresql": "DROP RULE full_disk ON audit"}


def counted(database):
    """How many acts of each kind the tables show, beside the audit."""
    asked = {
        "department.add": select(func.count()).select_from(DepartmentRow).where(DepartmentRow.name.like("d%")),
        "key.issue": select(func.count()).select_from(KeyRow),
        "key.revoke": select(func.count()).select_from(KeyRow).where(KeyRow.revoked_at.is_not(None)),
        "grant.give": select(func.count()).select_from(GrantRow),
        "grant.end": select(func.count()).select_from(GrantRow).where(GrantRow.revoked_at.is_not(None)),
        "quota.set": select(func.count()).select_from(QuotaRow),
        "quota.end": select(func.count()).select_from(QuotaRow).where(QuotaRow.ended_at.is_not(None)),
        "allotment.set": select(func.count()).select_from(AllotmentRow),
        "suspension.set": select(func.count()).select_from(SuspensionRow),
        "suspension.lift": select(func.count()).select_from(SuspensionRow).where(SuspensionRow.lifted_at.is_not(None)),
        "forbidden.set": select(func.count()).select_from(ForbiddenRow),
        "forbidden.end": select(func.count()).select_from(ForbiddenRow).where(ForbiddenRow.ended_at.is_not(None)),
        "pins": select(func.count()).select_from(PinRow),
    }  # fmt: skip
    with database.read() as session:
        return {action: session.scalar(query) for action, query in asked.items()}


def test_u3_no_act_without_its_record_and_no_record_without_its_act(database, full):
    kills, chance = 500 if full else 12, random.Random(SEED)
    said = Counter()
    with forking(WORKER, database.url) as parent:
        for _ in range(kills):
            said.update(act["act"] for act in killed(parent, chance.uniform(0.0, 0.4)))
    noted = Counter(e.action for e in entries(database, limit=1_000_000))
    shown = counted(database)
    pins = shown.pop("pins")
    assert pins == noted["pin.set"] - noted["pin.end"]
    assert shown == {action: noted[action] for action in shown}
    assert all(noted[action] >= count for action, count in said.items()), (said, noted)
    walked = verify(rows(database))
    assert walked.intact, walked
    assert walked.count == noted.total() > kills
    print(
        f"U3 {database.engine.dialect.name}: {kills} kills, {walked.count} records, {said.total()} acknowledged acts"
    )


def everything(database):
    with database.read() as session:
        return {
            table.name: session.execute(select(table)).all()
            for table in Table.metadata.sorted_tables
        }


def test_u3_what_cannot_be_written_down_is_not_done(database):
    """Each act in turn meets an audit that takes nothing."""
    kind = database.engine.dialect.name
    People(database).add_department(NewDepartment(name="before"), ADMIN)
    count = len(list(acts(database, "rehearsal")))
    for place in range(count):
        course = acts(database, f"d{place}")
        for _ in range(place):
            next(course)
        before = everything(database)
        with database.engine.begin() as connection:
            connection.execute(text(BOOM[kind]))
        with pytest.raises(DBAPIError):
            next(course)
        with database.engine.begin() as connection:
            connection.execute(text(CALM[kind]))
        assert everything(database) == before, place
    assert count == 14
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(AuditRow)) > count
