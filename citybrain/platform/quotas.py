"""Limits, and what is used of them now."""

from __future__ import annotations

from datetime import UTC, datetime

from citybrain.core.schemas.quotas import QuotaUse
from citybrain.serving.metering.book import MICRO
from citybrain.serving.metering.kept_book import KeptBook
from citybrain.storage.records.quotas import Quotas


class QuotaDesk:
    """The rows, and the book beside them."""

    def __init__(self, rows: Quotas, book: KeptBook) -> None:
        self.rows = rows
        self._book = book

    def used(self, department: str = "") -> list[QuotaUse]:
        """Every limit in force, of one department or of all, and how far it is used up."""
        found = []
        for quota in self.rows.active(department):
            counted = self._book.counts(quota.slot) == int(quota.id, 16)
            end, total = self._book.window(quota.slot) if counted else (0, 0)
            used = 0.0 if quota.per == "second" else total / MICRO
            found.append(
                QuotaUse(
                    quota=quota, used=used, left=max(0.0, quota.amount - used),
                    resets_at=datetime.fromtimestamp(end / 1e3, UTC) if end else None,
                )
            )  # fmt: skip
        return found
