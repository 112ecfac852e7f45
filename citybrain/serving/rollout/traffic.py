"""What a gateway does with a call that names no alias: which deployment answers it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from citybrain.core.schemas.traffic import Share, Traffic


def lot(algorithm: str, ticket: str) -> float:
    """A number from 0 to 100 that is always the same for the same ticket, and differs by algorithm."""
    # No checksum: two CRCs of one ticket under two names differ by a constant, so that all of a
    # shadow's calls would come from one side of a split.
    digest = hashlib.blake2b(f"{algorithm}\0{ticket}".encode(), digest_size=4).digest()
    return int.from_bytes(digest) * (100 / 2**32)


def drawn(split: Sequence[Share], number: float) -> str:
    """The target whose part of the hundred a lot falls into.

    A canary stands first: while its share grows, whoever it answered once it answers again.
    """
    for share in split:
        number -= share.percent
        if number < 0:
            return share.target
    return split[-1].target


def is_shadowed(traffic: Traffic, request_id: str) -> bool:
    """Whether this call's copy goes to the shadow."""
    return bool(traffic.shadow) and lot("shadow", request_id) < traffic.shadow_percent
