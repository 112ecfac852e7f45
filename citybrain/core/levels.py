"""How sensitive something is: four levels, in order."""

from __future__ import annotations

from enum import StrEnum


class Level(StrEnum):
    """`public < internal < sensitive < personal`; compare levels with `rank` or the operators."""

    PUBLIC = "public"
    INTERNAL = "internal"
    SENSITIVE = "sensitive"
    PERSONAL = "personal"

    @property
    def rank(self) -> int:
        """0 for public, 3 for personal."""
        return list(Level).index(self)

    def __lt__(self, other: str) -> bool:
        return self.rank < Level(other).rank

    def __le__(self, other: str) -> bool:
        return self.rank <= Level(other).rank

    def __gt__(self, other: str) -> bool:
        return self.rank > Level(other).rank

    def __ge__(self, other: str) -> bool:
        return self.rank >= Level(other).rank
