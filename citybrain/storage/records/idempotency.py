"""Calls that may be repeated: one row for each `Idempotency-Key` of a department."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError

from citybrain.storage.database import Database
from citybrain.storage.moments import now
from citybrain.storage.quota_tables import IdempotencyRow


class Claim(NamedTuple):
    """What became of a key: this caller's to work on, somebody's, answered, or of another call."""

    state: Literal["mine", "running", "done", "other"]
    request_id: str
    body: bytes = b""
    header_length: int = -1


class Idempotency:
    """Who works on a key, and its answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(
        self, department: str, key: str, digest: str, request_id: str, holder: str,
        ended: Callable[[str, datetime], bool], keep: timedelta,
    ) -> Claim:  # fmt: skip
        """Take a key to work on; one whose holder has `ended` goes on under its first request id."""
        try:
            with self._database.write() as session:
                moment = now()
                row = session.get(IdempotencyRow, (department, key), with_for_update=True)
                if row is not None and row.expires_at <= moment:
                    session.delete(row)
                    session.flush()
                    row = None
                if row is None:
                    session.add(
                        IdempotencyRow(
                            department=department, key=key, request_id=request_id, digest=digest,
                            state="running", holder=holder, body=b"", header_length=-1,
                            at=moment, expires_at=moment + keep,
                        )
                    )  # fmt: skip
                    return Claim("mine", request_id)
                if row.digest != digest:
                    return Claim("other", row.request_id)
                if row.state == "done":
                    return Claim("done", row.request_id, row.body, row.header_length)
                if not ended(row.holder, row.at):
                    return Claim("running", row.request_id)
                row.holder, row.at = holder, moment
                return Claim("mine", row.request_id)
        except IntegrityError:  # two at the same moment, on PostgreSQL
            return Claim("running", "")

    def finish(self, department: str, key: str, body: bytes, header_length: int) -> None:
        """Keep the answer."""
        with self._database.write() as session:
            row = session.get(IdempotencyRow, (department, key))
            if row is not None:
                row.state, row.body, row.header_length = "done", body, header_length

    def drop(self, department: str, key: str) -> None:
        """The call failed, or its answer is too large to keep: the same key begins anew."""
        with self._database.write() as session:
            row = session.get(IdempotencyRow, (department, key))
            if row is not None:
                session.delete(row)

    def purge(self) -> int:
        """Forget what has expired; how many."""
        with self._database.write() as session:
            done = session.execute(delete(IdempotencyRow).where(IdempotencyRow.expires_at <= now()))
            return int(done.rowcount)  # type: ignore[attr-defined]
