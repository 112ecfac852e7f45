"""kill -9 of one process at a time under load: what a client saw answered is counted once."""

import os
import random
import signal
import threading
import time

import httpx
import pytest
from support import install_starter, running_platform, wait_for

pytestmark = pytest.mark.platform
SEED = int(os.environ.get("KILL_SEED", "7"))


@pytest.fixture(scope="module")
def victim(tmp_path_factory):
    """A platform of its own: these tests harm it."""
    extra = {"CITYBRAIN_SERVING__GATEWAYS": "2"}
    with running_platform(tmp_path_factory.mktemp("victim"), **extra) as found:
        install_starter(found)
        yield found


class Load:
    """A few clients that call all the time and remember what they were answered."""

    def __init__(self, platform, clients=3):
        with platform.client() as city:
            self.body = {"inputs": city.algorithm("crowd-level").example["inputs"]}
        self.url = f"{platform.url}/v1/algorithms/crowd-level/predict"
        self.headers = {"authorization": f"Bearer {platform.key}"}
        self.answered, self.refused, self.broken = [], 0, 0
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self._call) for _ in range(clients)]

    def _call(self):
        client = httpx.Client(headers=self.headers, timeout=40, trust_env=False)
        while not self.stop.is_set():
            try:
                answer = client.post(self.url, json=self.body)
            except httpx.TransportError:
                self.broken += 1
                time.sleep(0.05)
                continue
            if answer.status_code == 200:
                self.answered.append(answer.json()["request_id"])
            else:
                self.refused += 1
                assert answer.status_code in (429, 503), answer.text
            time.sleep(0.002)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join()


def kill(platform, what):
    if what == "replica":
        process_id = random.Random(SEED).choice(platform.replicas()).pid
    elif what == "head":
        process_id = platform.state()["processes"]["ray"]
        import psutil

        children = psutil.Process(process_id).children(recursive=True)
        process_id = next(p.pid for p in children if "gcs_server" in p.name())
    else:
        process_id = platform.state()["processes"][what]
    os.kill(process_id, signal.SIGKILL)


def serves(load):
    before = len(load.answered)
    return wait_for(lambda: len(load.answered) > before + 20, 120)


@pytest.mark.parametrize("what", ["gateway-1", "gateway-2", "replica", "control", "head"])
def test_a_killed_process_comes_back_and_the_ledger_is_exact(victim, what):
    """Answers = rows in the ledger, each once, whatever was killed in the middle."""
    with Load(victim) as load:
        serves(load)
        time.sleep(random.Random(f"{SEED}{what}").random())
        kill(victim, what)
        serves(load)
        time.sleep(1.0)
        serves(load)
    ids = set(load.answered)
    assert len(ids) == len(load.answered), "two answers carried one request id"
    from zoneinfo import ZoneInfo

    from citybrain.storage.database import Database
    from citybrain.storage.records.usage import Usage

    usage = Usage(Database.at(victim.home.database), ZoneInfo("Asia/Shanghai"))

    def counted():
        return all((row := usage.request(i)) and row["state"] == "SERVED" for i in ids)

    wait_for(counted, 60)


def test_everything_is_still_registered_once_and_serves(victim):
    with victim.client() as city:
        wait_for(lambda: city.status().ready, 90)
        page = city.algorithm("crowd-level")
        assert [version.version for version in page.versions] == [1]
        assert page.algorithm.aliases == {"challenger": 1, "champion": 1}
        assert [d.state for d in city.deployments()] == ["running"]
        assert city.predict("crowd-level", page.example["inputs"])["version"] == 1


def test_usage_by_day_is_the_sum_of_the_ledger(victim):
    from sqlalchemy import text

    from citybrain.storage.database import Database

    database = Database.at(victim.home.database)

    def agree():
        with database.read() as session:
            rows = session.execute(text("SELECT count(*) FROM requests WHERE state != 'VOID'"))
            days = session.execute(text("SELECT sum(requests) FROM usage_days"))
            twice = session.execute(
                text("SELECT count(*) - count(DISTINCT request_id) FROM requests")
            )
            return rows.scalar() == days.scalar() > 0 and twice.scalar() == 0

    wait_for(agree, 20)
