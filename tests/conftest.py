"""What all tests share: a clean environment, and one platform for those that do not harm it."""

import os

import pytest
from support import install_starter, running_platform

KEPT = ("CITYBRAIN_TEST_DATA", "CITYBRAIN_TEST_POSTGRES")


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
