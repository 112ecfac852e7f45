"""The one Serve application that holds several algorithms, as the control process sees it.

To the reconciler each of them is an application like any other: asked for, looked at, deleted. Here
they are one list, which Serve hands to the running replica without a restart (`user_config`). What
became of each stands in a file that the replica writes beside its lanes. A control process that
starts anew takes the list from there.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import NamedTuple

import msgspec

from citybrain.serving.app_status import AppStatus
from citybrain.serving.replica import ReplicaSpec

SHARED = "shared"
"""Its name; those of deployments have dots."""
REPORT = "shared.json"


class SharedModel(NamedTuple):
    """One algorithm in the shared replica; another `attempt` is loaded anew."""

    spec: ReplicaSpec
    attempt: str = ""


class Told(msgspec.Struct):
    """What Serve hands to the replica."""

    models: list[SharedModel]


class Seen(msgspec.Struct):
    """What became of one algorithm."""

    wanted: SharedModel
    state: str
    message: str
    bytes: int = 0
    """What it takes in memory; 0 while it is not there."""


class Report(msgspec.Struct):
    """What the replica says of all of them."""

    models: list[Seen]


class SharedApps:
    """The list that is wanted, and what the replica says of it."""

    def __init__(self, folder: Path) -> None:
        self._report = folder / REPORT
        self._wanted: dict[str, SharedModel] = {}
        self._told: list[SharedModel] | None = None
        """What Serve was handed last; unknown in a process that has just started."""

    def want(self, spec: ReplicaSpec, attempt: str) -> None:
        """Have this one, too."""
        found = self._wanted.get(spec.app)
        if attempt or found is None or found.spec != spec:
            self._wanted[spec.app] = SharedModel(spec, attempt)

    def drop(self, app: str) -> bool:
        """Have it no more; whether it was one of these."""
        return self._wanted.pop(app, None) is not None

    def __contains__(self, app: str) -> bool:
        return app in self._wanted

    def statuses(self, shared: AppStatus | None) -> dict[str, AppStatus]:
        """Each algorithm's own, given the shared application's."""
        if shared is None:  # never started, or gone with its head: all of it is asked for again
            self._wanted, self._told = {}, None
            self._report.unlink(missing_ok=True)
            return {}
        report = {seen.wanted.spec.app: seen for seen in self.report()}
        if self._told is None:
            self._told = [seen.wanted for seen in report.values()]
            self._wanted = {seen.wanted.spec.app: seen.wanted for seen in report.values()}
        return {
            app: _status(wanted, report.get(app), shared) for app, wanted in self._wanted.items()
        }

    def report(self) -> list[Seen]:
        """What the replica said last."""
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            return msgspec.json.decode(self._report.read_bytes(), type=Report).models
        return []

    def news(self) -> list[SharedModel] | None:
        """The list, if Serve was not handed this one yet."""
        wanted = list(self._wanted.values())
        return None if wanted == (self._told or []) else wanted

    def told(self, models: list[SharedModel]) -> None:
        """Serve was handed this list."""
        self._told = models


def _status(wanted: SharedModel, seen: Seen | None, shared: AppStatus) -> AppStatus:
    if seen is None or seen.wanted != wanted:
        failed = shared.state == "failed"  # the process itself does not start
        return AppStatus("failed" if failed else "deploying", shared.message if failed else "")
    answers = min(1, shared.replicas) if seen.state == "running" else 0
    return AppStatus(seen.state, seen.message, answers, shared.in_sight)
