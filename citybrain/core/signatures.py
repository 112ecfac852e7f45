"""Signed statements: this platform vouches that a version is these bytes (Ed25519, RFC 8032)."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from citybrain.core.errors import SignatureWrong

FIELDS = ("algorithm", "version", "digest", "at", "signer")


def sign(private: bytes, statement: Mapping[str, str | int]) -> str:
    """The statement with its signature, as text that fits into a tag."""
    body = json.dumps({field: statement[field] for field in FIELDS}, separators=(",", ":"))
    signature = Ed25519PrivateKey.from_private_bytes(private).sign(body.encode())
    return f"{body}.{base64.urlsafe_b64encode(signature).decode()}"


def check(
    signed: str, algorithm: str, version: int, digest: str, signers: Mapping[str, str]
) -> None:
    """SignatureWrong unless a trusted signer stated exactly this; `signers` are public keys in hex."""
    body, _, signature = signed.rpartition(".")
    try:
        stated = json.loads(body)
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(signers[str(stated["signer"])]))
        public.verify(base64.urlsafe_b64decode(signature), body.encode())
        found = (stated["algorithm"], stated["version"], stated["digest"])
    except KeyError as error:
        raise _wrong(algorithm, version, "its signer is not trusted, or was revoked") from error
    except (InvalidSignature, ValueError, TypeError) as error:
        raise _wrong(algorithm, version, "its signature does not hold") from error
    if found != (algorithm, version, digest):
        raise _wrong(algorithm, version, "the signature belongs to another version or other files")


def _wrong(algorithm: str, version: int, reason: str) -> SignatureWrong:
    return SignatureWrong(
        f"{algorithm}@{version} is not loaded: {reason}.",
        hint="An admin who has looked into it signs again: citybrain signers --sign NAME@VERSION",
    )
