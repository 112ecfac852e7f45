"""An answer in parts, as a gateway asks for it: the next one when the reader has taken the last.

The first part comes like any answer: through the line of its deployment, settled in the journal before
it leaves. The others are asked for on the same lane, a frame each, because that replica holds what it
has answered so far. A lane that breaks costs nothing but time: the call is made again, and what the
reader has is passed over.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator
from dataclasses import replace

from citybrain.core.errors import DeadlineExceeded, NotReady, error_from
from citybrain.serving.gateway.answered import Answered
from citybrain.serving.gateway.dispatch import Dispatch
from citybrain.serving.gateway.snapshot import Route
from citybrain.serving.gateway.waiting import Waiting
from citybrain.serving.wire import DROP, NEXT, Call, FrameLost, Reply, Served

TRIES = 3
"""How often a call is made again whose replica was lost."""


async def in_parts(answered: Answered, dispatch: Dispatch) -> AsyncGenerator[Reply]:
    """Each part and then the whole; raises what went wrong in between.

    Whoever stops reading closes it, which lets go of the answer in the replica.
    """
    reply = answered.reply
    if answered.waiting is None:
        yield reply
        return
    begun = _Begun(answered.waiting)
    given = tries = 0
    """Parts that the reader has, and calls made again."""
    try:
        while reply.more:
            begun.seen += 1
            if begun.seen > given:
                given = begun.seen
                yield reply
            try:
                reply = await begun.next(dispatch.patience)
            except NotReady:
                if tries == TRIES:
                    raise
                tries += 1
                begun.end()
                begun, reply = await _again(begun.waiting, answered.route, dispatch)
        yield reply
    finally:
        begun.end(dropped=reply.more)


class _Begun:
    """A call whose answer has begun to come."""

    def __init__(self, waiting: Waiting) -> None:
        self.waiting = waiting
        self.seen = 0
        """Parts of it that came."""
        self._lane = waiting.lane
        if self._lane is not None:
            self._lane.hold(1)

    async def next(self, patience: float) -> Reply:
        """The next part; NotReady where the replica or its lane is lost."""
        deadline = self.waiting.deadline
        left = deadline - time.perf_counter()
        if left <= 0:
            raise _late()
        if self._lane.gone:
            raise _lost()
        away = self._lane.send([self._call(NEXT, 0.0 if deadline == math.inf else deadline)])
        try:
            # Not awaited itself: one that is given up ends only when its replica lets it go.
            await asyncio.wait({away}, timeout=min(left, patience))
            if not away.done():
                raise _late()
            served: Served = away.result()
        except FrameLost as error:
            raise _lost() from error
        finally:
            away.cancel()  # asks it back, if it is still away
        return _good(served.replies[0])

    def end(self, *, dropped: bool = False) -> None:
        """Need the lane no more; `dropped`: nor what the replica holds."""
        lane, self._lane = self._lane, None
        if lane is None:
            return
        if dropped and not lane.gone:
            sent = lane.send([self._call(DROP, 0.0)])
            sent.add_done_callback(lambda future: future.cancelled() or future.exception())
        lane.hold(-1)

    def _call(self, codec: str, deadline: float) -> Call:
        return self.waiting.call._replace(codec=codec, body=b"", deadline=deadline)


async def _again(
    waiting: Waiting, route: Route, dispatch: Dispatch
) -> tuple[_Begun, Reply]:  # fmt: skip
    """The call made anew, without another row in the ledger; its first part, or all of it."""
    future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
    fresh = replace(
        waiting, outcome=future, record=None, began=time.perf_counter(), lane=None, timer=None,
        settled=False,
    )  # fmt: skip
    dispatch.submit(fresh, route)
    reply = _good(await future)
    return _Begun(fresh), reply


def _good(reply: Reply) -> Reply:
    if reply.code:
        raise error_from(reply.code, reply.body.decode(), reply.hint)
    return reply


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("The call's own time was over before the end of its answer.")


def _lost() -> NotReady:
    return NotReady("The replica was lost in the middle of an answer.", hint="Repeat the call.")
