"""Signed statements: this platform vouches that a version, or a form of it, is these bytes (Ed25519).

A statement names what it is of, down to the form: put elsewhere, or kept and brought back later, it
fits nothing else. RFC 8032.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from citybrain.core.errors import SignatureWrong

SOURCE = "source"
"""The form of a version that is its own package."""
FIELDS = ("algorithm", "version", "form", "digest", "at", "signer")


def sign(private: bytes, statement: Mapping[str, str | int]) -> str:
    """The statement with its signature, as text that fits into a tag."""
    body = json.dumps({field: statement[field] for field in FIELDS}, separators=(",", ":"))
    signature = Ed25519PrivateKey.from_private_bytes(private).sign(body.encode())
    return f"{body}.{base64.urlsafe_b64encode(signature).decode()}"


def sign_text(private: bytes, signer: str, text: str) -> str:
    """A signature of any text, with the name of who signed: `name.base64`."""
    signature = Ed25519PrivateKey.from_private_bytes(private).sign(text.encode())
    return f"{signer}.{base64.urlsafe_b64encode(signature).decode()}"


def signed_text(signed: str, text: str, signers: Mapping[str, str]) -> bool:
    """Whether one of these signers (public keys in hex) signed this text."""
    signer, _, signature = signed.partition(".")
    try:
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(signers[signer]))
        public.verify(base64.urlsafe_b64decode(signature), text.encode())
    except (KeyError, InvalidSignature, ValueError):
        return False
    return True


def check(
    signed: str, algorithm: str, version: int, digest: str, signers: Mapping[str, str],
    form: str = SOURCE,
) -> None:  # fmt: skip
    """SignatureWrong unless a trusted signer stated exactly this; `signers` are public keys in hex."""
    body, _, signature = signed.rpartition(".")
    try:
        stated = json.loads(body)
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(signers[str(stated["signer"])]))
        public.verify(base64.urlsafe_b64decode(signature), body.encode())
        stated.setdefault("form", SOURCE)  # earlier statements knew no other
        found = tuple(stated.get(field) for field in ("algorithm", "version", "form", "digest"))
    except KeyError as error:
        raise _wrong(
            algorithm, version, form, "its signer is not trusted, or was revoked"
        ) from error
    except (InvalidSignature, AttributeError, ValueError, TypeError) as error:
        raise _wrong(algorithm, version, form, "its signature does not hold") from error
    if found != (algorithm, version, form, digest):
        raise _wrong(
            algorithm, version, form, "the signature belongs to another version, form or files"
        )


def _wrong(algorithm: str, version: int, form: str, reason: str) -> SignatureWrong:
    name = f"{algorithm}@{version}"
    if form != SOURCE:
        return SignatureWrong(
            f"The {form} form of {name} is not loaded: {reason}.",
            hint=f"Make it again: citybrain convert {name} --to {form}",
        )
    return SignatureWrong(
        f"{name} is not loaded: {reason}.",
        hint="An admin who has looked into it signs again: citybrain signers --sign NAME@VERSION",
    )
