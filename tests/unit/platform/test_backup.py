"""A home comes back as it was, also when it was copied under load; what was changed does not."""

import shutil
import sqlite3
import tarfile
import threading
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import text

from citybrain.core.errors import BadData, Conflict, InvalidInput
from citybrain.core.home import Home
from citybrain.core.settings import Settings
from citybrain.platform.backup import back_up, restore
from citybrain.platform.wiring import open_truths
from citybrain.storage.database import Database
from citybrain.storage.journal import Admitted, JournalWriter, Settled
from citybrain.storage.records.audit_chain import rows, verify
from citybrain.storage.records.usage import Usage

ZONE = ZoneInfo("Asia/Shanghai")


@pytest.fixture
def home(tmp_path):
    found = Home(tmp_path / "home").make()
    open_truths(Settings(home=found.root)).database.close()
    (found.packages / "abc").mkdir()
    (found.packages / "abc" / "model.onnx").write_bytes(b"weights")
    return found


def calls(home, stop, done):
    """Answer calls and fold them into the ledger, all the time."""
    database = Database.at(home.database)
    usage, number = Usage(database, ZONE), 0
    while not stop.is_set():
        journal = JournalWriter(home.journal)
        for _ in range(20):
            number += 1
            who = (
                f"{number:032x}",
                1_790_000_000_000 + number,
                "k",
                "health",
                "flow",
                "operation",
                "task",
            )
            journal.admit(Admitted(*who))
            journal.settle(Settled(*who, 1, 200, 1, 1000))
            journal.flush()
            done.append(who[0])
        usage.load(home.journal)
        journal.close()
        usage.load(home.journal)
    database.close()


def test_a_copy_under_load_has_every_call_that_was_answered_before(home, tmp_path):
    stop, done = threading.Event(), []
    worker = threading.Thread(target=calls, args=(home, stop, done))
    worker.start()
    for turn in range(4):
        while len(done) < 40 * (turn + 1):
            stop.wait(0.01)
        before = len(done)
        back_up(home, Settings(home=home.root), tmp_path / f"{turn}.tar")
        again = Home(tmp_path / f"again{turn}")
        restore(tmp_path / f"{turn}.tar", again)
        database = Database.at(again.database)
        usage = Usage(database, ZONE)
        usage.load(again.journal)
        with database.read() as session:
            states = dict(session.execute(text("SELECT request_id, state FROM requests")).all())
        assert {states.get(one) for one in done[:before]} == {"SERVED"}
        assert verify(rows(database)).intact
        database.close()
    stop.set()
    worker.join()


def test_the_copy_has_secrets_packages_and_modes(home, tmp_path):
    back_up(home, Settings(home=home.root), tmp_path / "a.tar")
    assert (tmp_path / "a.tar").stat().st_mode & 0o777 == 0o600
    again = Home(tmp_path / "again")
    restore(tmp_path / "a.tar", again)
    for path in (again.pepper, again.admin_key, again.packages / "abc" / "model.onnx"):
        assert path.read_bytes() == (home.root / path.relative_to(again.root)).read_bytes()
        assert path.stat().st_mode & 0o077 == 0
    assert open_truths(Settings(home=again.root)).people.departments()


def test_what_cannot_be_is_refused_and_leaves_nothing(home, tmp_path):
    out = tmp_path / "a.tar"
    back_up(home, Settings(home=home.root), out)
    with pytest.raises(Conflict, match="exists"):
        back_up(home, Settings(home=home.root), out)
    with pytest.raises(InvalidInput, match="contain itself"):
        back_up(home, Settings(home=home.root), home.root / "b.tar")
    with pytest.raises(Conflict, match="not empty"):
        restore(out, home)
    with pytest.raises(InvalidInput, match="no home"):
        back_up(Home(tmp_path / "nothing"), Settings(), tmp_path / "c.tar")
    assert not list(tmp_path.glob(".*.part"))


@pytest.mark.parametrize("harm", ["flip", "cut", "extra", "link", "outside"])
def test_a_changed_backup_is_not_put_back(home, tmp_path, harm):
    out, bad = tmp_path / "a.tar", tmp_path / "bad.tar"
    back_up(home, Settings(home=home.root), out)
    data = bytearray(out.read_bytes())
    if harm == "flip":
        place = data.index(b"weights")
        data[place] ^= 1
        bad.write_bytes(data)
    elif harm == "cut":
        bad.write_bytes(data[: len(data) // 2])
    else:
        shutil.copy(out, bad)
        info = tarfile.TarInfo("../outside" if harm == "outside" else "extra")
        if harm == "link":
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        with tarfile.open(bad, "a") as archive:
            archive.addfile(info)
    with pytest.raises((BadData, InvalidInput)):
        restore(bad, Home(tmp_path / "again"))
    assert not (tmp_path / "again").exists()
    assert not (tmp_path / "outside").exists()


def test_an_older_home_is_copied_before_it_is_migrated_and_a_newer_one_refused(home):
    from alembic import command

    from citybrain.storage.database import _config

    database = Database.at(home.database)
    assert database.age() == "current"
    config = _config()
    with database.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0013_prices")
    assert database.age() == "behind"
    open_truths(Settings(home=home.root)).database.close()
    assert database.age() == "current"
    kept = list((home.root / "backups").glob("platform-*.db"))
    assert len(kept) == 1
    with sqlite3.connect(kept[0]) as copy:
        assert copy.execute("SELECT version_num FROM alembic_version").fetchone() == (
            "0013_prices",
        )
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999_later'"))
    with pytest.raises(Conflict, match="newer citybrain"):
        open_truths(Settings(home=home.root))
    database.close()
