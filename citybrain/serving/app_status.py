"""What is said of an application, by Ray Serve or by the replica that holds several."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AppStatus:
    """How one application is."""

    state: str
    """`deploying`, `running`, `failed` or `deleting`."""
    message: str
    replicas: int = 0
    """How many replicas answer."""
    in_sight: int = 0
    """With those that start or stop; what stops still answers what was sent to it."""
    note: str = ""
    """What its replicas say of themselves while they answer; empty: nothing is wrong."""
