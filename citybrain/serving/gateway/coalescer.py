"""Calls that arrive while a frame is away ride in the next one.

One coalescer a deployment. It sends at most two frames a replica at a time, so under load a frame
carries many calls and a replica answers them in one batch; alone, a call leaves at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from citybrain.core.errors import CityBrainError, ModelFailed, Overloaded, Unavailable
from citybrain.core.settings import ServingSettings
from citybrain.serving.wire import Call, Reply, error_reply

Send = Callable[[list[Call]], Awaitable[list[Reply]]]
Settle = Callable[[list["Waiting"], list[Reply]], None]
FRAMES_PER_REPLICA = 2


@dataclass(slots=True)
class Waiting:
    """A call and who waits for its reply."""

    call: Call
    future: asyncio.Future[Reply]
    record: object


class Coalescer:
    """Puts calls into frames, sends them, and gives each caller its own reply."""

    def __init__(
        self,
        send: Send,
        settle: Settle,
        settings: ServingSettings,
        *,
        replicas: int = 1,
    ) -> None:
        self._send = send
        self._settle = settle
        self._settings = settings
        self._queue: deque[Waiting] = deque()
        self._frames = 0
        self._limit = FRAMES_PER_REPLICA * replicas
        self._scheduled = False
        self._tasks: set[asyncio.Task[None]] = set()

    def submit(self, waiting: Waiting) -> None:
        """Queue a call; Overloaded when too many wait already."""
        if len(self._queue) >= self._settings.max_queued:
            raise Overloaded(
                f"{self._settings.max_queued} calls of this algorithm are waiting.",
                hint="Try again in a second.",
            )
        self._queue.append(waiting)
        if not self._scheduled:
            # At the end of this turn of the loop: what else arrived in it shares the frame.
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        while self._queue and self._frames < self._limit:
            frame = self._next_frame()
            self._frames += 1
            task = asyncio.get_running_loop().create_task(self._carry(frame))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _next_frame(self) -> list[Waiting]:
        frame = [self._queue.popleft()]
        size = len(frame[0].call.body)
        while self._queue and len(frame) < self._settings.max_frame_calls:
            size += len(self._queue[0].call.body)
            if size > self._settings.max_frame_bytes:
                break
            frame.append(self._queue.popleft())
        return frame

    async def _carry(self, frame: list[Waiting]) -> None:
        try:
            replies = await self._replies([waiting.call for waiting in frame])
        finally:
            self._frames -= 1
        try:
            self._settle(frame, replies)
        except OSError:
            # What cannot be recorded is not answered: the ledger would miss it.
            error = Unavailable("The usage of this call cannot be recorded.")
            replies = [_as_reply(error)] * len(frame)
        for waiting, reply in zip(frame, replies, strict=True):
            if not waiting.future.done():
                waiting.future.set_result(reply)
        self._flush()

    async def _replies(self, calls: list[Call]) -> list[Reply]:
        try:
            async with asyncio.timeout(self._settings.call_timeout):
                replies = await self._send(calls)
            if len(replies) != len(calls):
                raise ModelFailed("The replica answered another number of calls than it was sent.")
            return replies
        except TimeoutError:
            seconds = self._settings.call_timeout
            error: CityBrainError = Unavailable(f"No answer came within {seconds:g} seconds.")
        except CityBrainError as reason:
            error = reason
        except Exception as reason:
            error = ModelFailed(f"The replica failed ({type(reason).__name__}).")
        return [_as_reply(error)] * len(calls)


def _as_reply(error: CityBrainError) -> Reply:
    return error_reply(error.code, error.message, error.hint)
