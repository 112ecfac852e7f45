"""The feature store on the real Feast, in a home of its own."""

from __future__ import annotations

import shutil
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from citybrain.core.errors import BadData, NotReady, RowNotFound, TooLarge, Unavailable
from citybrain.feature_store.definitions import HISTORY, definitions
from citybrain.feature_store.store import FeatureStore

NOON = datetime(2026, 3, 2, 4, 0, tzinfo=UTC)


def row(sensor: str, values: list[float], last_time: object = NOON) -> dict[str, object]:
    """One row as a door hands it over."""
    return {"sensor": sensor, "values": values, "last_time": last_time}


@pytest.fixture(scope="module")
def fresh_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose store was set up, which takes a second."""
    home = tmp_path_factory.mktemp("fresh")
    FeatureStore(home).apply()
    return home


@pytest.fixture
def store(fresh_home: Path, tmp_path: Path) -> FeatureStore:
    """A store that was set up."""
    shutil.copytree(fresh_home, tmp_path, dirs_exist_ok=True)
    return FeatureStore(tmp_path)


def test_what_is_pushed_is_read_back_and_an_unknown_sensor_is_none(store: FeatureStore) -> None:
    assert store.push([row("路口-1", [1.0, 2.5]), row("b", [7], "2026-03-02T12:00:00+08:00")]) == 2
    assert store.history("traffic-flow", ["b", "nobody", "路口-1", "b"]) == [
        ([7.0], NOON),
        None,
        ([1.0, 2.5], NOON),
        ([7.0], NOON),
    ]
    assert store.history("traffic-flow", []) == []


def test_a_second_process_reads_the_same_and_apply_can_be_repeated(
    store: FeatureStore, tmp_path: Path
) -> None:
    store.push([row("a", [1, 2, 3])])
    other = FeatureStore(tmp_path)
    assert other.history("traffic-flow", ["a"]) == [([1.0, 2.0, 3.0], NOON)]
    store.apply()
    assert store.history("traffic-flow", ["a"]) == [([1.0, 2.0, 3.0], NOON)]
    later = NOON + timedelta(minutes=5)
    assert store.push([row("a", [4], later)]) == 1
    assert other.history("traffic-flow", ["a"]) == [([4.0], later)]


def test_a_copied_home_is_a_whole_store(store: FeatureStore, tmp_path: Path) -> None:
    store.push([row("a", [1, 2])])
    copy = tmp_path.with_name(f"{tmp_path.name}-copy")
    shutil.copytree(tmp_path, copy)
    shutil.rmtree(tmp_path / "features")
    moved = FeatureStore(copy)
    assert moved.history("traffic-flow", ["a"]) == [([1.0, 2.0], NOON)]
    assert moved.history_at("traffic-flow", [("a", NOON)]) == [([1.0, 2.0], NOON)]
    assert moved.push([row("a", [3], NOON + timedelta(minutes=5))]) == 1


def test_a_late_push_does_not_overwrite_a_newer_one(store: FeatureStore) -> None:
    assert store.push([row("a", [2], NOON), row("a", [1], NOON - timedelta(minutes=5))]) == 1
    assert store.push([row("a", [0], NOON - timedelta(hours=1))]) == 0
    assert store.history("traffic-flow", ["a"]) == [([2.0], NOON)]


def test_only_the_last_values_are_kept_online(store: FeatureStore) -> None:
    store.push([row("a", [float(i) for i in range(HISTORY + 50)])])
    ((values, _),) = store.history("traffic-flow", ["a"])  # type: ignore[misc]
    assert values == [float(i) for i in range(50, HISTORY + 50)]


def test_the_past_is_read_as_it_was_at_a_moment(store: FeatureStore) -> None:
    for minutes in range(0, 20, 5):
        store.push([row("a", [float(minutes)], NOON + timedelta(minutes=minutes))])
    moments = [NOON + timedelta(minutes=12), NOON - timedelta(minutes=1), NOON]
    found = store.history_at("traffic-flow", [("a", moment) for moment in moments])
    assert found == [([10.0], NOON + timedelta(minutes=10)), None, ([0.0], NOON)]
    with pytest.raises(BadData):
        store.history_at("traffic-flow", [("a", datetime(2026, 3, 2))])  # noqa: DTZ001


def test_sensors_and_services_are_listed_with_freshness_and_owner(store: FeatureStore) -> None:
    assert store.sensors() == []
    store.push([row("b", [1, 2]), row("a", [1])])
    states = store.sensors()
    assert [(s.sensor, s.values, s.last_time) for s in states] == [("a", 1, NOON), ("b", 2, NOON)]
    assert states[0].age_seconds > 0
    (card,) = store.catalogue()
    assert (card.name, card.owner, card.level, card.entity) == (
        "traffic-flow", "traffic", "internal", "sensor",
    )  # fmt: skip
    assert set(card.features) == {"history", "last_time"}
    assert card.description["zh"] and card.features["history"]["zh"]


@pytest.mark.parametrize(
    "bad",
    [
        {"sensor": "a", "values": [1]},
        row("", [1]),
        row("a\n", [1]),
        row("a", []),
        row("a", [float("nan")]),
        row("a", [1e300]),
        row("a", ["x"]),  # type: ignore[list-item]
        row("a", [[1.0]]),  # type: ignore[list-item]
        row("a", [1], "yesterday"),
        row("a", [1], datetime(2026, 3, 2)),  # noqa: DTZ001
        row("a", [1], datetime.now(UTC) + timedelta(days=2)),
        row("a", [1], None),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_stored(tmp_path: Path, bad: dict[str, object]) -> None:
    with pytest.raises(BadData, match="row 1: "):
        FeatureStore(tmp_path).push([row("good", [1]), bad])


def test_too_many_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TooLarge):
        FeatureStore(tmp_path).push([row("a", [1])] * 10_001)


def test_a_store_that_was_never_set_up_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match="never set up"):
        FeatureStore(tmp_path).history("traffic-flow", ["a"])
    with pytest.raises(NotReady):
        FeatureStore(tmp_path).push([row("a", [1])])


def test_an_unknown_service_and_a_broken_store_are_our_errors(
    store: FeatureStore, tmp_path: Path
) -> None:
    with pytest.raises(RowNotFound, match="no-such"):
        store.history("no-such", ["a"])
    (tmp_path / "features" / "online.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(Unavailable) as caught:
        FeatureStore(tmp_path).history("traffic-flow", ["a"])
    assert str(tmp_path) not in str(caught.value)


def test_a_reader_cannot_write_the_registry(store: FeatureStore, tmp_path: Path) -> None:
    store.push([row("a", [1])])
    before = (tmp_path / "features" / "registry.db").read_bytes()
    *_, service = definitions()
    service.description = "changed by a stranger"
    with pytest.raises(Exception, match="readonly database"):
        store._ready().apply([service], partial=True)
    assert (tmp_path / "features" / "registry.db").read_bytes() == before


def test_folders_and_files_are_private(store: FeatureStore, tmp_path: Path) -> None:
    store.push([row("a", [1])])
    for path in [tmp_path / "features", *(tmp_path / "features").rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


def test_threads_read_while_others_write(store: FeatureStore) -> None:
    store.push([row(f"s{i}", [0.0, 0.0]) for i in range(20)])
    wrong: list[object] = []

    def write(start: int) -> None:
        for turn in range(1, 6):
            moment = NOON + timedelta(minutes=turn)
            store.push([row(f"s{i}", [turn, turn], moment) for i in range(start, 20, 2)])

    def read() -> None:
        for _ in range(40):
            found = store.history("traffic-flow", [f"s{i}" for i in range(20)])
            wrong.extend(f for f in found if f is None or f[0][0] != f[0][1])

    threads = [threading.Thread(target=write, args=(n,)) for n in (0, 1)]
    threads += [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert all(found == ([5.0, 5.0], NOON + timedelta(minutes=5)) for found in store.history(
        "traffic-flow", [f"s{i}" for i in range(20)]
    ))  # fmt: skip
