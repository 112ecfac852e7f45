"""The prediction log in the control process: fold what gateways sampled, keep the bounds, look it up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from citybrain.core.home import Home
from citybrain.core.schemas import Actor, NewSampling, Prediction, Sampling
from citybrain.core.settings import Settings
from citybrain.serving.predictions.folding import Folding
from citybrain.storage.moments import now
from citybrain.storage.prediction_log import PredictionLog
from citybrain.storage.records.samplings import Samplings

TIDY_SECONDS = 60.0


class PredictionDesk:
    """What is sampled, and what was."""

    def __init__(
        self, samplings: Samplings, home: Home, settings: Settings, secret: bytes,
        keep_days: Callable[[int | None], int],
    ) -> None:  # fmt: skip
        """`keep_days`: for how long, where an algorithm says so many days or nothing."""
        self._keep_days = keep_days
        self._samplings = samplings
        self._settings = settings.predictions
        self._log = PredictionLog(home.predictions, settings.zone)
        self._folding = Folding(home.spool, self._log, secret)
        self._tidied = -TIDY_SECONDS
        self._running = threading.Lock()

    @property
    def pause(self) -> float:
        """Seconds between two looks at the spool."""
        return min(5.0, self._settings.seconds)

    def run(self) -> None:
        """Fold what is there; once a minute merge small files and drop what is too old or too much."""
        with self._running:
            self._folding.run()
            if time.monotonic() - self._tidied > TIDY_SECONDS:
                self._tidied = time.monotonic()
                own = self._samplings.all()
                days = {name: said.keep_days for name, said in own.items()}
                self._log.tidy(
                    lambda name: self._keep_days(days.get(name)),
                    self._settings.max_bytes, now(),
                )  # fmt: skip

    def sampling(self, name: str) -> Sampling:
        """What is kept of an algorithm's calls."""
        own = self._samplings.get(name)
        return Sampling(
            algorithm=name, own=own, keep_days=self._keep_days(own.keep_days),
            rate=self._settings.rate if own.rate is None else own.rate,
        )  # fmt: skip

    def sample(self, name: str, new: NewSampling, actor: Actor) -> Sampling:
        """Keep more or less of them, from now on."""
        self._samplings.put(name, new, actor)
        return self.sampling(name)

    def find(
        self, name: str, department: str, since: datetime | None, limit: int
    ) -> list[Prediction]:
        """The newest sampled calls, of one department or of all."""
        found = self._log.find(name, department=department, since=since, limit=limit)
        return [Prediction.model_validate(row) for row in found]

    def export(self, name: str, out: Path, department: str, since: datetime | None) -> None:
        """All of them, as one Parquet file."""
        self._log.export(name, out, department=department, since=since)
