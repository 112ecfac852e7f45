"""Calls that arrive while a frame is away ride in the next one.

One coalescer a deployment. It sends at most two frames a replica at a time (to a deployment that
sleeps, as to one replica), so under load a frame
carries many calls and a replica answers them in one batch; alone, a call leaves at once. A call
whose time is up, or whose caller has gone, leaves in no frame. A frame that nobody waits for any more
is asked back, and holds its place until its replica has let it go.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from citybrain.core.errors import ModelFailed, Overloaded
from citybrain.core.settings import ServingSettings
from citybrain.serving.gateway import endings
from citybrain.serving.gateway.fair_queue import FairQueue, displaced
from citybrain.serving.gateway.pace import Pace
from citybrain.serving.gateway.waiting import Waiting
from citybrain.serving.gateway.waiting_room import WaitingRoom
from citybrain.serving.wire import Call, FrameLost, Reply, Served

Launch = Callable[[list[Call]], "asyncio.Future[Served] | None"]
"""The quick way: a future of the answer, or None where there is no such way now."""
Send = Callable[..., Coroutine[Any, Any, Served]]
"""The sure way: takes calls, and `lost=True` if they were lost; repeats elsewhere what is lost."""
Settle = Callable[[list["Waiting"], list[Reply]], None]
FRAMES_PER_REPLICA = 2
LOOK_SECONDS = 0.2
"""Until callers that hung up are noticed who wait for a frame that is away."""
SWEEP_SECONDS = 0.05
"""Between two looks through a full line for callers that hung up."""
HELD_SECONDS = 5.0
"""How long a frame that was asked back may hold its place."""


@dataclass(slots=True)
class Flight:
    """A frame that is away."""

    frame: list[Waiting]
    calls: list[Call]
    future: asyncio.Future[Served]
    until: float
    """When it is given up, on the clock of the loop."""
    timer: asyncio.TimerHandle | None = None
    asked_back: bool = False


class Coalescer:
    """Puts calls into frames, sends them, and gives each caller its own reply."""

    def __init__(
        self,
        send: Send,
        settle: Settle,
        settings: ServingSettings,
        *,
        replicas: Callable[[], int] = lambda: 1,
        batch: int = 4096,
        launch: Launch = lambda _: None,
        room: WaitingRoom | None = None,
    ) -> None:
        # A frame of more calls than the model takes at once would only make others wait.
        self._most = min(settings.max_frame_calls, batch)
        self._launch = launch
        self._send = send
        self._settle = settle
        self._settings = settings
        room = room or WaitingRoom(settings.max_queued_bytes)
        most, each = settings.max_queued, settings.max_queued_department
        self._queue: FairQueue[Waiting] = FairQueue(most, each, room)
        self._pace = Pace()
        self._frames = 0
        self._swept = 0.0
        self._replicas = replicas
        self._scheduled = False
        self._tasks: set[asyncio.Future[Served]] = set()

    @property
    def waiting(self) -> int:
        """Calls that no frame has taken yet."""
        return len(self._queue)

    def submit(self, waiting: Waiting) -> None:
        """Queue a call; Overloaded when too many wait already."""
        try:
            gone = self._push(waiting)
        except Overloaded as error:
            self._pace.tell(error, len(self._queue), self._frames)
            raise
        for other in gone:
            if not other.settled:
                self._finish([other], [endings.as_reply(displaced())])
        loop = asyncio.get_running_loop()
        if waiting.deadline != math.inf:
            left = waiting.deadline - time.perf_counter()
            waiting.timer = loop.call_later(left, self._expire, waiting)
        if not self._scheduled:
            # At the end of this turn of the loop: what else arrived in it shares the frame.
            self._scheduled = True
            loop.call_soon(self._flush)

    def _push(self, waiting: Waiting) -> Sequence[Waiting]:
        try:
            return self._queue.push(waiting)
        except Overloaded:
            moment = time.perf_counter()
            if moment - self._swept < SWEEP_SECONDS:
                raise
            self._swept = moment
            # Places of callers that hung up are free. Those of expired calls are not: where all that
            # wait will be late, more of them would only make everybody late.
            gone = self._queue.sweep(lambda one: not one.settled and one.left_alone)
            if not gone:
                raise
            self._finish(gone, [endings.hung_up()] * len(gone))
            return self._queue.push(waiting)

    def _expire(self, waiting: Waiting) -> None:
        """Answer at the deadline, wherever the call is; its frame settles it no second time."""
        if not waiting.settled:
            self._finish([waiting], [endings.expired()])
            if waiting.flight is not None:
                self._look(waiting.flight)

    def _flush(self) -> None:
        self._scheduled = False
        if not len(self._queue):
            return
        limit = FRAMES_PER_REPLICA * self._replicas()  # replicas come and go with the load
        while len(self._queue) and self._frames < limit:
            if frame := self._next_frame():
                self._leave(frame)

    def _next_frame(self) -> list[Waiting]:
        frame: list[Waiting] = []
        room = math.inf  # the first call goes however large it is
        # Who waited so long here is given up like a frame: no replica came, or all are too slow.
        oldest = time.perf_counter() - self._settings.call_timeout
        while len(frame) < self._most and (waiting := self._queue.take(room)):
            if waiting.settled:
                continue
            if waiting.left_alone:
                self._finish([waiting], [endings.hung_up()])
                continue
            if waiting.began < oldest:
                self._finish([waiting], [endings.too_late(self._settings.call_timeout)])
                continue
            room = (room if frame else self._settings.max_frame_bytes) - waiting.size
            frame.append(waiting)
        return frame

    def _leave(self, frame: list[Waiting]) -> None:
        moment = time.perf_counter()
        calls = []
        for waiting in frame:
            waiting.left = moment
            call = waiting.call
            if waiting.deadline != math.inf:
                call = call._replace(deadline=waiting.deadline)
            calls.append(call)
        self._frames += 1
        try:
            quick = self._launch(calls)
        except Exception as error:  # nothing left: who waits is told
            self._land(frame, endings.failed(error, len(frame)))
            return
        future = quick or self._surely(calls)
        loop = asyncio.get_running_loop()
        flight = Flight(frame, calls, future, loop.time() + self._settings.call_timeout)
        for waiting in frame:
            waiting.flight = flight
        flight.timer = loop.call_later(LOOK_SECONDS, self._look, flight)
        future.add_done_callback(lambda _: self._landed(flight))

    def _finish(self, frame: list[Waiting], replies: list[Reply]) -> None:
        """Write the ends down, then give each caller its reply."""
        try:
            self._settle(frame, replies)
        except OSError:
            # What cannot be recorded is not answered: the ledger would miss it.
            replies = [endings.unrecorded()] * len(frame)
        for waiting, reply in zip(frame, replies, strict=True):
            waiting.settled = True
            if waiting.timer is not None:
                waiting.timer.cancel()
            if not waiting.outcome.done():
                waiting.outcome.set_result(reply)

    def _surely(self, calls: list[Call], **lost: bool) -> asyncio.Future[Served]:
        task = asyncio.get_running_loop().create_task(self._send(calls, **lost))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _look(self, flight: Flight) -> None:
        """Ask for a frame back that takes too long, or that nobody waits for; look again later."""
        loop = asyncio.get_running_loop()
        if flight.timer is not None:
            flight.timer.cancel()
        late, pause = loop.time() >= flight.until, LOOK_SECONDS
        if flight.asked_back:
            if late:  # the replica does not let it go
                flight.future.cancel()
                return
        elif late or all(waiting.left_alone for waiting in flight.frame):
            reply = endings.too_late(self._settings.call_timeout) if late else endings.hung_up()
            kept = [waiting for waiting in flight.frame if not waiting.settled]
            self._finish(kept, [reply] * len(kept))
            flight.asked_back, flight.until = True, loop.time() + HELD_SECONDS
            flight.future.cancel()
            pause = HELD_SECONDS
        flight.timer = loop.call_later(pause, self._look, flight)

    def _landed(self, flight: Flight) -> None:
        """A frame came back, or did not."""
        calls = flight.calls
        try:
            served = flight.future.result()
            if len(served.replies) != len(calls):
                raise ModelFailed("The replica answered another number of calls than it was sent.")
        except FrameLost:
            flight.future = self._surely(calls, lost=True)
            flight.future.add_done_callback(lambda _: self._landed(flight))
            return
        except asyncio.CancelledError:
            served = endings.failed(ModelFailed("The call was ended."), len(calls))
        except Exception as error:
            served = endings.failed(error, len(calls))
        if flight.timer is not None:
            flight.timer.cancel()
        self._land(flight.frame, served)

    def _land(self, frame: list[Waiting], served: Served) -> None:
        self._frames -= 1
        self._pace.landed(time.perf_counter() - frame[0].left, len(frame))
        for waiting in frame:
            waiting.waited, waiting.worked = served.waited, served.worked
            waiting.lane = served.lane
            waiting.modelled = served.modelled
            waiting.flight = None
        if any(waiting.settled for waiting in frame):  # some were answered at their deadline
            kept = [p for p in zip(frame, served.replies, strict=True) if not p[0].settled]
            self._finish([waiting for waiting, _ in kept], [reply for _, reply in kept])
        else:
            self._finish(frame, served.replies)
        self._flush()
