"""The audit trail: chained in the act's transaction, every change found, quick to verify."""

import json
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import insert, text

from citybrain.core.schemas import Actor
from citybrain.core.signatures import sign_text, signed_text
from citybrain.storage.audit_tables import AuditRow
from citybrain.storage.database import Database
from citybrain.storage.moments import now
from citybrain.storage.records.audit import link, note, record_of, write
from citybrain.storage.records.audit_chain import Chain, export, exported, rows, statement, verify

ACTOR = Actor(key="k1", department="health", role="admin", user="wang", source="10.0.0.7")
FULL = "TRUST_FULL" in os.environ


def act(database, number):
    write(database, ACTOR, "grant.give", f"flow-{number}", number=number, note="街道 ✓", share=0.1)


def walked(database, **options):
    return verify(rows(database), **options)


def test_an_act_and_its_entry_are_one_transaction(database):
    act(database, 1)
    with pytest.raises(ZeroDivisionError), database.write() as session:
        note(session, ACTOR, "grant.give", "never")
        raise ZeroDivisionError
    act(database, 2)
    found = walked(database)
    assert (found.intact, found.count) == (True, 2)
    first = json.loads(next(rows(database)).record)
    assert first["person"] == "wang"
    assert first["source"] == "10.0.0.7"
    assert first["result"] == "done"
    assert first["detail"] == {"number": 1, "note": "街道 ✓", "share": 0.1}


def test_many_writers_make_one_line(database):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: act(database, n), range(100)))
    found = walked(database)
    assert (found.intact, found.count, found.reason) == (True, 100, "")


def test_nobody_changes_an_entry_through_the_database(database):
    act(database, 1)
    for change in ("UPDATE audit SET actor = 'x'", "DELETE FROM audit"):
        with pytest.raises(Exception, match="append-only"), database.write() as session:
            session.execute(text(change))
    assert walked(database).intact


def big(path, count):
    """A chained trail of many entries, written past the platform."""
    database = Database.at(path)
    database.migrate()
    previous, made = "", []
    for number in range(1, count + 1):
        at, detail = now(), {"number": number}
        record = record_of(at, ACTOR, "key.issue", f"key-{number}", detail, "done")
        previous = link(previous, record)
        made.append(
            {"id": number, "at": at, "actor": ACTOR.key, "department": ACTOR.department,
             "action": "key.issue", "object": f"key-{number}", "detail": detail,
             "record": record.decode(), "hash": previous}
        )  # fmt: skip
    with database.write() as session:
        session.execute(insert(AuditRow), made)
    return database


def open_for_harm(database):
    """As somebody with the database's password could."""
    with database.write() as session:
        for act_ in ("update", "delete"):
            session.execute(text(f"DROP TRIGGER audit_no_{act_}"))


def mutations(dice, last):
    """Statements that falsify a trail of `last` entries, and the entry that they touch."""
    place = dice.randint(1, last)
    other = dice.choice([n for n in range(1, last + 1) if n != place])
    column, value = dice.choice(
        [("actor", "'x'"), ("object", "'x'"), ("action", "'y'"), ("department", "'x'"),
         ("detail", "'{}'"), ("at", "'2020-01-01 00:00:00.000000'"), ("hash", "'00'"),
         ("record", f"replace(record, 'key-{place}', 'key-0')")]
    )  # fmt: skip
    return dice.choice(
        [
            (place, [f"UPDATE audit SET {column} = {value} WHERE id = {place}"]),
            (place, [f"DELETE FROM audit WHERE id = {place}"]),
            (min(place, other), [
                "UPDATE audit SET id = -1 WHERE id = " + str(place),
                f"UPDATE audit SET id = {place} WHERE id = {other}",
                f"UPDATE audit SET id = {other} WHERE id = -1",
            ]),
            (place, [f"DELETE FROM audit WHERE id >= {place}"]),
            (last + 1, [
                "INSERT INTO audit (id, at, actor, department, action, object, detail, record, hash) "
                f"SELECT {last + 1}, at, actor, department, action, object, detail, record, hash "
                f"FROM audit WHERE id = {place}"
            ]),
        ]
    )  # fmt: skip


def test_every_mutation_is_found_with_its_place(tmp_path):
    total, dice = (1_000 if FULL else 60), random.Random(11)
    database = big(tmp_path / "trail.db", 200)
    private = Ed25519PrivateKey.generate()
    signers = {"s": private.public_key().public_bytes_raw().hex()}
    chain = Chain(database, lambda said: sign_text(private.private_bytes_raw(), "s", said))
    point = chain.checkpoint("2026-01-01")

    def signed(found):
        said = statement(found.day, found.last, found.hash, found.count)
        return signed_text(found.signed, said, signers)

    open_for_harm(database)
    assert walked(database, checkpoints=[point], signed=signed).intact
    assert not signed(point.model_copy(update={"count": 3}))
    found = 0
    for _ in range(total):
        place, statements = mutations(dice, 200)
        with database.engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            for one in statements:
                connection.exec_driver_sql(one)
            lines = [
                tuple(row) for row in connection.exec_driver_sql(
                    "SELECT id, record, hash, actor, department, action, object, detail, at"
                    " FROM audit ORDER BY id"
                )
            ]  # fmt: skip
            connection.exec_driver_sql("ROLLBACK")
        from citybrain.storage.records.audit_chain import REPEATED, Entry

        entries = [
            Entry(
                line[0],
                line[1],
                line[2],
                dict(zip((*REPEATED, "detail", "at"), line[3:], strict=True)),
            )
            for line in lines
        ]
        seen = verify(entries, [point], signed)
        assert not seen.intact, statements
        # What is gone is noticed where the next one stands, or where a checkpoint misses it.
        assert place <= seen.first_bad <= max(place + 1, 200), (place, seen, statements)
        found += 1
    print(f"{found} of {total} mutations found")


def test_a_chain_that_was_built_anew_contradicts_a_checkpoint(tmp_path):
    database, other = big(tmp_path / "a.db", 50), big(tmp_path / "b.db", 50)
    point = Chain(database, lambda _: "s.x").checkpoint("2026-01-01")
    assert walked(other).intact
    assert walked(other, checkpoints=[point]).first_bad == 50


def test_an_export_is_verified_without_the_database(tmp_path):
    database = big(tmp_path / "trail.db", 30)
    lines = list(export(database, None, None))
    assert verify(exported(lines)).count == 30
    lines[6] = lines[6].replace("key-7", "key-8")
    assert verify(exported(lines)).first_bad == 7


def test_verifying_is_quick(tmp_path):
    count = 200_000 if FULL else 20_000
    database = big(tmp_path / "trail.db", count)
    begin = time.process_time()
    assert walked(database).count == count
    rate = count / (time.process_time() - begin)
    print(f"{rate:,.0f} records a second of CPU")
    assert rate > 50_000 or not FULL
