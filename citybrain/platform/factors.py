"""What people sign in with: passwords, and one-time codes with the picture that carries their secret."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import string
from datetime import datetime
from io import BytesIO

import pyotp
import segno
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from citybrain.core.errors import WeakPassword

# OWASP's recommendation for argon2id with the least memory: 19 MiB, two passes, one lane.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
SHORTEST, LONGEST = 12, 200
STEP = 30
"""Seconds that a one-time code is shown; the one before and the one after are taken, too."""
ISSUER = "citybrain"
READABLE = "".join(sorted(set(string.ascii_lowercase + string.digits) - set("0o1lij")))


def hash_password(password: str) -> str:
    """argon2id, with its parameters and salt."""
    return _HASHER.hash(password)


def matches(hashed: str, password: str) -> bool:
    """Whether this is the password; takes as long whether it is or not."""
    try:
        return _HASHER.verify(hashed, password)
    except (VerificationError, InvalidHashError):
        return False


def is_dated(hashed: str) -> bool:
    """Whether a hash was made with other parameters than those of today."""
    return _HASHER.check_needs_rehash(hashed)


def one_time_password() -> str:
    """Something that a person can read out: four groups of five, about 97 bits."""
    return "-".join("".join(secrets.choice(READABLE) for _ in range(5)) for _ in range(4))


def check_strength(name: str, password: str) -> None:
    """WeakPassword for one that is short, long, the name itself, or a few letters over and over."""
    if len(password) < SHORTEST:
        raise WeakPassword(f"A password has at least {SHORTEST} characters.")
    if len(password) > LONGEST:
        raise WeakPassword(f"A password has at most {LONGEST} characters.")
    if name in password.casefold() or len(set(password)) < 5:
        raise WeakPassword("This password is easy to guess.", hint="A few words together are good.")


def new_secret(seed: bytes) -> str:
    """The secret of one-time codes, from bytes that nobody else has."""
    return base64.b32encode(hashlib.sha256(seed).digest()[:20]).decode()


def step_of(secret: str, code: str, at: datetime) -> int:
    """The time step whose code this is, of those that are taken now; 0: none."""
    totp, now = pyotp.TOTP(secret, interval=STEP), int(at.timestamp()) // STEP
    given, found = code.replace(" ", "").encode(errors="replace"), 0
    for step in (now - 1, now, now + 1):
        if hmac.compare_digest(totp.generate_otp(step).encode(), given):
            found = step
    return found


def picture(secret: str, name: str) -> str:
    """A QR code for an authenticator app, as the address of a picture that holds itself."""
    address = pyotp.TOTP(secret, interval=STEP).provisioning_uri(name=name, issuer_name=ISSUER)
    file = BytesIO()
    segno.make(address, error="m", micro=False).save(
        file, kind="svg", xmldecl=False, omitsize=True, border=2, dark="#000", light="#fff"
    )
    return f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"


def seal(pepper: bytes, name: str, secret: str) -> str:
    """A secret that can be read with the pepper alone, and for this person alone."""
    nonce = secrets.token_bytes(12)
    sealed = AESGCM(_key(pepper)).encrypt(nonce, secret.encode(), name.encode())
    return base64.b64encode(nonce + sealed).decode()


def unseal(pepper: bytes, name: str, sealed: str) -> str:
    """The secret again; nothing where it was sealed otherwise."""
    try:
        raw = base64.b64decode(sealed, validate=True)
        return AESGCM(_key(pepper)).decrypt(raw[:12], raw[12:], name.encode()).decode()
    except (ValueError, InvalidTag):
        return ""


def _key(pepper: bytes) -> bytes:
    return hmac.digest(pepper, b"one-time codes", hashlib.sha256)
