"""A gateway that lets everybody in and writes nothing down: what keys, grants, limits and ledger cost.

For the benchmark alone. It is the platform's own gateway process, with the directory's two questions
answered by constants and a journal that forgets; it finds the replicas of a home that runs.

    python benchmarks/open_gateway.py     (settings as for the platform: CITYBRAIN_HOME, CITYBRAIN_PORT)
"""

from __future__ import annotations

import math
from typing import Any

from citybrain.core.levels import Level
from citybrain.core.schemas import Key
from citybrain.platform import gateway_process
from citybrain.serving.gateway.directory import Directory
from citybrain.serving.gateway.permits import Permit
from citybrain.storage.moments import now

ANYBODY = Key(
    id="anybody", department="platform", role="admin", purposes=["operation"], note="",
    created_at=now(), expires_at=None, revoked_at=None, level=Level.PERSONAL,
)  # fmt: skip
ANYTHING = Permit("operation", "", "", Level.PERSONAL.rank, math.inf)


class OpenDirectory(Directory):
    """Knows where algorithms run, and lets everybody call them."""

    def identify(self, key: str, session: str = "", peer: str = "", forwarded: str = "") -> Key:
        """Anybody."""
        return ANYBODY

    def permit(self, key: Key, algorithm: str, stated: str) -> Permit:
        """Anything."""
        return ANYTHING


class NoJournal:
    """Forgets what it is told."""

    name, size, unsynced = "0-00000000.none", 0, None

    def __init__(self, folder: Any) -> None: ...

    def admit(self, record: Any) -> None:
        """Forget it."""

    settle = admit

    def flush(self) -> None:
        """Nothing."""

    synced = close = flush


if __name__ == "__main__":
    gateway_process.Directory = OpenDirectory
    gateway_process.JournalWriter = NoJournal  # type: ignore[assignment,misc]
    gateway_process.main()
