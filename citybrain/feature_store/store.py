"""The feature store as the rest of the platform sees it: apply, push, read, list.

Under `HOME/features/`: `registry.db` (Feast's SQL registry; only `apply` writes it, everybody
else opens it read-only), `online.db` (the latest row of each sensor), `past/` (every row that was
pushed, one Parquet file an hour) and `sensors.json` (the names, which Feast cannot list).
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from citybrain.core.categories import Ban, check_categories
from citybrain.core.errors import (
    BadData,
    CityBrainError,
    NotReady,
    RowNotFound,
    Unavailable,
)
from citybrain.core.home import Home, write_private
from citybrain.core.settings import put_environment
from citybrain.core.shelf import needs
from citybrain.feature_store.definitions import (
    ENTITY,
    PAST,
    PROJECT,
    PUSH,
    SERVICES,
    categories_of,
    definitions,
)
from citybrain.feature_store.past import Past
from citybrain.feature_store.pushed import Pushed, check_rows

log = logging.getLogger(__name__)

History = tuple[list[float], datetime]
"""The last values of a sensor, oldest first, and when the last one was measured (UTC)."""


@dataclass(frozen=True)
class SensorState:
    """What the store knows of one sensor, and how fresh it is."""

    sensor: str
    last_time: datetime
    values: int
    age_seconds: float


@dataclass(frozen=True)
class ServiceCard:
    """One feature service, for the catalogue."""

    name: str
    owner: str
    level: str
    description: dict[str, str]
    entity: str
    features: dict[str, dict[str, str]]
    """Descriptions by feature: `zh`, `en`, and its `type`."""


class FeatureStore:
    """Feast under one home folder. Safe to share between threads; cheap until first used."""

    def __init__(self, home: Path) -> None:
        folder = Home(home).features
        self._folder = folder
        self._registry = folder / "registry.db"
        self._online = folder / "online.db"
        self._names = folder / "sensors.json"
        self.past = Past(folder / PAST)
        self._lock = threading.RLock()  # Feast keeps one SQLite connection for all threads
        self._feast: Any = None
        self._services: dict[str, Any] = {}

    def apply(self, bans: Sequence[Ban] = ()) -> None:
        """Create or update the stores from `definitions`. Only the control process does this.

        ForbiddenCategory, and nothing changed, where a view or a service has what the negative list bans.
        """
        found = definitions()
        for thing in found:
            check_categories(thing.name, categories_of(thing), bans)
        with self._lock, _plain_errors("setting up"), self._alone():
            self.past.make()
            for file in (self._registry, self._online):
                file.touch(mode=0o600, exist_ok=True)
            self._open(write=True).apply(found)
            self._feast, self._services = None, {}

    def push(self, rows: Sequence[Mapping[str, Any]]) -> int:
        """Store `{sensor, values, last_time}` rows; return how many are now the latest.

        `values` replace what was known of the sensor (the last `HISTORY` of them are kept), so a
        push that is repeated changes nothing. An older row than the stored one goes to the past.
        """
        pushed = check_rows(rows)
        if not pushed:
            return 0
        with self._lock, _plain_errors("writing"):
            store = self._ready()
            with self._alone():
                known = self._read(SERVICES[0], [row.sensor for row in pushed])
                fresh = [
                    row
                    for row, old in zip(pushed, known, strict=True)
                    if old is None or old[1] <= row.last_time
                ]
                table = self.past.add(pushed)
                if fresh:
                    names = {row.sensor for row in fresh}
                    store.push(PUSH, table[table[ENTITY].isin(names)])
                self._add_names(pushed)
        return len(fresh)

    def history(self, service: str, entities: Sequence[str]) -> list[History | None]:
        """The latest values of each entity, in order; None where nothing is known of it."""
        if not entities:
            return []
        with self._lock, _plain_errors("reading"):
            self._ready()
            return self._read(service, entities)

    def history_at(
        self, service: str, rows: Sequence[tuple[str, datetime]]
    ) -> list[History | None]:
        """What was the latest at a moment in the past, as training data must see it."""
        if any(moment.tzinfo is None for _, moment in rows):
            raise BadData("A moment needs its offset.", hint="Write 2026-03-02T08:05:00+08:00.")
        if not rows:
            return []
        with self._lock, _plain_errors("reading the past"):
            store = self._ready()
            return self.past.at(store, self._service(service), rows)

    def sensors(self) -> list[SensorState]:
        """Every sensor that was ever pushed, with its freshness, by name."""
        names = self._known_names()
        now = datetime.now(UTC)
        found = self.history(SERVICES[0], names)
        return [
            SensorState(name, state[1], len(state[0]), (now - state[1]).total_seconds())
            for name, state in zip(names, found, strict=True)
            if state is not None
        ]

    def catalogue(self) -> list[ServiceCard]:
        """The feature services with owner, level and descriptions in both languages."""
        with self._lock, _plain_errors("reading"):
            store = self._ready()
            cards = []
            for service in store.list_feature_services():
                (projection,) = service.feature_view_projections
                cards.append(
                    ServiceCard(
                        service.name,
                        service.owner,
                        service.tags.get("level", ""),
                        {"zh": service.tags.get("zh", ""), "en": service.description},
                        ENTITY,
                        {
                            field.name: {
                                "zh": field.tags.get("zh", ""),
                                "en": field.description,
                                "type": str(field.dtype),
                            }
                            for field in projection.features
                            if field.name != ENTITY
                        },
                    )
                )
            return cards

    def close(self) -> None:
        """Give the connections back; the next call opens them again."""
        with self._lock:
            self._feast, self._services = None, {}

    def _read(self, service: str, entities: Sequence[str]) -> list[History | None]:
        """One read of the online store; an entity that is asked for twice is read once."""
        names = list(dict.fromkeys(entities))
        answer = self._feast.get_online_features(
            features=self._service(service), entity_rows={ENTITY: names}
        ).proto
        columns = dict(zip(answer.metadata.feature_names.val, answer.results, strict=True))
        found: dict[str, History | None] = {}
        for name, values, time in zip(
            names, columns["history"].values, columns["last_time"].values, strict=True
        ):
            known = values.HasField("float_list_val") and time.HasField("int64_val")
            found[name] = (
                (list(values.float_list_val.val), datetime.fromtimestamp(time.int64_val, UTC))
                if known
                else None
            )
        return [found[name] for name in entities]

    def _service(self, name: str) -> Any:
        if name not in self._services:
            from feast.errors import FeatureServiceNotFoundException

            try:
                self._services[name] = self._feast.get_feature_service(name, allow_cache=True)
            except FeatureServiceNotFoundException as error:
                raise RowNotFound(
                    f"No feature service called {name[:80]!r}.",
                    hint=f"There are: {', '.join(SERVICES)}.",
                ) from error
        return self._services[name]

    def _ready(self) -> Any:
        if self._feast is None:
            if not self._registry.is_file() or not self._registry.stat().st_size:
                raise NotReady(
                    "The feature store of this home was never set up.", hint="Run: citybrain up"
                )
            self._feast = self._open(write=False)
        return self._feast

    def _open(self, *, write: bool) -> Any:
        put_environment({"FEAST_USAGE": "false", "DO_NOT_TRACK": "true"})
        with needs():
            from feast import FeatureStore as Feast
            from feast import RepoConfig
        mode = "rwc" if write else "ro"
        config = RepoConfig(
            project=PROJECT,
            provider="local",
            registry={
                "registry_type": "sql",  # the file registry is rewritten in place: a kill cuts it
                "path": f"sqlite:///file:{self._registry}?mode={mode}&uri=true",
                "cache_ttl_seconds": 0,  # never: definitions change only with a restart
                "schema_mode": "auto" if write else "skip",
            },
            online_store={"type": "sqlite", "path": str(self._online)},
            offline_store={"type": "file"},
            entity_key_serialization_version=3,
            repo_path=self._folder,
        )
        return Feast(config=config)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One writer at a time on this home, in whichever process."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _known_names(self) -> list[str]:
        try:
            return [str(name) for name in json.loads(self._names.read_bytes())]
        except FileNotFoundError:
            return []

    def _add_names(self, rows: Sequence[Pushed]) -> None:
        known = self._known_names()
        every = sorted({*known, *(row.sensor for row in rows)})
        if every != known:
            write_private(self._names, json.dumps(every, ensure_ascii=False).encode())


@contextmanager
def _plain_errors(what: str) -> Iterator[None]:
    """Whatever Feast, SQLite or the disk raise, as a sentence without paths."""
    try:
        yield
    except CityBrainError:
        raise
    except Exception as error:
        log.exception("the feature store failed in %s", what)
        raise Unavailable(
            f"The feature store failed in {what}: {type(error).__name__}.",
            hint="The log of this process says why.",
        ) from error
