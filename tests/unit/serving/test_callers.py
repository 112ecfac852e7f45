"""Who calls: keys, sessions and networks, asked of a snapshot."""

import time
from datetime import UTC, datetime

import pytest

from citybrain.core.addresses import Proxies, read_networks
from citybrain.core.errors import BadKey, MissingKey, NetworkNotAllowed
from citybrain.core.keys import key_digest, new_key, sign_session
from citybrain.core.schemas import Key
from citybrain.serving.gateway.callers import Callers
from citybrain.serving.gateway.snapshot import Snapshot

PEPPER = b"pepper"


@pytest.fixture
def callers():
    return Callers(PEPPER, Proxies("127.0.0.1"))


def snapshot(**more):
    key_id, secret = new_key("emb")
    key = Key(
        id=key_id, department="tourism", purposes=["operation"], note="", revoked_at=None,
        created_at=datetime.now(UTC), expires_at=None, **{"role": "department"} | more,
    )  # fmt: skip
    networks = {key_id: read_networks(key.networks)} if key.networks else {}
    found = Snapshot(
        keys={key_digest(PEPPER, secret): key},
        by_id={key_id: key},
        networks=networks,
    )
    return found, secret, key


def test_a_key_or_a_genuine_session_is_known_and_nothing_else(callers):
    seen, secret, key = snapshot()
    assert callers.identify(seen, secret, "", "", "") == key
    session = sign_session(PEPPER, key.id, 60)
    assert callers.identify(seen, "", session, "", "") == key
    for shown, cookie, error in (
        (secret + "x", "", BadKey), ("", session + "x", MissingKey), ("", "", MissingKey),
        ("", sign_session(PEPPER, key.id, -1), MissingKey), ("", sign_session(PEPPER, "x", 60), BadKey),
    ):  # fmt: skip
        with pytest.raises(error):
            callers.identify(seen, shown, cookie, "", "")


@pytest.mark.parametrize(
    ("peer", "forwarded", "lets"),
    [
        ("10.1.2.3", "", True), ("10.2.0.1", "", False), ("", "", False),
        ("10.2.0.1", "10.1.2.3", False),  # anybody can write that
        ("127.0.0.1", "10.1.2.3", True), ("127.0.0.1", "10.1.2.3, 10.2.0.1", False),
    ],
)  # fmt: skip
def test_a_key_for_a_network_comes_from_there(callers, peer, forwarded, lets):
    seen, secret, key = snapshot(networks=["10.1.0.0/16"])
    if lets:
        assert callers.identify(seen, secret, "", peer, forwarded) == key
    else:
        with pytest.raises(NetworkNotAllowed):
            callers.identify(seen, secret, "", peer, forwarded)


def test_looking_a_key_up_takes_microseconds(callers):
    seen, secret, _ = snapshot()
    took = []
    for _ in range(2000):
        began = time.perf_counter()
        callers.identify(seen, secret, "", "127.0.0.1", "")
        took.append(time.perf_counter() - began)
    assert sorted(took)[1000] < 0.001
