"""The supervisor's processes started anew, with other settings, while calls are answered.

Each gateway is replaced by one that takes connections already before it is told to end; then the
control process. Ray and its replicas go on. What cannot be taken over is refused before anything
is touched.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from citybrain.core.settings import Settings, swap_environment
from citybrain.platform.children import Child, end_group
from citybrain.platform.reload import REPLICAS, WHOLE, changes, take_reload, told
from citybrain.platform.safety import door_faults
from citybrain.platform.state import ready_file

if TYPE_CHECKING:
    from citybrain.platform.supervisor import Supervisor

log = logging.getLogger(__name__)
START_SECONDS = 120.0
END_SECONDS = 15.0
"""Seconds for a process to end, besides those in which a gateway answers what is under way."""


class NotReloaded(Exception):
    """Why it goes on as before."""


class Rolling:
    """Does what a reload asks for, a step at each turn of the supervisor's loop."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._all = supervisor
        self._steps: Iterator[None] | None = None
        self.besides: list[Child] = []
        """What starts, or ends, and has nobody's place."""
        self.answer: dict[str, Any] = {}
        """What became of the last one that was asked for."""

    def step(self) -> None:
        """Go on, or begin what was asked for meanwhile."""
        if self._steps is None:
            asked = take_reload(self._all.home)
            if not asked:
                return
            self._say(id=asked["id"], state="running", doing="", message="")
            self._steps = self._reload(asked["settings"])
        try:
            next(self._steps)
        except StopIteration:
            self._steps = None
            self._say(state="done", doing="")
        except NotReloaded as error:
            log.error("not reloaded: %s", error)
            self._steps = None
            self._say(state="failed", doing="", message=str(error))

    def _say(self, **news: Any) -> None:
        self.answer = self.answer | news
        self._all.write_state()

    def _reload(self, said: dict[str, str]) -> Iterator[None]:
        before = self._all.settings
        restored = swap_environment(said)
        try:
            wanted = self._checked(before)
            found = changes(told(before), told(wanted))
            log.info("reload: %s", ", ".join(map(str, found)) or "with the same settings")
            self._say(
                changes=[str(change) for change in found],
                later=[change.name for change in found if change.name in REPLICAS],
            )
            self._all.settings = wanted
            yield from self._gateways(before.serving.drain)
        except NotReloaded:
            swap_environment(restored)
            self._all.settings = before
            raise
        yield from self._control()

    def _checked(self, before: Settings) -> Settings:
        try:
            wanted = Settings().at(self._all.home.root)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = "__".join(str(part) for part in first["loc"]).upper()
            raise NotReloaded(f"CITYBRAIN_{where}: {first['msg']}.") from error
        fixed = [c.name for c in changes(told(before), told(wanted)) if c.name in WHOLE]
        for fault in door_faults(wanted):
            raise NotReloaded(f"{fault.why} {fault.hint}")
        if fixed:
            raise NotReloaded(
                f"{', '.join(fixed)} cannot change while the platform runs: "
                "run citybrain down, then citybrain up."
            )
        return wanted

    def _gateways(self, drain: float) -> Iterator[None]:
        old = [child for child in self._all.children if child.is_gateway]
        new = [child for child in self._all.plan() if child.is_gateway]
        for number in range(max(len(old), len(new))):
            if number < len(new):
                yield from self._begin(new[number])
            if number < len(old):
                yield from self._leave(old[number], drain)

    def _begin(self, child: Child) -> Iterator[None]:
        """Start a gateway, and have it in the place of its predecessor when it takes connections."""
        self._say(doing=f"{child.name} starts")
        self.besides.append(child)
        self._all.start(child)
        assert child.process is not None
        until = time.monotonic() + START_SECONDS
        while not ready_file(self._all.home, child.process.pid).exists():
            if child.has_ended() or time.monotonic() > until:
                self.besides.remove(child)
                end_group(child.process.pid)
                raise NotReloaded(
                    f"{child.name} does not start anew; see logs/{child.name}.out. "
                    "What ran before goes on."
                )
            yield
        self.besides.remove(child)
        self._all.children.append(child)

    def _leave(self, child: Child, drain: float) -> Iterator[None]:
        self._say(doing=f"{child.name} answers what is under way, and ends")
        yield from self._retire(child, drain + END_SECONDS)
        if child.process is not None:
            ready_file(self._all.home, child.process.pid).unlink(missing_ok=True)

    def _control(self) -> Iterator[None]:
        """It is the only writer of some truths, so the new one starts when the old one has ended."""
        self._say(doing="control starts")
        control = next(child for child in self._all.children if child.name == "control")
        yield from self._retire(control, END_SECONDS)
        new = next(child for child in self._all.plan() if child.name == "control")
        self._all.children.append(new)
        self._all.start(new)

    def _retire(self, child: Child, seconds: float) -> Iterator[None]:
        """Have it end, and nobody start it again."""
        self._all.children.remove(child)
        self.besides.append(child)
        child.tell_to_end()
        until = time.monotonic() + seconds
        while not child.has_ended() and time.monotonic() < until:
            yield
        child.end(0.0)
        self.besides.remove(child)
