"""What all tests share: a clean environment, and one platform for those that do not harm it."""

import os
import uuid

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from support import install_starter, running_platform

from citybrain.storage.database import Database

KEPT = ("CITYBRAIN_TEST_DATA", "CITYBRAIN_TEST_POSTGRES")
POSTGRES = os.environ.get("CITYBRAIN_TEST_POSTGRES", "")


@pytest.fixture(autouse=True, scope="session")
def no_settings_from_outside():
    """A developer's own CITYBRAIN_… variables must not steer the tests."""
    for name in [n for n in os.environ if n.startswith("CITYBRAIN_") and n not in KEPT]:
        del os.environ[name]


@pytest.fixture(scope="session")
def platform(tmp_path_factory):
    """One platform with crowd-level deployed, for all tests that do not harm it."""
    with running_platform(tmp_path_factory.mktemp("home")) as found:
        install_starter(found)
        yield found


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
