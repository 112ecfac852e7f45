"""Other settings for a platform that runs: what they change, and what they cannot change.

`citybrain reload` leaves the settings that its shell says in a file of the home; the supervisor
finds them there, starts its processes anew with them, and answers in `platform.json`.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from typing import Any, NamedTuple

from pydantic import BaseModel

from citybrain.core.home import Home, write_private
from citybrain.core.settings import Settings

CLIENTS = {"home", "url", "key", "ca", "test_data"}
"""What a shell says of itself, and not of the platform."""
WHOLE = {
    "CITYBRAIN_HOST", "CITYBRAIN_PORT", "CITYBRAIN_GRPC_PORT", "CITYBRAIN_DATABASE_URL",
    "CITYBRAIN_MLFLOW", "CITYBRAIN_SERVING__RAY_CPUS",
}  # fmt: skip
"""Of these no process can be started anew alone: the doors' addresses, the database, Ray's head."""
REPLICAS = {
    "CITYBRAIN_REMOTE__HOSTS", "CITYBRAIN_REMOTE__SECONDS", "CITYBRAIN_REMOTE__MAX_ANSWER",
    "CITYBRAIN_SERVING__VERIFY", "CITYBRAIN_SERVING__SHARED_BYTES",
}  # fmt: skip
"""What replicas are told at their start: those that run keep what they were told."""
SECRET = {"CITYBRAIN_DATABASE_URL"}


class Change(NamedTuple):
    """A setting that differs."""

    name: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.name} ({self.before or 'nothing'} → {self.after or 'nothing'})"


def told(settings: BaseModel, *, all_of_them: bool = True) -> dict[str, str]:
    """Settings by the names of their variables; or only those that somebody said."""
    found: dict[str, str] = {}
    for name in type(settings).model_fields if all_of_them else settings.model_fields_set:
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            inner = told(value, all_of_them=all_of_them)
            found |= {f"{name.upper()}__{key}": text for key, text in inner.items()}
        elif name not in CLIENTS:
            found[name.upper()] = str(value)
    if isinstance(settings, Settings):
        return {f"CITYBRAIN_{name}": text for name, text in found.items()}
    return found


def shown(settings: dict[str, str]) -> dict[str, str]:
    """The same for everybody's eyes: of a secret no more than whether it is another one."""
    return {
        name: hashlib.sha256(text.encode()).hexdigest()[:8] if text and name in SECRET else text
        for name, text in settings.items()
    }


def changes(before: dict[str, str], after: dict[str, str]) -> list[Change]:
    """What `after` says differently."""
    return [
        Change(name, before.get(name, ""), after[name])
        for name in sorted(after)
        if after[name] != before.get(name)
    ]


def ask_reload(home: Home, settings: dict[str, str]) -> str:
    """Leave these settings for the supervisor; by the id its answer is found."""
    asked = secrets.token_hex(8)
    write_private(_file(home), json.dumps({"id": asked, "settings": settings}).encode())
    return asked


def take_reload(home: Home) -> dict[str, Any]:
    """What was left, once; empty when there is nothing."""
    try:
        found: dict[str, Any] = json.loads(_file(home).read_text())
    except (OSError, ValueError):
        return {}
    _file(home).unlink(missing_ok=True)
    return found


def _file(home: Home) -> Any:
    return home.run / "reload.json"
