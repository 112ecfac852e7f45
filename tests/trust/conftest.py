"""What the trust checks share: whether they run at full counts, and a control plane for each module."""

import os

import pytest
from support_identity import World


@pytest.fixture(scope="session")
def full():
    return bool(os.environ.get("TRUST_FULL"))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two departments with one of everything, in this process."""
    return World(tmp_path_factory.mktemp("identity"))
