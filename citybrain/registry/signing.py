"""The platform's signing key, and whose signatures count.

The private key never leaves the control process; replicas are given public keys only.
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from citybrain.core.errors import InvalidInput
from citybrain.core.home import Home, write_private
from citybrain.core.signatures import SOURCE, sign, sign_text, signed_text
from citybrain.storage.moments import now


class Signers:
    """One key signs; those before it stay trusted until they are revoked."""

    def __init__(self, home: Home) -> None:
        self._key = home.root / "secrets" / "signing.key"
        self._list: Path = home.root / "secrets" / "signers.json"
        if not self._list.exists():
            self.rotate()

    def all(self) -> dict[str, dict[str, str]]:
        """Every signer: `public` in hex, `state` (`signs`, `trusted`, `revoked`), `since`."""
        found: dict[str, dict[str, str]] = json.loads(self._list.read_text())
        return found

    def trusted(self) -> dict[str, str]:
        """Public keys in hex by signer, without the revoked ones."""
        return {k: v["public"] for k, v in self.all().items() if v["state"] != "revoked"}

    def sign(self, algorithm: str, version: int, digest: str, form: str = SOURCE) -> str:
        """A signed statement about a version or a form of it, by the key that signs now."""
        signer = next(k for k, v in self.all().items() if v["state"] == "signs")
        return sign(self._key.read_bytes(), {
            "algorithm": algorithm, "version": version, "form": form, "digest": digest,
            "at": now().isoformat(), "signer": signer,
        })  # fmt: skip

    def sign_text(self, text: str) -> str:
        """Any statement of the platform, by the key that signs now."""
        signer = next(k for k, v in self.all().items() if v["state"] == "signs")
        return sign_text(self._key.read_bytes(), signer, text)

    def signed_text(self, signed: str, text: str) -> bool:
        """Whether this platform signed it, with a key that it had then or has now."""
        return signed_text(signed, text, {k: v["public"] for k, v in self.all().items()})

    def rotate(self) -> str:
        """Make a new key that signs from now on; its name."""
        signers = self.all() if self._list.exists() else {}
        for entry in signers.values():
            if entry["state"] == "signs":
                entry["state"] = "trusted"
        private = Ed25519PrivateKey.generate()
        name = secrets.token_hex(4)
        public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
        signers[name] = {"public": public, "state": "signs", "since": now().isoformat()}
        # The key first: a list that names a key which does not exist yet could sign nothing.
        write_private(self._key, private.private_bytes_raw())
        self._write(signers)
        return name

    def revoke(self, name: str) -> None:
        """Trust this signer no more: what it signed is refused until it is signed again."""
        signers = self.all()
        if name not in signers:
            raise InvalidInput(
                f"There is no signer {name[:20]!r}.", hint=f"There are: {', '.join(signers)}."
            )
        if signers[name]["state"] == "signs":
            raise InvalidInput(
                f"{name} is the key that signs now.", hint="First: citybrain signers --rotate"
            )
        signers[name]["state"] = "revoked"
        self._write(signers)

    def _write(self, signers: dict[str, dict[str, str]]) -> None:
        write_private(self._list, json.dumps(signers, indent=1).encode())
