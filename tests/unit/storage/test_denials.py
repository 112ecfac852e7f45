"""Refusals in the audit trail: every one counted, a flood bounded, the chain intact."""

import json
import os
import subprocess
import sys
import textwrap
import time

import pytest

from citybrain.core.errors import BadKey, NotGranted, QuotaExceeded
from citybrain.core.schemas import Key
from citybrain.serving.denials import ELSEWHERE, STRANGERS, Denials, is_denial, network_of
from citybrain.storage.journal import Denial, JournalWriter, read_denials
from citybrain.storage.moments import now
from citybrain.storage.records.audit_chain import rows, verify
from citybrain.storage.records.denials import DenialLog

MINUTE = 60_000


@pytest.fixture
def folder(tmp_path):
    found = tmp_path / "denials"
    found.mkdir()
    return found


def key(key_id="k1"):
    return Key(
        id=key_id, department="health", role="department", purposes=["operation"], note="",
        created_at=now(), expires_at=None, revoked_at=None, user="li",
    )  # fmt: skip


def line(minutes_ago, calls=1, code="not_granted", **more):
    """A denial in the middle of a minute that is over, or (0) of the present one."""
    this = time.time_ns() // 1_000_000 // MINUTE * MINUTE
    said = {"key": "k1", "person": "li", "role": "department", "department": "health",
            "source": "10.0.0.7", "action": "call", "target": "flow", "purpose": "crowds",
            "door": "task"}  # fmt: skip
    return Denial(this - minutes_ago * MINUTE + 100, **(said | more), code=code, calls=calls)


def written(folder, *lines):
    writer = JournalWriter(folder)
    for one in lines:
        writer.deny(one)
    writer.flush()
    return writer


def trail(database):
    assert verify(rows(database)).intact
    return [json.loads(entry.record) for entry in rows(database)]


def test_what_is_refused_in_a_minute_is_one_entry(database, folder):
    one = written(folder, line(2, 3), line(2, 4), line(1, 5), line(2, 6, code="suspended"))
    other = written(folder, line(2, 100))  # another gateway saw the same caller
    assert DenialLog(database).load(folder) == 3
    found = trail(database)
    assert {(e["detail"]["code"], e["detail"]["calls"]) for e in found} == {
        ("not_granted", 107), ("suspended", 6), ("not_granted", 5),
    }  # fmt: skip
    first = max(found, key=lambda entry: entry["detail"]["calls"])
    assert (first["actor"], first["person"], first["role"]) == ("k1", "li", "department")
    assert (first["department"], first["source"]) == ("health", "10.0.0.7")
    assert (first["action"], first["object"], first["result"]) == ("call", "flow", "denied")
    assert first["detail"]["since"] <= first["detail"]["until"]
    assert (first["detail"]["purpose"], first["detail"]["door"]) == ("crowds", "task")
    one.close()
    other.close()


def test_the_present_minute_waits_until_it_is_over_or_its_writer_is_gone(database, folder):
    writer, log = written(folder, line(1, 2), line(0, 7), line(0, 8)), DenialLog(database)
    assert log.load(folder) == 1
    assert log.load(folder) == 0
    writer.close()
    assert log.load(folder) == 1
    assert [entry["detail"]["calls"] for entry in trail(database)] == [2, 15]
    assert list(folder.iterdir()) == []


def test_a_line_from_a_wrong_clock_holds_nothing_up(database, folder):
    written(folder, line(-600, 9), line(1, 2))
    assert DenialLog(database).load(folder) == 2


def test_each_line_is_counted_once_by_loaders_that_are_killed(database, folder):
    writer = written(folder, *(line(minutes, 1) for minutes in range(9, 0, -1)))
    for _ in range(3):
        DenialLog(database).load(folder)  # a new one knows nothing but the database
    writer.deny(line(1, 4))
    writer.flush()
    DenialLog(database).load(folder)
    assert sum(entry["detail"]["calls"] for entry in trail(database)) == 13
    writer.close()


def test_what_a_killed_process_wrote_is_there(database, folder):
    code = f"""
        import os, pathlib, signal
        from citybrain.core.errors import BadKey
        from citybrain.serving.denials import Denials
        denials = Denials(pathlib.Path({str(folder)!r}))
        for _ in range(50):
            denials.count(BadKey("no"), None, "10.0.0.9", "", "http")
        denials.step()
        os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run([sys.executable, "-P", "-c", textwrap.dedent(code)], check=False, timeout=60)
    (path,) = folder.iterdir()
    with path.open("ab") as file:
        file.write(b'["D",17')  # and the power went
    DenialLog(database).load(folder)
    (entry,) = trail(database)
    assert (entry["actor"], entry["role"], entry["source"]) == ("", "", "10.0.0.9")
    assert (entry["detail"]["code"], entry["detail"]["calls"]) == ("bad_key", 50)


def test_strangers_cannot_fill_the_disk(database, folder):
    denials, calls = Denials(folder), 20_000
    for number in range(calls):
        source = f"10.{number // 65536}.{number // 256 % 256}.{number % 256}"
        denials.count(BadKey("no"), None, source, f"made-up-{number}", "http")
    denials.step()
    (path,) = folder.iterdir()
    found, _ = read_denials(path, 0, before_ms=0, until_ms=0)
    assert sum(one.calls for one in found) == calls
    assert len({one.source for one in found}) <= 2 * (STRANGERS + 1)  # a minute may begin meanwhile
    assert ELSEWHERE in {one.source for one in found}
    assert {one.target for one in found} == {""}
    assert path.stat().st_size < 40_000
    denials.close()
    DenialLog(database).load(folder)
    entries = trail(database)
    assert len(entries) <= 2 * (STRANGERS + 1)
    assert sum(entry["detail"]["calls"] for entry in entries) == calls


def test_one_key_that_hammers_is_a_line_a_second(folder):
    denials = Denials(folder)
    for number in range(5000):
        denials.count(
            NotGranted("no"), key(), f"10.0.0.{number % 200}", "flow", "task", purpose=f"p{number}"
        )
    denials.count(NotGranted("no"), key(), "10.0.0.1", "lake", "task")
    denials.step()
    (path,) = folder.iterdir()
    found, _ = read_denials(path, 0, before_ms=0, until_ms=0)
    assert [(one.target, one.calls, one.purpose) for one in found] == [
        ("flow", 5000, "p0"), ("lake", 1, ""),
    ]  # fmt: skip
    denials.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_loses_no_count(folder):
    denials = Denials(folder)
    denials.count(BadKey("no"), None, "10.0.0.1", "", "http")
    denials.step()
    journal = denials._journal
    kept, journal._file = journal._file, os.open("/dev/full", os.O_WRONLY)
    for _ in range(3):
        denials.count(BadKey("no"), None, "10.0.0.2", "", "http")
        denials.step()
    journal._file = kept
    denials.step()
    (path,) = folder.iterdir()
    found, _ = read_denials(path, 0, before_ms=0, until_ms=0)
    assert sum(one.calls for one in found) == 4
    denials.close()


def test_an_overload_is_no_denial():
    assert is_denial(BadKey("no"))
    assert is_denial(NotGranted("no"))
    assert not is_denial(QuotaExceeded("no"))


@pytest.mark.parametrize(
    ("address", "network"),
    [("10.0.0.7", "10.0.0.7"), ("::ffff:10.0.0.7", "10.0.0.7"), ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
     ("fe80::1%eth0", "fe80::/64"), ("", ""), ("unix", "")],
)  # fmt: skip
def test_an_address_stands_for_those_who_have_it(address, network):
    assert network_of(address) == network
