"""Turn a file of traffic series into `train.csv` and `test.csv` in the forecasting format.

The last rows in time become the test part; nothing is shuffled, scaled or filled. Examples:

    python benchmarks/traffic_split.py speeds.csv.gz out --start 2012-03-01T00:00 --step 300
    python benchmarks/traffic_split.py counts.csv.gz out --time "5 Minutes" \
        --time-format "%d/%m/%Y %H:%M" --columns "Lane 1 Flow (Veh/5 Minutes)"

Then, with a running platform: `citybrain train traffic-flow --data out/train.csv`, and
`citybrain evaluate evening-peak --algorithm traffic-flow --data out/test.csv`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd


def main(arguments: list[str] | None = None) -> int:
    """Read the command line, write the two files, say what is in them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="CSV (.gz too) with a header, a row a step")
    parser.add_argument("out", type=Path, help="folder for train.csv and test.csv")
    parser.add_argument("--share", type=float, default=0.2, help="share of rows that are the test")
    parser.add_argument("--time", default="", help="the column of times; none: rows have no times")
    parser.add_argument("--time-format", default=None, help="its strptime format; none: ISO 8601")
    parser.add_argument("--columns", nargs="*", default=[], help="series to keep; none: all others")
    parser.add_argument("--start", default="", help="time of the first row of a file without times")
    parser.add_argument("--step", type=int, default=300, help="seconds between rows, with --start")
    options = parser.parse_args(arguments)
    if not 0 < options.share < 1:
        parser.error("--share must lie between 0 and 1")
    try:
        table = convert(
            options.source, options.time, options.time_format, options.columns,
            options.start, options.step,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        print(f"{options.source.name}: {error}", file=sys.stderr)
        return 1
    first = int(len(table) * (1 - options.share))
    options.out.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", table[:first]), ("test", table[first:])):
        part.to_csv(options.out / f"{name}.csv", index=False, lineterminator="\n")
        print(f"{name}.csv: {len(part)} rows, {part.shape[1] - ('time' in part)} series")
    return 0


def convert(
    source: Path, time: str, time_format: str | None, columns: list[str], start: str, step: int
) -> pd.DataFrame:
    """The file as a wide table, oldest row first; a first column `time` where times are known."""
    table = pd.read_csv(source, encoding="utf-8-sig")
    missing = [name for name in [*columns, *([time] if time else [])] if name not in table]
    if missing:
        raise ValueError(f"there is no column {missing[0]!r}; it has {list(table)[:12]}")
    kept = columns or [name for name in table if name != time]
    if time:
        times = pd.to_datetime(table[time], format=time_format or "ISO8601")
        table = table.assign(**{time: times}).sort_values(time, kind="stable")
        times = table[time]
    elif start:
        times = pd.date_range(start, periods=len(table), freq=f"{step}s").to_series()
    else:
        return table[kept]
    wide = table[kept].reset_index(drop=True)
    wide.insert(0, "time", times.dt.strftime("%Y-%m-%dT%H:%M:%S").to_numpy())
    return wide


if __name__ == "__main__":
    raise SystemExit(main())
