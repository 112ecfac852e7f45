"""Answers a chunk of rows on the replicas that serve callers, and gives way to those.

Each row is a call of its own in a frame, so a bad row gets its own error and the others are
answered in one batch. One frame of jobs is away at a time for an algorithm, and it is short: an
online caller who comes meanwhile waits for the rest of one frame. A frame that had to wait in the
replica has met callers there; for the next second jobs pause for many times what a frame takes.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

from citybrain.core.errors import (
    BadJson,
    BadMedia,
    CityBrainError,
    DeadlineExceeded,
    ModelFailed,
    NotReady,
    TooLarge,
    error_from,
)
from citybrain.core.settings import JobSettings, ServingSettings
from citybrain.serving.gateway.lanes import Lanes
from citybrain.serving.gateway.snapshot import Route
from citybrain.serving.jobs.folder import JobFolder
from citybrain.serving.jobs.opening import ERROR, FILE
from citybrain.serving.protocols import task as task_protocol
from citybrain.serving.wire import Call, FrameLost, Reply, Served, error_reply

Histories = Callable[[str, list[str]], list[tuple[Any, datetime] | None]]
CROWDED_SECONDS = 0.0001
"""A frame that waited longer than this in the replica met somebody there."""
REMEMBERED_SECONDS = 1.0
"""A frame that met nobody by chance is no sign that the callers have gone."""
GIVES_WAY = 20
"""Among callers jobs pause for so many times what a frame took: they keep a twentieth of the replica."""
LONGEST_PAUSE = 1.0
DEATHS = 3
"""A row that was away when a replica ended so many times is not sent again."""


class Stopped(Exception):
    """The job was cancelled, or the platform stops."""


@dataclass
class Trouble:
    """What a chunk met before: after a replica ended, its rows go one by one."""

    careful: bool = False
    deaths: Counter[int] = field(default_factory=Counter)


class _Answer(msgspec.Struct):
    """What the task API answers; the results are passed on as they came."""

    results: list[msgspec.Raw]


@dataclass
class Row:
    """A row on its way: its number, the name of its file, and a call or why there is none."""

    number: int
    name: str
    call: Call | CityBrainError


class Runner:
    """Sends rows to replicas over the lanes, a frame at a time."""

    def __init__(
        self, lanes: Lanes, histories: Histories, settings: JobSettings, serving: ServingSettings,
        rouse: Callable[[str], None] | None = None,
    ) -> None:  # fmt: skip
        self._lanes = lanes
        self._histories = histories
        self._settings = settings
        self._serving = serving
        self._rouse = rouse
        self._pace: dict[str, int] = {}
        self._met: dict[str, float] = {}

    def rows(self, folder: JobFolder, number: int, first: int, route: Route) -> list[Row]:
        """Open a chunk: each row as one call, or with its own error."""
        found = []
        for row, line in enumerate(folder.chunk(number), first):
            name = ""
            try:
                kind, payload = line[:1], line[1:]
                if kind == ERROR:
                    raise error_from(*msgspec.json.decode(payload, type=tuple[str, str]))
                if kind == FILE:
                    told = msgspec.json.decode(payload, type=dict[str, str])
                    name = told["name"]
                    call = self._media(folder.media(told["file"]), route)
                else:
                    call = self._item(payload, route)
                found.append(Row(row, name, call))
            except CityBrainError as error:
                found.append(Row(row, name, error))
        if route.feature_service:
            self._fill(found, route)
        return found

    def _media(self, body: bytes, route: Route) -> Call:
        if len(body) > self._serving.max_body:
            raise TooLarge(f"The file has {len(body)} bytes; at most {self._serving.max_body}.")
        if not body:
            raise BadMedia("The file is empty.")
        return Call("task", body, -1, f"{route.task.media}/*", "")

    def _item(self, payload: bytes, route: Route) -> Call:
        if len(payload) > self._serving.max_json:
            raise TooLarge(f"The row has more than {self._serving.max_json} bytes.")
        body = b'{"inputs":[%b]}' % payload
        # Decoded here too: what is not exactly one item must not become two in the answer.
        if len(task_protocol.items(body, route.task)) != 1:
            raise BadJson("The row is not one JSON object.")
        return Call("task", body, -1, "application/json", "")

    def _fill(self, rows: list[Row], route: Route) -> None:
        """Look up the histories of all entities that the chunk names at once."""
        task: Any = route.task
        asked: list[tuple[Row, list[Any], str]] = []
        for row in rows:
            if not isinstance(row.call, Call) or row.call.content_type != "application/json":
                continue
            items = task_protocol.items(row.call.body, task)
            try:
                asked += [(row, items, name) for name in task.entities(items)]
            except CityBrainError as error:
                row.call = error
        if not asked:
            return
        found = self._histories(route.feature_service, [name for _, _, name in asked])
        for (row, items, _), history in zip(asked, found, strict=True):
            values, moment = history or (None, None)
            try:
                filled = task.fill(items, [values], [moment])
                body = msgspec.json.encode({"inputs": filled})
                row.call = Call("task", body, -1, "application/json", "")
            except CityBrainError as error:
                row.call = error

    async def answer(
        self, rows: list[Row], route: Route, trouble: Trouble, stopped: Callable[[], bool]
    ) -> tuple[list[bytes], list[Reply], float]:
        """The chunk's result lines, the answers among them, and the seconds that replicas worked.

        Raises NotReady where no replica answers; the chunk is done again later, from its start.
        """
        replies: dict[int, Reply] = {}
        sent = []
        for row in rows:
            if isinstance(row.call, Call) and trouble.deaths[row.number] >= DEATHS:
                row.call = ModelFailed(f"The replica ended {DEATHS} times with this row.")
            if isinstance(row.call, Call):
                sent.append(row)
        worked = 0.0
        while sent:
            if stopped():
                raise Stopped
            frame = self._next(sent, route, careful=trouble.careful)
            served = await self._send(frame, route, trouble)
            worked += served.worked
            for row, reply in zip(frame, served.replies, strict=True):
                if reply.code == NotReady.code:  # the replica's files changed: no row's fault
                    raise NotReady(reply.body.decode(), hint=reply.hint)
                replies[row.number] = reply
            del sent[: len(frame)]
            self._keep_pace(route, len(frame), served.worked)
            await asyncio.sleep(self._pause(route, served))
        lines = [_line(row, replies.get(row.number), route.version) for row in rows]
        answered = [reply for reply in replies.values() if not reply.code]
        return lines, answered, worked

    def _next(self, sent: list[Row], route: Route, *, careful: bool) -> list[Row]:
        most = 1 if careful else self._pace.get(route.app, 1)
        frame: list[Row] = []
        size = 0
        for row in sent[:most]:
            assert isinstance(row.call, Call)
            size += len(row.call.body)
            if frame and size > self._serving.max_frame_bytes:
                break
            frame.append(row)
        return frame

    async def _send(self, frame: list[Row], route: Route, trouble: Trouble) -> Served:
        lane = self._lanes.idlest(route.app)
        if lane is None:
            if self._rouse is not None:  # it may sleep
                self._rouse(route.app)
            raise NotReady(f"No replica of {route.algorithm} answers at the moment.")
        calls = [row.call for row in frame if isinstance(row.call, Call)]
        try:
            async with asyncio.timeout(self._serving.call_timeout):
                served = await lane.send(calls)
        except TimeoutError:
            if len(frame) == 1:
                late = DeadlineExceeded(
                    f"No answer came within {self._serving.call_timeout:g} seconds."
                )
                return Served([error_reply(late.code, late.message, late.hint)])
            trouble.careful = True
            raise NotReady(f"{route.algorithm} was too slow; its rows go one by one now.") from None
        except FrameLost as error:
            trouble.careful = True
            if len(frame) == 1:
                trouble.deaths[frame[0].number] += 1
            raise NotReady(f"{route.algorithm} lost its replica.") from error
        if len(served.replies) != len(calls):
            failed = error_reply(ModelFailed.code, "The replica answered another number.", "")
            return served._replace(replies=[failed] * len(calls))
        return served

    def _keep_pace(self, route: Route, count: int, worked: float) -> None:
        """As many rows in a frame as take about `frame_seconds`."""
        fits = count * self._settings.frame_seconds / max(worked, 1e-6)
        most = min(2 * count, self._serving.max_frame_calls)  # grow step by step
        self._pace[route.app] = max(1, min(most, int(fits)))

    def _pause(self, route: Route, served: Served) -> float:
        """How long to leave the replica to its callers, if there are any."""
        now = time.monotonic()
        if served.waited > CROWDED_SECONDS:
            self._met[route.app] = now
        if now - self._met.get(route.app, -math.inf) > REMEMBERED_SECONDS:
            return 0.0
        return min(LONGEST_PAUSE, GIVES_WAY * served.worked)


def _line(row: Row, reply: Reply | None, version: int) -> bytes:
    """One line of the result: the row's number, its file's name, and its answer or error."""
    found: dict[str, Any] = {"row": row.number}
    if row.name:
        found["name"] = row.name
    if reply is not None and not reply.code:
        results = msgspec.json.decode(reply.body, type=_Answer).results
        found |= {"version": version, "output": results[0]}
        return msgspec.json.encode(found) + b"\n"
    if reply is not None:
        error = error_from(reply.code, reply.body.decode(), reply.hint)
    else:
        assert isinstance(row.call, CityBrainError)
        error = row.call
    found["error"] = {"code": error.code, "message": error.message}
    if error.hint:
        found["error"]["hint"] = error.hint
    return msgspec.json.encode(found) + b"\n"
