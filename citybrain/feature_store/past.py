"""What was pushed, for ever: a folder of Parquet files that Feast reads at a point in time.

One file an hour (of writing, UTC), rewritten whole and renamed at each push, so that a reader
sees the file before or after, and a kill leaves no half of one. Feast's own append rewrites a
file in place.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from citybrain.core.shelf import needs
from citybrain.feature_store.definitions import ENTITY
from citybrain.feature_store.pushed import Pushed

MOMENT = "event_timestamp"


class Past:
    """The folder. One writer at a time: the caller holds the lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(self) -> None:
        """Create the folder with an empty file, which tells Feast the columns."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        first = self.folder / "empty.parquet"
        if not first.exists():
            self._write(first, _schema().empty_table())

    def add(self, rows: Sequence[Pushed]) -> Any:
        """Append these rows; return them as the frame that Feast's push takes."""
        with needs():
            import pandas as pd
            import pyarrow as pa
            import pyarrow.parquet as pq
        now = datetime.now(UTC)
        frame = pd.DataFrame(
            {
                ENTITY: [row.sensor for row in rows],
                "history": [row.values for row in rows],
                "last_time": [int(row.last_time.timestamp()) for row in rows],
                MOMENT: pd.to_datetime([row.last_time for row in rows], utc=True),
                "created": pd.to_datetime([now] * len(rows), utc=True),
            }
        )
        table = pa.Table.from_pandas(frame, schema=_schema(), preserve_index=False)
        path = self.folder / f"{now:%Y-%m-%dT%H}.parquet"
        if path.exists():
            table = pa.concat_tables([pq.read_table(path), table])
        self._write(path, table)
        return frame

    def at(
        self, store: Any, service: Any, rows: Sequence[tuple[str, datetime]]
    ) -> list[tuple[list[float], datetime] | None]:
        """Feast's point-in-time join: the newest row of each sensor not after its moment."""
        import pandas as pd

        asked = pd.DataFrame(
            {
                ENTITY: [name for name, _ in rows],
                MOMENT: pd.to_datetime([moment for _, moment in rows], utc=True),
            }
        )
        # Feast returns the rows in an order of its own, and joins equal rows once.
        found = store.get_historical_features(
            entity_df=asked.drop_duplicates(), features=service
        ).to_df()
        known = {
            (row[ENTITY], row[MOMENT].to_pydatetime()): row for row in found.to_dict("records")
        }
        answers: list[tuple[list[float], datetime] | None] = []
        for name, moment in rows:
            row = known.get((name, moment.astimezone(UTC)))
            if row is None or pd.isna(row["last_time"]):
                answers.append(None)
                continue
            time = datetime.fromtimestamp(int(row["last_time"]), UTC)
            answers.append(([float(value) for value in row["history"]], time))
        return answers

    def _write(self, path: Path, table: Any) -> None:
        import pyarrow.parquet as pq

        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            pq.write_table(table, file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


def _schema() -> Any:
    import pyarrow as pa

    moment = pa.timestamp("us", tz="UTC")
    return pa.schema(
        [
            (ENTITY, pa.string()),
            ("history", pa.list_(pa.float32())),
            ("last_time", pa.int64()),
            (MOMENT, moment),
            ("created", moment),
        ]
    )
