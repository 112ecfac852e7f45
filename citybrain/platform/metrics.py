"""Figures for Prometheus, counted from the ledger: each call once, and nothing on its way.

Labels are bounded: algorithms, versions and departments that are registered, classes of status, and no
more than MOST_SERIES combinations; what finds no room is counted as `other`.
Counters begin anew with the control process, as Prometheus expects. All calls of one look at the
journals are counted together and kept in plain lists, which a collector reads when somebody asks: the
library's own histograms, one call after another, cost many times as much.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from citybrain.core.schemas import Deployment
from citybrain.core.shelf import needs
from citybrain.storage.journal import Refusal, Settled
from citybrain.storage.records.usage import JOB

SECONDS = (
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0,
)  # fmt: skip
FRAMES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
WHOSE = ("algorithm", "version", "department")
OTHER = "other"
MOST_SERIES, MOST_REST = 1000, 200
"""Combinations that are counted apart, and algorithms of which the rest is."""
HISTOGRAMS = {
    "call": "Seconds from admission to the answer.",
    "queue": "Seconds before the call's frame left.",
    "way": "Seconds of the gateway and the way to the replica and back.",
    "wait": "Seconds in the replica before the model was free.",
    "work": "Seconds of the replica's work on the frame.",
    "model": "Seconds of that work that the model took.",
    "frame": "Calls that shared a frame.",
}


class _Histogram:
    """Counts of one series, and the sum of what was counted."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = np.array(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, values: Any) -> None:
        """Count an array of values."""
        places = np.searchsorted(self._bounds, values)
        for place, count in enumerate(np.bincount(places, minlength=len(self._counts)).tolist()):
            self._counts[place] += count
        self.sum += float(values.sum())

    def buckets(self) -> list[tuple[str, float]]:
        """Upper bounds with how many lie below them, as the exposition format wants them."""
        found, total = [], 0
        for bound, count in zip([*self._bounds.tolist(), "+Inf"], self._counts, strict=True):
            total += count
            found.append((str(bound), float(total)))
        return found


class _Series:
    """The histograms of one version and one department."""

    def __init__(self) -> None:
        self.call, self.queue, self.way, self.wait, self.work, self.model = (
            _Histogram(SECONDS) for _ in range(6)
        )
        self.frame = _Histogram(FRAMES)

    def add(self, calls: list[Settled]) -> None:
        """Count calls; where their time went only of those that a replica answered."""
        self.call.add(np.array([call.micros for call in calls]) / 1e6)
        worked = [
            (c.micros, c.queue_micros, c.wait_micros, c.work_micros, c.model_micros, c.frame_calls)
            for c in calls if c.status == 200 and c.work_micros
        ]  # fmt: skip
        if not worked:
            return
        micros, queue, wait, work, model, frame = np.array(worked).T
        self.queue.add(queue / 1e6)
        self.way.add(np.maximum(0, micros - queue - wait - work) / 1e6)
        self.wait.add(wait / 1e6)
        self.work.add(work / 1e6)
        self.model.add(model / 1e6)
        self.frame.add(frame)


class Metrics:
    """What the control process counted; `text` is what `GET /metrics` answers."""

    def __init__(self) -> None:
        with needs():
            from prometheus_client import CollectorRegistry
        self._calls: dict[tuple[str, ...], int] = defaultdict(int)
        self._rows: dict[tuple[str, ...], int] = defaultdict(int)
        self._refused: dict[tuple[str, ...], int] = defaultdict(int)
        self._series: dict[tuple[str, str, str], _Series] = {}
        self._lock = threading.Lock()
        self._deployments: Callable[[], list[Deployment]] = list
        self._shared: Callable[[], dict[tuple[str, str], int]] = dict
        self._waiting: Callable[[], dict[tuple[str, str], int]] = dict
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def watch(
        self, deployments: Callable[[], list[Deployment]],
        shared: Callable[[], dict[tuple[str, str], int]],
        waiting: Callable[[], dict[tuple[str, str], int]],
    ) -> None:  # fmt: skip
        """Tell of these, too: replicas that answer, what models that share one take, calls that wait."""
        self._deployments, self._shared, self._waiting = deployments, shared, waiting

    def count(self, settled: list[Settled]) -> None:
        """Count calls that came into the ledger."""
        alike: dict[tuple[str, int, str, int, bool], list[Settled]] = defaultdict(list)
        for call in settled:
            alike[
                call.algorithm, call.version, call.department, call.status // 100, call.door == JOB
            ].append(call)
        with self._lock:
            for (algorithm, version, department, status, job), calls in alike.items():
                whose, series = self._series_of(algorithm, str(version), department)
                self._calls[*whose, f"{status}xx"] += len(calls)
                self._rows[whose] += sum([call.rows for call in calls])
                if not job:  # nobody waits for a chunk
                    series.add(calls)

    def _series_of(
        self, algorithm: str, version: str, department: str
    ) -> tuple[tuple[str, str, str], _Series]:
        """Where a call is counted: by whom and what it was, while there is room for that."""
        whose = (algorithm, version, department)
        rest = (algorithm, OTHER, OTHER)
        for key, room in ((whose, MOST_SERIES), (rest, MOST_SERIES + MOST_REST)):
            if (series := self._series.get(key)) is not None:
                return key, series
            if len(self._series) < room:
                series = self._series[key] = _Series()
                return key, series
        key = (OTHER, OTHER, OTHER)
        return key, self._series.setdefault(key, _Series())

    def count_refused(self, refused: list[Refusal]) -> None:
        """Count calls that the gateways refused before they were admitted; the ledger has no row."""
        with self._lock:
            for one in refused:
                self._refused[one.algorithm, one.department, one.code] += one.calls

    def collect(self) -> Iterator[Any]:
        """The metric families, for the library's registry."""
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        with self._lock:
            calls = CounterMetricFamily(
                "citybrain_calls", "Calls that were answered or failed.", labels=(*WHOSE, "status")
            )
            for labels, value in self._calls.items():
                calls.add_metric(labels, value)
            rows = CounterMetricFamily("citybrain_rows", "Rows that were answered.", labels=WHOSE)
            for labels, value in self._rows.items():
                rows.add_metric(labels, value)
            refused = CounterMetricFamily(
                "citybrain_refused", "Calls that were refused before they were admitted.",
                labels=("algorithm", "department", "code"),
            )  # fmt: skip
            for labels, value in self._refused.items():
                refused.add_metric(labels, value)
            families: list[Any] = [calls, rows, refused]
            for name, says in HISTOGRAMS.items():
                unit = "calls" if name == "frame" else "seconds"
                family = HistogramMetricFamily(f"citybrain_{name}_{unit}", says, labels=WHOSE)
                for key, series in self._series.items():
                    one: _Histogram = getattr(series, name)
                    family.add_metric(key, one.buckets(), one.sum)
                families.append(family)
        replicas = GaugeMetricFamily(
            "citybrain_replicas", "Replicas that answer.", labels=("algorithm", "target")
        )
        for found in self._deployments():
            if found.running_replicas is not None:
                replicas.add_metric((found.algorithm, found.target), found.running_replicas)
        memory = GaugeMetricFamily(
            "citybrain_shared_bytes", "Memory of a model in the shared replica; 0: it had to go.",
            labels=("algorithm", "target"),
        )  # fmt: skip
        for whose, taken in self._shared().items():
            memory.add_metric(whose, taken)
        waiting = GaugeMetricFamily(
            "citybrain_waiting_calls", "Calls that no frame has taken yet, of all gateways.",
            labels=("algorithm", "target"),
        )  # fmt: skip
        for whose, count in self._waiting().items():
            waiting.add_metric(whose, count)
        yield from (*families, replicas, memory, waiting)

    def text(self) -> bytes:
        """The exposition format."""
        from prometheus_client import generate_latest

        return bytes(generate_latest(self._registry))
