"""The serving benchmark's figures for people: tables, goals, ledger, where the time goes."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

from serving_goals import OURS

Row = dict[str, Any]


def print_section(name: str, found: Row, rounds: int) -> None:
    """All of one section."""
    rows, says = found["summary"], found["says"]
    columns = list(dict.fromkeys((row["body"], row["connections"]) for row in rows))
    columns.sort(key=lambda column: [row["body"] for row in rows].index(column[0]))
    print(f"\n== {name}: {says}")
    print(f"answers/s, median of {rounds} rounds (p50 / p99 ms); connections, body")
    _print_table(
        rows, "server", columns,
        lambda row: f"{row['rate']:,.0f} ({row['p50_ms']:.2f} / {row['p99_ms']:.2f})",
    )  # fmt: skip
    print("\ncitybrain against each peer: median ratio of rates (least to most over the rounds)")
    _print_table(
        [row for row in found["ratios"] if row["figure"] == "rate"], "peer", columns,
        lambda row: f"{row['median']:.2f}x ({row['min']:.2f} to {row['max']:.2f})",
    )  # fmt: skip
    print()
    for row in found["tried"]:
        if row["chosen"]:
            print(f"{row['server']} at {row['connections']} connections: {row['setting']}")
    for row in found["goals"]:
        bound = "at least" if row["figure"] == "rate" else "at most"
        print(
            f"goal {'met' if row['met'] else 'MISSED'}: {row['figure']} {bound} "
            f"{row['wanted']:g}x {row['peer']}, {row['body']}, {row['connections']} connections: "
            f"{row['median']:g}x"
        )
    if any(row["micros"] for row in rows):
        print("\nCPU microseconds a call, median of the rounds")
        for row in rows:
            told = ", ".join(f"{role} {value:g}" for role, value in row["micros"].items())
            print(f"{row['server']:12} {row['body']:7} {row['connections']:3} connections: {told}")
    for peer, reason in found["left_out"].items():
        print(f"left out: {peer}: {reason}")
    if found["ledger"]:
        _print_ledger(found["ledger"])


def _print_table(rows: list[Row], key: str, columns: list[tuple[str, int]], cell: Any) -> None:
    by = {(row[key], row["body"], row["connections"]): row for row in rows}
    print(f"{'':12}" + "".join(f"{f'{count}, {body}':>26}" for body, count in columns))
    for server in dict.fromkeys(row[key] for row in rows):
        cells = [by.get((server, *column)) for column in columns]
        print(f"{server:12}" + "".join(f"{cell(row) if row else '-':>26}" for row in cells))


def _print_ledger(ledger: Row) -> None:
    word = "exact" if ledger["exact"] else "WRONG"
    print(
        f"ledger {word}: {ledger['rows']:,} SERVED rows for {ledger['answers']:,} answers 200 "
        f"seen, and at most {ledger['in_flight']:,} more that were on their way when a load "
        f"stopped;\n  with a load that waits for its last answers: {ledger['rows_waited']:,} "
        f"rows for {ledger['answers_waited']:,} answers; other rows: {ledger['other']:,}"
    )


def print_report(report: Row) -> None:
    """Every section, and how quiet the machine was."""
    for name, found in report["sections"].items():
        print_section(name, found, report["rounds"])
        if not any(row["server"] == OURS for row in found["summary"]):
            print(f"{OURS} was not measured: no ratios")
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
