"""Service keys and console sessions: how they are made, written and checked.

A key reads `cb_<env>_<id>_<secret><crc>`: the prefix lets scanners find leaked keys, the id names
it in logs without giving it away, the CRC tells a typing error from a wrong key.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import string
import time
import zlib

ALPHABET = string.ascii_letters + string.digits
SECRET_LENGTH = 43  # log2(62) * 43 = 256 bits
CRC_LENGTH = 6


def new_key(environment: str) -> tuple[str, str]:
    """A fresh id and the whole key; only the key's keyed hash may be kept."""
    key_id = "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(10))
    secret = "".join(secrets.choice(ALPHABET) for _ in range(SECRET_LENGTH))
    body = f"cb_{environment}_{key_id}_{secret}"
    return key_id, body + _crc(body)


def key_digest(pepper: bytes, key: str) -> str:
    """The keyed hash under which a key is kept; 256-bit secrets need no slow hash."""
    return hmac.digest(pepper, key.encode(errors="replace"), hashlib.sha256).hex()


def is_mistyped(key: str) -> bool:
    """Whether a key cannot be one of ours: wrong form, or its CRC does not fit."""
    return not key.startswith("cb_") or len(key) > 200 or _crc(key[:-CRC_LENGTH]) != key[-6:]


def _crc(body: str) -> str:
    number, text = zlib.crc32(body.encode(errors="replace")), ""
    for _ in range(CRC_LENGTH):
        number, digit = divmod(number, len(ALPHABET))
        text += ALPHABET[digit]
    return text


def sign_session(pepper: bytes, key_id: str, seconds: int) -> str:
    """A console session for a key: `id.expiry.signature`, checked without a database."""
    body = f"{key_id}.{int(time.time()) + seconds}"
    return f"{body}.{_signature(pepper, body)}"


def read_session(pepper: bytes, token: str) -> str:
    """The key id of a session that is genuine and not over, else an empty string."""
    body, _, signature = token.rpartition(".")
    genuine = _signature(pepper, body).encode()
    if not hmac.compare_digest(genuine, signature.encode(errors="replace")):
        return ""
    key_id, _, expiry = body.partition(".")
    return key_id if expiry.isdigit() and int(expiry) > time.time() else ""


def _signature(pepper: bytes, body: str) -> str:
    return hmac.digest(pepper, b"session:" + body.encode(errors="replace"), hashlib.sha256).hex()
