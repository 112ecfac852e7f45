"""Requests that were refused for who asked or for what: counted, and written down once a second.

The audit trail gets every one of them (`storage/records/denials.py` folds them into it), and a flood of
them must not fill it: what a caller can make up is no part of a kind, and strangers, who have no key, are
told apart by their addresses, as many of those as a minute can take.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from ipaddress import ip_address, ip_network
from pathlib import Path

from citybrain.core.errors import CityBrainError, NotSignedIn, Refused
from citybrain.core.schemas import Key
from citybrain.storage.journal import Denial, JournalWriter

log = logging.getLogger(__name__)
SECONDS = 1.0
STRANGERS = 64
"""Addresses that are told apart in a minute; an IPv6 network of 64 bits is one: its owner has them all."""
ELSEWHERE = "elsewhere"
CALL = "call"


def is_denial(error: BaseException) -> bool:
    """Whether an error refuses the caller, and not the input or the moment."""
    return isinstance(error, NotSignedIn | Refused)


class Denials:
    """Those of one process since its last lines."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._journal: JournalWriter | None = None
        self._counts: dict[tuple[str, ...], Denial] = {}
        self._lock = threading.Lock()
        self._minute = 0
        self._sources: set[str] = set()

    def count(
        self, error: CityBrainError, key: Key | None, source: str, target: str, door: str, *,
        action: str = CALL, purpose: str = "",
    ) -> None:  # fmt: skip
        """One more. `target` is a name that the platform knows, or empty."""
        at_ms = time.time_ns() // 1_000_000
        with self._lock:
            if key is None:
                source, target = self._known(source, at_ms // 60_000), ""
            who = (key.id, key.user, key.role, key.department) if key else ("", "", "", "")
            kind = (who[0] or source, action, target, error.code)
            seen = self._counts.get(kind)
            self._counts[kind] = seen._replace(calls=seen.calls + 1) if seen else Denial(
                at_ms, *who, source, action, target, purpose[:63], door, error.code, 1
            )  # fmt: skip

    def write(self) -> None:
        """Hand what was counted to the kernel; OSError if it takes nothing now."""
        with self._lock:
            if not self._counts and self._journal is None:
                return
            self._journal = self._journal or JournalWriter(self._folder)
            self._journal.flush()  # what a full disk kept back: until it is written, sums only grow
            for denial in self._counts.values():
                self._journal.deny(denial)
            self._counts.clear()
            self._journal.flush()

    async def keep(self) -> None:
        """Write now and then, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SECONDS)
            await loop.run_in_executor(None, self.step)

    def step(self) -> None:
        """Write, and wait for the disk."""
        try:
            self.write()
            journal = self._journal
            if journal is not None and (file := journal.unsynced) is not None:
                os.fdatasync(file)
                journal.synced()
        except OSError:
            log.exception("denials cannot be written down")

    def close(self) -> None:
        """Write what is left, and let go of the file."""
        try:
            self.write()
            journal, self._journal = self._journal, None
            if journal is not None:
                journal.close()
        except OSError:
            log.exception("denials could not be written down")

    def _known(self, source: str, minute: int) -> str:
        """An address as strangers are told apart by it."""
        if minute != self._minute:
            self._minute, self._sources = minute, set()
        network = network_of(source)
        if network not in self._sources and len(self._sources) >= STRANGERS:
            return ELSEWHERE
        self._sources.add(network)
        return network


def network_of(address: str) -> str:
    """An IPv4 address itself, the /64 network of an IPv6 address; empty: what is no address."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if found.version == 4:
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ip_network((found, 64), strict=False))
