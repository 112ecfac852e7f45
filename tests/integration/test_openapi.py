"""Every operation of /api/openapi.json under generated requests, right and wrong ones: no answer is 5xx.

The application is the real one over a real home, behind a real port, without a Ray head: what needs one is
refused with the reason, which is an answer, too.
"""

import contextlib
import os
import socket
import threading
from collections import Counter

import pytest
import requests
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from support_door import ADMIN

from citybrain.core.schemas import NewDepartment
from citybrain.core.settings import IntakeSettings, Settings
from citybrain.platform.control import create_app
from citybrain.platform.wiring import build

FULL = "TRUST_FULL" in os.environ
EXAMPLES = 150 if FULL else 1
SEED = int(os.environ.get("OPENAPI_SEED", "1"))
AWAY = ("platform_down", "not_ready", "not_deployed", "missing_library", "sandbox_failed")
"""Codes of a 503 that says what is not there: Ray's head here, or a library."""

pytestmark = [pytest.mark.timeout(3600 if FULL else 600)]


@pytest.fixture(scope="module")
def plane(tmp_path_factory):
    """A department and an algorithm, for generated names to meet now and then."""
    home = tmp_path_factory.mktemp("home")
    found = build(Settings(home=home, intake=IntakeSettings(seconds=30, fetch_seconds=0.5)))
    found.truths.people.add_department(NewDepartment(name="traffic"), ADMIN)
    return found


@pytest.fixture(scope="module")
def api(plane):
    """The control process's application behind a port, and its description."""
    app = create_app(plane)
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}", app.openapi()
    server.should_exit = True
    thread.join(10)


def test_no_operation_answers_5xx_whatever_it_is_sent(plane, api):
    """1 request of each kind for every operation in `make test`, 150 in `make trust`."""
    url, document = api
    headers = {"authorization": f"Bearer {plane.truths.home.admin_key.read_text().strip()}"}
    statuses, wrong = Counter(), {}
    drawn = settings(
        max_examples=EXAMPLES, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip

    def ask(case):
        with contextlib.suppress(requests.exceptions.InvalidHeader, UnicodeError):
            answer = case.call(base_url=url, headers=headers, timeout=120)
            statuses[answer.status_code] += 1
            code = answer.json()["code"] if answer.status_code >= 500 else ""
            if code and not (answer.status_code == 503 and code in AWAY):
                wrong[case.method, case.path] = answer.status_code, answer.text[:300]
            assert b"Traceback" not in answer.content

    found = schemathesis.openapi.from_dict(document).get_all_operations()
    operations = [one.ok() for one in found]
    assert len(operations) > 60
    for operation in operations if FULL else operations[SEED % 2 :: 2]:
        for mode in schemathesis.GenerationMode:
            try:
                cases = operation.as_strategy(generation_mode=mode)
                drawn(seed(SEED)(given(cases)(ask)))()
            except Unsatisfiable:  # an operation without parameters cannot be asked wrongly
                assert mode is schemathesis.GenerationMode.NEGATIVE
    print(f"{len(operations)} operations: {dict(sorted(statuses.items()))}")
    assert wrong == {}
    assert {200, 404, 422} <= statuses.keys()
