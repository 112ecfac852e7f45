"""A department that floods an algorithm harms itself: others and emergencies are served as before."""

import asyncio
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
from support import wait_for
from support_gateways import gateways
from wires import Crowd, Wire, flood, paced

from citybrain.core.schemas import NewDepartment, NewGrant, NewKey
from citybrain.core.settings import Settings
from citybrain.platform.wiring import SYSTEM, issue_key, open_truths

FULL = "TRUST_FULL" in os.environ
SECONDS = 60 if FULL else 6
FRAME, PAUSE = 4, 0.04
"""Calls of a frame, and the seconds that each takes: so the capacity is known, and small."""
PLACES = 64
"""That calls may wait in, and one department may take all of them."""
PATH = "/v1/algorithms/slow/predict"
BODY = {"inputs": [{"tensors": {"x": [1.0, 2.0, 3.0]}}]}
DEPARTMENTS = {"economy": "operation", "parks": "operation", "fire": "emergency"}


@pytest.fixture(scope="module")
def plane(tmp_path_factory):
    """One gateway, one replica, and a key for each department."""
    settings = {
        "SERVING__GATEWAYS": 1, "SERVING__MAX_FRAME_CALLS": FRAME,
        "SERVING__MAX_QUEUED": PLACES, "SERVING__MAX_QUEUED_DEPARTMENT": PLACES,
    }  # fmt: skip
    with gateways(tmp_path_factory.mktemp("fair"), {"slow": PAUSE}, **settings) as found:
        truths, found.keys = open_truths(Settings(home=found.home.root)), {}
        for name, purpose in DEPARTMENTS.items():
            truths.people.add_department(NewDepartment(name=name), SYSTEM)
            grant = NewGrant(department=name, algorithm="slow", purpose=purpose)
            truths.people.add_grant(grant, SYSTEM)
            new = NewKey(department=name, purposes=[purpose])
            found.keys[name] = issue_key(truths, new, SYSTEM).secret
        truths.database.close()
        for secret in found.keys.values():
            wait_for(lambda secret=secret: asyncio.run(one(found.url, secret)) == 200)
        yield found


async def one(url, key):
    wire = Wire(url, key)
    status, _ = await wire.ask(PATH, BODY)
    wire.close()
    return status


async def capacity(plane):
    """Calls a second that callers who wait for their answers get together."""
    async with Crowd(plane, PATH, BODY, 4 * FRAME) as crowd:
        await asyncio.sleep(SECONDS / 3)
        answered = crowd.codes[200]
    assert set(crowd.codes) == {200}
    return answered / (SECONDS / 3)


def beside(plane, rate, small):
    """The codes of the economy's calls at a rate; codes and p99 in ms of the others', at a small one."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        flooding = pool.submit(
            flood, plane.url, plane.keys["economy"], PATH, BODY, rate, SECONDS + 3
        )

        async def others():
            await asyncio.sleep(2)  # the other process starts, and the line fills
            asked = [
                paced(plane.url, plane.keys[name], PATH, BODY, small, int(small * SECONDS))
                for name in ("parks", "fire")
            ]
            return await asyncio.gather(*asked)

        answers = asyncio.run(others())
        found = [(codes, round(1e3 * took[int(0.99 * len(took))], 1)) for codes, took in answers]
        return flooding.result(), *found


@pytest.mark.full
def test_others_and_emergencies_do_not_notice_a_department_that_floods(plane):
    """It asks for ten times of what can be served; they ask for a tenth each."""
    full = asyncio.run(capacity(plane))
    small = 0.1 * full
    calm, calm_parks, calm_fire = beside(plane, 0.6 * full, small)
    wild, wild_parks, wild_fire = beside(plane, 10 * full, small)
    figures = {
        "capacity": round(full), "calm": dict(calm), "flood": dict(wild),
        "parks": (calm_parks[1], wild_parks[1]), "fire": (calm_fire[1], wild_fire[1]),
    }  # fmt: skip
    print(figures)
    for codes, _ in (calm_parks, calm_fire, wild_parks, wild_fire):
        assert codes == {200: int(small * SECONDS)}, figures
    assert set(wild) <= {200, "late", "overloaded"}, figures
    assert wild["overloaded"] > 2 * wild[200], figures
    assert wild[200] > 0.5 * full * SECONDS, "what others leave is the flood's"
    share, slack = (1.2, 20) if FULL else (1.5, 100)
    assert wild_parks[1] <= share * calm_parks[1] + slack, figures
    assert wild_fire[1] <= share * calm_fire[1] + slack, figures
