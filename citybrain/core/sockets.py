"""Unix sockets in folders of any name: the kernel takes 107 bytes of address, and folders have more."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from citybrain.core.errors import Unavailable

MOST_BYTES = 107


@contextmanager
def address_of(path: Path) -> Iterator[str]:
    """What to bind or connect to for the socket at `path`, however long that is.

    A long folder is opened, and the socket named below its descriptor. Unavailable if its own name
    is too long.
    """
    if len(os.fsencode(path)) <= MOST_BYTES:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = f"/proc/self/fd/{folder}/{path.name}"
        if len(os.fsencode(found)) > MOST_BYTES:
            raise Unavailable(
                f"{path.name} is too long for a socket.",
                hint=f"Names of sockets take about {MOST_BYTES - 20} bytes.",
            )
        yield found
    finally:
        os.close(folder)
