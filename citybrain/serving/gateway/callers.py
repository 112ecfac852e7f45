"""Who calls: keys, sessions and the networks that they come from, asked of a snapshot."""

from __future__ import annotations

from citybrain.core.addresses import Proxies, is_within
from citybrain.core.errors import BadKey, MissingKey, NetworkNotAllowed
from citybrain.core.keys import is_mistyped, key_digest, read_session
from citybrain.core.schemas import Key
from citybrain.serving.gateway.snapshot import Snapshot


class Callers:
    """Nothing is kept here but the pepper and the proxies that are believed."""

    def __init__(self, pepper: bytes, proxies: Proxies) -> None:
        self._pepper = pepper
        self._proxies = proxies

    def session_id(self, session: str) -> str:
        """The key behind a console session that is genuine and not over."""
        return read_session(self._pepper, session) if session else ""

    def source(self, peer: str, forwarded: str) -> str:
        """The address that a call comes from."""
        return self._proxies.caller(peer, forwarded)

    def identify(
        self, snapshot: Snapshot, key: str, session: str, peer: str, forwarded: str
    ) -> Key:
        """Who shows this key (or this console session), from where it may; NotSignedIn otherwise."""
        found = self.holder(snapshot, key, session)
        if found.networks:
            check_network(found, self.source(peer, forwarded), snapshot)
        return found

    def holder(self, snapshot: Snapshot, key: str, session: str) -> Key:
        """Who shows this, from wherever; NotSignedIn for who shows nothing that is known."""
        if key:
            found = snapshot.keys.get(key_digest(self._pepper, key))
            if found is None:
                raise BadKey(
                    "This key is not known, or has ended.",
                    hint="It looks mistyped." if is_mistyped(key) else "Ask for a new one.",
                )
        elif key_id := self.session_id(session):
            found = snapshot.by_id.get(key_id)
            if found is None:
                raise BadKey("The key behind this session has ended.", hint="Sign in again.")
        else:
            raise MissingKey("This call carries no key.", hint="Send: Authorization: Bearer cb_…")
        return found


def check_network(key: Key, address: str, snapshot: Snapshot) -> None:
    """NetworkNotAllowed for a key that may not come from this address."""
    if not is_within(address, snapshot.networks[key.id]):
        raise NetworkNotAllowed(
            f"The key {key.id} may not be used from {address[:45] or 'an unknown address'}.",
            hint="An admin says from which networks: citybrain keys issue … --network 10.1.0.0/16",
        )
