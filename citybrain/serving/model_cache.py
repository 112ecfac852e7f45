"""Models in memory, as many as fit into a limit of measured bytes; the one not used longest goes."""

from __future__ import annotations

import ctypes
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Generic, NamedTuple, Self, TypeVar

T = TypeVar("T")


class Loaded(NamedTuple, Generic[T]):
    """Something in memory, and the bytes that it took."""

    model: T
    bytes: int


class Turns:
    """A lock that goes to whoever waits longest; a plain one may starve a thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = False
        self._waiting: deque[threading.Lock] = deque()

    def __enter__(self) -> Self:
        with self._lock:
            if not self._taken:
                self._taken = True
                return self
            mine = threading.Lock()
            mine.acquire()
            self._waiting.append(mine)
        mine.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()  # still taken: by that one
            else:
                self._taken = False


class ModelCache(Generic[T]):
    """Loads by name when asked, one at a time; what is in use stays alive until it is let go.

    A model that alone takes more than the limit is kept while no other is asked for.
    """

    def __init__(self, limit: int, load: Callable[[str], Loaded[T]]) -> None:
        self._limit = limit
        self._load = load
        self._lock = threading.Lock()
        self._loading = Turns()
        self._loaded: OrderedDict[str, Loaded[T]] = OrderedDict()
        self._sizes: dict[str, int] = {}
        """What each took when it was loaded last, also of those that are gone."""

    @property
    def sizes(self) -> dict[str, int]:
        """The bytes of each that is in memory now."""
        with self._lock:
            return {name: loaded.bytes for name, loaded in self._loaded.items()}

    def get(self, name: str) -> T:
        """From memory, or loaded again; whatever `load` raises reaches the caller."""
        if (found := self._recent(name)) is not None:
            return found.model
        with self._loading:
            # Somebody else may have loaded it while this one waited.
            return (self._recent(name) or self._fetch(name)).model

    def renew(self, name: str) -> T:
        """Loaded anew, whether it is in memory or not."""
        with self._loading:
            return self._fetch(name).model

    def drop(self, name: str) -> None:
        """Forget it; after a load that is under way."""
        with self._loading:
            with self._lock:
                found = self._loaded.pop(name, None)
            self._sizes.pop(name, None)
            if found is not None:
                del found
                give_back()

    def _recent(self, name: str) -> Loaded[T] | None:
        with self._lock:
            found = self._loaded.get(name)
            if found is not None:
                self._loaded.move_to_end(name)
            return found

    def _fetch(self, name: str) -> Loaded[T]:
        self._make_room(name, self._sizes.get(name, 0))
        loaded = self._load(name)
        self._sizes[name] = loaded.bytes
        with self._lock:
            self._loaded[name] = loaded
            self._loaded.move_to_end(name)
        self._make_room(name)
        return loaded

    def _make_room(self, name: str, expected: int = 0) -> None:
        """Let the oldest go until this one, in memory or `expected` to be, fits beside the rest."""
        gone = []
        with self._lock:
            used = expected + sum(
                one.bytes for key, one in self._loaded.items() if not (expected and key == name)
            )
            for key in [key for key in self._loaded if key != name]:
                if used <= self._limit:
                    break
                gone.append(self._loaded.pop(key))
                used -= gone[-1].bytes
        if gone:
            gone.clear()
            give_back()


def give_back() -> None:
    """Have the C library return freed memory to the system; it keeps most of it otherwise."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's own
    if trim is not None:
        trim(0)


def resident() -> int:
    """Bytes of memory that this process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
