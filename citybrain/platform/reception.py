"""How people come in: by password and one-time code, and the first time by a one-time password.

Whatever is wrong is answered alike, after the same work: who is not known has a password to compare
and a row to write, too. So neither words nor time tell which names there are.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from datetime import timedelta
from typing import NamedTuple

from citybrain.core.errors import InvalidInput, SignInFailed, WeakPassword
from citybrain.core.keys import key_digest, new_key
from citybrain.core.schemas import Actor, IssuedUser, Key, NewUser
from citybrain.core.schemas.users import SECOND_FACTOR
from citybrain.platform import factors
from citybrain.storage.moments import now
from citybrain.storage.records.users import Factors, Users

SESSION = timedelta(hours=8)
ONE_TIME = timedelta(days=3)
"""How long a one-time password waits for its person."""
CHOOSING = 15 * 60
"""Seconds for choosing a password."""


class Choice(NamedTuple):
    """What somebody needs who is known and has to choose a password (and codes) first."""

    ticket: str
    """Shown again with what was chosen; worth nothing once it is used."""
    name: str
    secret: str
    """Of the one-time codes."""
    needs_code: bool


class Reception:
    """Checks what people show, and opens their sessions."""

    def __init__(self, users: Users, pepper: bytes) -> None:
        self._users = users
        self._pepper = pepper

    def add(self, new: NewUser, actor: Actor) -> IssuedUser:
        """Let a person in by a one-time password, which exists here once."""
        password = factors.one_time_password()
        user = self._users.add(new, factors.hash_password(password), now() + ONE_TIME, actor)
        return IssuedUser(**user.model_dump(), password=password)

    def reset(self, name: str, actor: Actor) -> IssuedUser:
        """Let a person begin anew."""
        password = factors.one_time_password()
        hashed = factors.hash_password(password)
        user = self._users.reset(name, hashed, now() + ONE_TIME, actor)
        return IssuedUser(**user.model_dump(), password=password)

    def sign_in(self, name: str, password: str, code: str) -> Key | Choice:
        """A session; or first the choice of a password. SignInFailed without a word why."""
        seen = self._checked(name, password)
        if seen.one_time_until or (seen.role in SECOND_FACTOR and not seen.totp):
            return self._choice(seen, int(time.time()) + CHOOSING)
        dated = factors.is_dated(seen.password)
        self._pass(seen, code, factors.hash_password(password) if dated else "")
        return self._open(seen)

    def choose(self, ticket: str, password: str, again: str, code: str) -> Key:
        """Keep what a person chose, and open a session."""
        seen, choice = self._read(ticket)
        if password != again:
            raise InvalidInput("The two passwords are not the same.")
        factors.check_strength(seen.name, password)
        if factors.matches(seen.password, password):
            raise WeakPassword("This is the password that is to be replaced.")
        step = factors.step_of(choice.secret, code, now()) if code or choice.needs_code else 0
        if not step and (code or choice.needs_code):
            raise InvalidInput(
                "This is not the code that is shown now.", hint="Is the clock of your device right?"
            )
        sealed = factors.seal(self._pepper, seen.name, choice.secret) if step else ""
        if not self._users.choose(seen, factors.hash_password(password), sealed, step):
            raise SignInFailed("This has been chosen already, or changed.", hint="Sign in again.")
        return self._open(seen)

    def change_password(self, key: Key, old: str, code: str, password: str, again: str) -> Key:
        """Another password for who is signed in; all sessions end, and one is opened."""
        seen = self._checked(key.user, old)
        if password != again:
            raise InvalidInput("The two passwords are not the same.")
        factors.check_strength(seen.name, password)
        if password == old:
            raise WeakPassword("This is the password that is to be replaced.")
        self._pass(seen, code)
        if not self._users.choose(seen, factors.hash_password(password), seen.totp, 0):
            raise SignInFailed("This was changed meanwhile.", hint="Sign in again.")
        return self._open(seen)

    def choice(self, ticket: str) -> Choice:
        """What a ticket was given for, to show its page once more."""
        return self._read(ticket)[1]

    def _checked(self, name: str, password: str) -> Factors:
        seen = self._users.factors(name)
        right = factors.matches(seen.password, password)
        late = seen.one_time_until is not None and seen.one_time_until <= now()
        locked = seen.locked_until is not None and seen.locked_until > now()
        if not right or late or locked or seen.disabled:
            self._refuse(seen)
        return seen

    def _pass(self, seen: Factors, code: str, fresh: str = "") -> None:
        step = 0
        if seen.totp:
            secret = factors.unseal(self._pepper, seen.name, seen.totp)
            step = factors.step_of(secret, code, now()) if secret else 0
            if not step:
                self._refuse(seen)
        if not self._users.passed(seen, step, fresh):
            self._refuse(seen)

    def _refuse(self, seen: Factors) -> None:
        self._users.failed(seen.name)
        raise SignInFailed(
            "Name, password or code are wrong, or there were too many tries.",
            hint="Wait a minute, or ask an admin.",
        )

    def _open(self, seen: Factors) -> Key:
        key_id, unseen = new_key("session")
        digest = key_digest(self._pepper, unseen)
        return self._users.open_session(seen.name, key_id, digest, now() + SESSION)

    def _choice(self, seen: Factors, until: int) -> Choice:
        body = f"{seen.name}.{until}"
        signature = hmac.digest(
            self._pepper, f"choice:{body}:{seen.password}:{seen.totp}".encode(),
            hashlib.sha256,
        )  # fmt: skip
        # The codes' secret comes from the ticket, so that it need not be kept before it is chosen.
        seed = hmac.digest(self._pepper, b"codes:" + signature, hashlib.sha256)
        return Choice(
            f"{body}.{signature.hex()}", seen.name, factors.new_secret(seed),
            seen.role in SECOND_FACTOR,
        )  # fmt: skip

    def _read(self, ticket: str) -> tuple[Factors, Choice]:
        name, _, rest = ticket.partition(".")
        until = rest.partition(".")[0]
        if until.isascii() and until.isdigit() and int(until[:12]) > time.time():
            seen = self._users.factors(name)
            found = self._choice(seen, int(until))
            if not seen.disabled and hmac.compare_digest(found.ticket.encode(), ticket.encode()):
                return seen, found
        raise SignInFailed("The time for choosing a password is over.", hint="Sign in again.")
