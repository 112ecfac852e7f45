"""Calls with an `Idempotency-Key`: each is made and billed once, and its answer given again.

The key is claimed in the database before the call, and keeps the request id of its first try. A
gateway that dies in between leaves the claim; whoever repeats the call takes it over under the same
request id, so that the ledger has one row whatever was answered before.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from citybrain.core.errors import IdempotencyMismatch, InFlight, InvalidInput
from citybrain.core.settings import ServingSettings
from citybrain.serving.metering.book import holder_lives
from citybrain.serving.wire import Call, Reply
from citybrain.storage.moments import now
from citybrain.storage.records.idempotency import Claim, Idempotency

if TYPE_CHECKING:
    from citybrain.serving.gateway.answered import Answered
    from citybrain.serving.gateway.gateway import Asked
    from citybrain.serving.gateway.snapshot import Route

MAX_KEY = 255
SPARE = timedelta(seconds=30)
Work = Callable[["Asked", Call], Awaitable["Answered"]]


class Repeats:
    """One gateway's claims."""

    def __init__(
        self, rows: Idempotency, writers: Path, holder: str, settings: ServingSettings
    ) -> None:
        self._rows = rows
        self._writers = writers
        self._holder = holder
        self._settings = settings
        self._tasks: set[asyncio.Task[Answered]] = set()

    async def answer(self, asked: Asked, call: Call, route: Route, work: Work) -> Answered:
        """Make the call, or give the answer that it had."""
        from citybrain.serving.gateway.answered import Answered

        key = asked.repeat
        if len(key) > MAX_KEY or not key.isascii() or not key.isprintable():
            raise InvalidInput(f"Idempotency-Key must be 1 to {MAX_KEY} printable characters.")
        claim = await asyncio.to_thread(self._claim, asked, call)
        if claim.state == "other":
            raise IdempotencyMismatch(
                "This Idempotency-Key came before with another call.", hint="Make a new key."
            )
        if claim.state == "running":
            raise InFlight(
                "A call with this Idempotency-Key is under way.", hint="Ask again in a second."
            )
        if claim.state == "done":
            reply = Reply(claim.body, claim.header_length, 0, "", "")
            return Answered(
                reply,
                route,
                b"total;dur=0",
                request_id=claim.request_id,
                again=True,
                level=route.manifest.level,
            )
        call = call._replace(request_id=claim.request_id)
        # Who hangs up asks again: the work goes on, and its answer is kept for then.
        task = asyncio.get_running_loop().create_task(self._work(asked, call, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _work(self, asked: Asked, call: Call, work: Work) -> Answered:
        whose = (asked.key.department, asked.repeat)
        try:
            answered = await work(asked._replace(gone=None, repeat=""), call)
        except BaseException:
            await asyncio.to_thread(self._rows.drop, *whose)
            raise
        reply = answered.reply
        if len(reply.body) <= self._settings.repeat_bytes:
            await asyncio.to_thread(self._rows.finish, *whose, reply.body, reply.header_length)
        else:
            await asyncio.to_thread(self._rows.drop, *whose)
        return answered._replace(request_id=call.request_id)

    def _claim(self, asked: Asked, call: Call) -> Claim:
        said = (
            call.codec, str(asked.ref), asked.purpose, call.content_type, str(call.header_length),
        )  # fmt: skip
        digest = hashlib.sha256("\n".join(said).encode() + b"\n" + call.body).hexdigest()
        return self._rows.claim(
            asked.key.department, asked.repeat, digest, call.request_id, self._holder, self._ended,
            timedelta(hours=self._settings.repeat_hours),
        )  # fmt: skip

    def _ended(self, holder: str, since: datetime) -> bool:
        if not holder_lives(self._writers, holder):
            return True
        return now() - since > timedelta(seconds=self._settings.call_timeout) + SPARE
