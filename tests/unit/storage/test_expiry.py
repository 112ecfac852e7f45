"""What has expired goes, and nothing else; the audit trail keeps its proof."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import func, insert, select, text

from citybrain.core.schemas import Actor
from citybrain.core.signatures import sign_text, signed_text
from citybrain.storage.audit_tables import AuditRow
from citybrain.storage.moments import now
from citybrain.storage.records import audit
from citybrain.storage.records.audit_chain import (
    EXPIRED,
    LEAST_DAYS,
    Chain,
    export,
    exported,
    rows,
    statement,
    verify,
)
from citybrain.storage.records.retentions import Expired, Retentions
from citybrain.storage.tables import UsageDayRow, UsageMinuteRow

ACTOR = Actor(key="k1", department="platform", role="admin")
SIGNER = Ed25519PrivateKey.generate()
SIGNERS = {"s": SIGNER.public_key().public_bytes_raw().hex()}
DAY = timedelta(days=1)


def sign(said):
    return sign_text(SIGNER.private_bytes_raw(), "s", said)


def signed(point):
    said = statement(point.day, point.last, point.hash, point.count)
    return signed_text(point.signed, said, SIGNERS)


class Trail:
    """Entries of many days, each with a checkpoint behind it."""

    def __init__(self, database, monkeypatch):
        self.database, self.moment, self.patch = database, now(), monkeypatch
        self.chain = Chain(database, sign)

    def days(self, *ages, each=10):
        for age in ages:
            moment = self.moment - age * DAY
            for module in ("audit", "audit_chain"):
                self.patch.setattr(
                    f"citybrain.storage.records.{module}.now", lambda moment=moment: moment
                )
            for number in range(each):
                audit.write(self.database, ACTOR, "grant.give", f"{age}-{number}")
            assert self.chain.checkpoint(f"{moment:%Y-%m-%d}")
        self.patch.undo()

    def expire(self, days):
        count = 0
        while point := self.chain.due(now() - timedelta(days=days)):
            self.chain.expire(point, ACTOR)
            count += 1
        return count

    def verify(self, points=None, **more):
        points = self.chain.checkpoints() if points is None else points
        return verify(rows(self.database), points, signed, **more)

    def left(self):
        with self.database.read() as session:
            query = select(AuditRow.object).where(AuditRow.action != EXPIRED)
            return {found.partition("-")[0] for found in session.scalars(query)}


@pytest.fixture
def trail(database, monkeypatch):
    return Trail(database, monkeypatch)


def test_old_entries_go_up_to_a_checkpoint_and_the_rest_is_still_proved(trail):
    trail.days(400, 300, 200, 100, 1)
    assert trail.expire(250) == 2
    assert trail.left() == {"200", "100", "1"}
    found = trail.verify()
    assert (found.intact, found.count) == (True, 30 + 2), found  # and one entry for each expiry
    trail.days(0)
    assert trail.expire(190) == 1
    found = trail.verify()
    assert (found.intact, found.count) == (True, 30 + 3), found
    assert trail.chain.checkpoints()[-1].count == 60 + 2
    assert trail.expire(190) == 0


def test_nothing_younger_than_half_a_year_goes_whatever_is_asked(trail):
    trail.days(LEAST_DAYS + 2, LEAST_DAYS - 2, 1)
    assert trail.expire(1) == 1
    assert trail.left() == {str(LEAST_DAYS - 2), "1"}
    assert trail.verify().intact


def test_what_no_checkpoint_covers_stays(trail, database):
    trail.days(400)
    with database.write() as session:
        session.execute(text("DROP TRIGGER checkpoints_no_delete")) if (
            database.engine.dialect.name == "sqlite"
        ) else session.execute(text("ALTER TABLE checkpoints DISABLE TRIGGER ALL"))
        session.execute(text("DELETE FROM checkpoints"))
    assert trail.expire(200) == 0
    assert trail.left() == {"400"}


def test_the_table_refuses_deletes_again_afterwards_and_after_a_failure(trail, database):
    trail.days(400, 300)
    trail.patch.setattr("citybrain.storage.records.audit_chain.note", lambda *_, **__: 1 / 0)
    point = trail.chain.due(now())
    with pytest.raises(ZeroDivisionError):
        trail.chain.expire(point, ACTOR)
    trail.patch.undo()
    assert trail.left() == {"400", "300"}
    refuses_deletes(database)
    trail.expire(350)
    refuses_deletes(database)


def refuses_deletes(database):
    with pytest.raises(Exception, match="append-only"), database.write() as session:
        session.execute(text("DELETE FROM audit"))


def without_rule(database, statement):
    """What somebody does who holds the database."""
    with database.write() as session:
        if database.engine.dialect.name == "sqlite":
            session.execute(text("DROP TRIGGER audit_no_delete"))
        else:
            session.execute(text("ALTER TABLE audit DISABLE TRIGGER ALL"))
        session.execute(text(statement))


def test_somebody_else_who_deletes_up_to_a_checkpoint_is_found(trail, database):
    trail.days(400, 300, 1)
    last = trail.chain.checkpoints()[0].last
    without_rule(database, f"DELETE FROM audit WHERE id <= {last}")
    found = trail.verify()
    assert not found.intact
    assert (found.first_bad, "nothing says that it expired" in found.reason) == (last, True)


def test_an_expiry_of_what_was_too_young_is_found(trail, database):
    trail.days(100, 1)
    trail.chain.expire(trail.chain.checkpoints()[0], ACTOR)  # as no desk would
    assert "nothing says that it expired" in trail.verify().reason


def test_more_than_what_expired_is_found(trail, database):
    trail.days(400, 300, 1)
    trail.expire(350)
    first = next(rows(database)).id
    without_rule(database, f"DELETE FROM audit WHERE id = {first}")
    assert not trail.verify().intact


def test_an_export_is_proved_with_the_checkpoints_that_were_kept(trail, database):
    trail.days(400, 300, 1)
    kept = trail.chain.checkpoints()
    trail.expire(350)
    lines = list(export(database, None, None))
    assert verify(exported(lines), kept, signed).intact
    assert not verify(exported(lines), (), signed).intact
    forged = kept[0].model_copy(update={"count": 3})
    assert "not signed" in verify(exported(lines), [forged, *kept[1:]], signed).reason


def test_what_is_said_of_a_log_is_kept_and_audited(database):
    found = Retentions(database)
    found.put("shadows", 7, ACTOR)
    found.put("shadows", 9, ACTOR)
    assert {name: row.days for name, row in found.all().items()} == {"shadows": 9}
    found.put("shadows", None, ACTOR)
    assert found.all() == {}
    assert [e.detail for e in audit.entries(database)] == [
        {"days": None}, {"days": 9}, {"days": 7},
    ]  # fmt: skip


def test_rows_go_a_piece_at_a_time(database, monkeypatch):
    monkeypatch.setattr("citybrain.storage.records.retentions.PIECE", 7)
    moment = datetime(2026, 6, 1, tzinfo=UTC)
    minute = int(moment.timestamp() // 60)
    with database.write() as session:
        session.execute(
            insert(UsageMinuteRow),
            [{"minute": minute + n, "algorithm": "flow", "requests": 1, "failed": 0, "latency": []}
             for n in range(-20, 5)],
        )  # fmt: skip
        for day in ("2026-05-30", "2026-05-31", "2026-06-01"):
            session.add(
                UsageDayRow(day=day, department="health", algorithm="flow", version=1, requests=1,
                            failed=0, rows=1, micros=1, unit="", amount=0.0, work_micros=0)
            )  # fmt: skip
    expired = Expired(database)
    assert expired.minutes(moment) == 20
    assert expired.days("2026-06-01") == 2
    assert (expired.minutes(moment), expired.calls(moment), expired.notices(moment)) == (0, 0, 0)
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(UsageMinuteRow)) == 5
