"""What all tests share: a clean environment, and one platform for those that do not harm it."""

import functools
import os
import re
import uuid
from pathlib import Path

import pytest
from parity import ParityTable
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from support import RemoteModels, install_starter, running_platform

from citybrain.core.settings import Settings
from citybrain.platform.wiring import build
from citybrain.storage.database import Database

ROOT = Path(__file__).resolve().parents[1]
KEPT = ("CITYBRAIN_TEST_", "CITYBRAIN_CONFORMANCE_")
POSTGRES = os.environ.get("CITYBRAIN_TEST_POSTGRES", "")


SHARING = re.compile(r"def \w+\([^)]*\b(platform|server)\b")


@functools.cache
def group_of(path):
    """Under pytest-xdist: modules that use the one platform in one process, each other in one, too."""
    shared = path.startswith("tests/conformance") or SHARING.search((ROOT / path).read_text())
    return "platform" if shared else path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadScopeScheduling

    class ByPlatform(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return group_of(nodeid.partition("::")[0])

    return ByPlatform(config, log)


def pytest_collection_modifyitems(items):
    """What many modules share comes first, so that one process begins with it and the others take the rest."""
    if "TRUST_FULL" not in os.environ:
        for item in items:
            if item.get_closest_marker("full"):
                item.add_marker(pytest.mark.skip(reason="make trust runs it"))
    items.sort(key=lambda item: group_of(item.nodeid.partition("::")[0]) != "platform")


@pytest.fixture(autouse=True, scope="session")
def no_settings_from_outside():
    """A developer's own CITYBRAIN_… variables must not steer the tests."""
    for name in [n for n in os.environ if n.startswith("CITYBRAIN_") and not n.startswith(KEPT)]:
        del os.environ[name]


@pytest.fixture(scope="session")
def remote_models():
    """A server of somebody else's models; a test that changes it changes it back."""
    found = RemoteModels()
    yield found
    found.stop()


@pytest.fixture(scope="session")
def platform(tmp_path_factory, remote_models):
    """One platform with crowd-level deployed, for all tests that do not harm it."""
    home = tmp_path_factory.mktemp("home")
    settings = {
        "CITYBRAIN_REMOTE__HOSTS": remote_models.hosts, "CITYBRAIN_REMOTE__SECONDS": "4",
        # Modules leave deployments behind: there is a place for each of theirs.
        "CITYBRAIN_SERVING__RAY_CPUS": "48",
        # Replicas look at their files with every look of Serve at them, not every five minutes.
        "CITYBRAIN_SERVING__VERIFY": "0.1",
        # Two models of more than this share a replica by turns.
        "CITYBRAIN_SERVING__SHARED_BYTES": str(2 << 20),
        # Sampled calls can be read at once, not after a minute.
        "CITYBRAIN_PREDICTIONS__SECONDS": "0.5",
        "CITYBRAIN_TRACES__FILE": str(home / "logs" / "spans.jsonl"),
    }  # fmt: skip
    with running_platform(home, **settings) as found:
        install_starter(found)
        yield found


@pytest.fixture(scope="session")
def fresh_home(tmp_path_factory):
    """Making MLflow's tables takes seconds; whoever needs an empty home copies this one."""
    home = tmp_path_factory.mktemp("fresh") / "home"
    build(Settings(home=home)).truths.database.close()
    return home


@pytest.fixture(scope="module")
def parity(request):
    """Takes reports of conversions for the table in docs/admission.md."""
    table = ParityTable()
    yield table.add
    table.write(request.module.__name__.rpartition(".")[2])


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path):
    if request.param == "sqlite":
        found = Database.at(tmp_path / "platform.db")
        found.migrate()
        yield found
        found.close()
        return
    if not POSTGRES:
        pytest.skip("CITYBRAIN_TEST_POSTGRES names no server")
    name = f"citybrain_{uuid.uuid4().hex[:12]}"
    admin = create_engine(POSTGRES, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    found = Database(make_url(POSTGRES).set(database=name).render_as_string(hide_password=False))
    found.migrate()
    yield found
    found.close()
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()
