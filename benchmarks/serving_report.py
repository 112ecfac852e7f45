"""What the serving benchmark makes of its measurements: table, ratios, targets, ledger."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from load import Load

OURS = "citybrain"
TARGETS = {"mlserver": 3.0, "ray-serve": 15.0}
TARGET_CONNECTIONS = 32


@dataclass(frozen=True)
class Measurement:
    """One server, one number of connections, one round."""

    server: str
    connections: int
    round: int
    load: Load

    def as_json(self) -> dict[str, Any]:
        return {
            "server": self.server, "connections": self.connections, "round": self.round,
            "rate": round(self.load.rate, 1), "seconds": round(self.load.seconds, 3),
            "p50_ms": round(self.load.p50_ms, 3), "p99_ms": round(self.load.p99_ms, 3),
            "answers": self.load.answers, "refused": self.load.refused,
            "broken": self.load.broken,
        }  # fmt: skip


def summary(measurements: list[Measurement]) -> list[dict[str, Any]]:
    """A row for each server and number of connections: medians over the rounds."""
    rows = []
    for server, connections in dict.fromkeys((m.server, m.connections) for m in measurements):
        loads = [m.load for m in measurements if (m.server, m.connections) == (server, connections)]
        rates = [load.rate for load in loads]
        rows.append(
            {
                "server": server, "connections": connections, "rate": round(median(rates), 1),
                "lowest": round(min(rates), 1), "highest": round(max(rates), 1),
                "p50_ms": round(median(load.p50_ms for load in loads), 3),
                "p99_ms": round(median(load.p99_ms for load in loads), 3),
            }
        )  # fmt: skip
    return rows


def ratios(measurements: list[Measurement]) -> list[dict[str, Any]]:
    """How many times a peer's rate ours is, round by round: min, median, max."""
    rate = {(m.server, m.connections, m.round): m.load.rate for m in measurements}
    found = []
    for server, connections in dict.fromkeys((m.server, m.connections) for m in measurements):
        rounds = sorted(r for s, c, r in rate if (s, c) == (OURS, connections))
        each = [
            rate[OURS, connections, r] / rate[server, connections, r]
            for r in rounds
            if rate.get((server, connections, r))
        ]
        if server != OURS and each:
            found.append(
                {
                    "peer": server, "connections": connections, "min": round(min(each), 2),
                    "median": round(median(each), 2), "max": round(max(each), 2),
                }
            )  # fmt: skip
    return found


def targets(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each target with the median ratio that answers it."""
    return [
        {
            "peer": row["peer"], "connections": row["connections"], "wanted": wanted,
            "median": row["median"], "met": row["median"] >= wanted,
        }
        for row in found
        if row["connections"] == TARGET_CONNECTIONS
        and (wanted := TARGETS.get(row["peer"])) is not None
    ]  # fmt: skip


def print_report(report: dict[str, Any]) -> None:
    """The same for people."""
    rows = report["summary"]
    counts = sorted({row["connections"] for row in rows})
    servers = list(dict.fromkeys(row["server"] for row in rows))
    found = {(row["server"], row["connections"]): row for row in rows}
    print(f"\nrequests/s, median of {report['rounds']} rounds (p50 / p99 ms)")
    print(f"{'':16}" + "".join(f"{f'{count} connections':>28}" for count in counts))
    for server in servers:
        cells = []
        for count in counts:
            row = found.get((server, count))
            cell = f"{row['rate']:,.0f} ({row['p50_ms']:.2f} / {row['p99_ms']:.2f})" if row else "-"
            cells.append(f"{cell:>28}")
        print(f"{server:16}" + "".join(cells))
    print("\ncitybrain against each peer: median ratio of rates (least to most over the rounds)")
    by = {(row["peer"], row["connections"]): row for row in report["ratios"]}
    for server in servers:
        cells = []
        for count in counts:
            row = by.get((server, count))
            cell = f"{row['median']:.2f}x ({row['min']:.2f} to {row['max']:.2f})" if row else "-"
            cells.append(f"{cell:>28}")
        if server != OURS:
            print(f"{server:16}" + "".join(cells))
    print()
    for row in report["targets"]:
        word = "met" if row["met"] else "MISSED"
        print(
            f"target {word}: {row['wanted']:g}x {row['peer']} at {row['connections']} connections, "
            f"measured {row['median']:g}x"
        )
    for name, reason in report["left_out"].items():
        print(f"left out: {name}: {reason}")
    if ledger := report["ledger"]:
        word = "exact" if ledger["exact"] else "WRONG"
        print(
            f"ledger {word}: {ledger['rows']:,} SERVED rows for {ledger['answers']:,} answers 200 "
            f"seen, and at most {ledger['in_flight']:,} more that were on their way when a load "
            f"stopped;\n  with a load that waits for its last answers: {ledger['rows_waited']:,} "
            f"rows for {ledger['answers_waited']:,} answers; other rows: {ledger['other']:,}"
        )
    if report["load_average"][0] > 0.5 * report["cores"]:
        print(
            f"note: the machine was busy before this began (load {report['load_average'][0]:.1f} "
            f"on {report['cores']} cores); repeat on a quiet one before quoting a figure"
        )


def processor() -> str:
    """The processor's name, where Linux tells it."""
    with contextlib.suppress(OSError):
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        return found[1] if found else ""
    return ""
