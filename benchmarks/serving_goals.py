"""What the serving benchmark makes of its measurements: medians, ratios, and the goals for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import Any

from load import Load

OURS = "citybrain"


@dataclass(frozen=True)
class Measurement:
    """One server, one body, one number of connections, one round."""

    server: str
    body: str
    connections: int
    round: int
    load: Load
    micros: dict[str, float] = field(default_factory=dict)
    """CPU microseconds a call by role, with --profile."""

    def as_json(self) -> dict[str, Any]:
        return {
            "server": self.server, "body": self.body, "connections": self.connections,
            "round": self.round, "rate": round(self.load.rate, 1),
            "seconds": round(self.load.seconds, 3), "p50_ms": round(self.load.p50_ms, 3),
            "p99_ms": round(self.load.p99_ms, 3), "answers": self.load.answers,
            "refused": self.load.refused, "broken": self.load.broken, "micros": self.micros,
        }  # fmt: skip


@dataclass(frozen=True)
class Goal:
    """How our figure divided by a peer's shall be: a rate at least, a time at most."""

    section: str
    peer: str
    body: str
    connections: int
    wanted: float
    figure: str = "rate"

    def met(self, ratio: float) -> bool:
        """Whether that ratio is good enough."""
        return ratio >= self.wanted if self.figure == "rate" else ratio <= self.wanted


GOALS = (
    Goal("tiny", "citybrain-open", "json", 32, 0.8),
    Goal("tiny", "mlserver", "json", 8, 8.0),
    Goal("tiny", "mlserver", "json", 32, 10.0),
    Goal("tiny", "mlserver", "json", 1, 0.5, "p50"),
    Goal("tiny", "ray-serve", "json", 8, 60.0),
    Goal("tiny", "ray-haproxy", "json", 8, 3.8),
    Goal("tiny", "pytriton", "json", 32, 5.0),
    Goal("tiny", "bentoml", "json", 32, 20.0),
    Goal("tiny", "uvicorn", "json", 1, 0.6),
    Goal("tiny", "uvicorn", "json", 8, 0.85),
    Goal("tiny", "uvicorn", "json", 32, 0.85),
    Goal("vision", "onnxruntime", "binary", 8, 0.64),
    Goal("vision", "uvicorn-2", "binary", 8, 0.85),
    Goal("vision", "uvicorn-2", "binary", 8, 1.0, "p99"),
    Goal("vision", "uvicorn-2", "json", 8, 1.6),
    Goal("grpc", "null-grpc", "raw", 1, 0.7),
    Goal("grpc", "null-grpc", "raw", 8, 0.7),
    Goal("grpc", "null-grpc", "raw", 32, 0.7),
)


def _cases(measurements: list[Measurement]) -> list[tuple[str, str, int]]:
    return list(dict.fromkeys((m.server, m.body, m.connections) for m in measurements))


def summary(measurements: list[Measurement]) -> list[dict[str, Any]]:
    """A row for each server, body and number of connections: medians over the rounds."""
    rows = []
    for case in _cases(measurements):
        of_case = [m for m in measurements if (m.server, m.body, m.connections) == case]
        rates = [m.load.rate for m in of_case]
        roles = dict.fromkeys(role for m in of_case for role in m.micros)
        rows.append(
            {
                "server": case[0], "body": case[1], "connections": case[2],
                "rate": round(median(rates), 1),
                "lowest": round(min(rates), 1), "highest": round(max(rates), 1),
                "p50_ms": round(median(m.load.p50_ms for m in of_case), 3),
                "p99_ms": round(median(m.load.p99_ms for m in of_case), 3),
                "micros": {r: median(m.micros.get(r, 0.0) for m in of_case) for r in roles},
            }
        )  # fmt: skip
    return rows


def ratios(measurements: list[Measurement]) -> list[dict[str, Any]]:
    """Our figures divided by a peer's, round by round: min, median, max of each figure."""
    loads = {(m.server, m.body, m.connections, m.round): m.load for m in measurements}
    rounds = sorted({m.round for m in measurements})
    found = []
    for server, body, connections in _cases(measurements):
        pairs = [
            (loads[OURS, body, connections, number], loads[server, body, connections, number])
            for number in rounds
            if {(s, body, connections, number) for s in (OURS, server)} <= loads.keys()
        ]
        for figure in ("rate", "p50", "p99"):
            name = figure if figure == "rate" else f"{figure}_ms"
            each = [getattr(a, name) / getattr(b, name) for a, b in pairs if getattr(b, name)]
            if server != OURS and each:
                found.append(
                    {
                        "peer": server, "body": body, "connections": connections,
                        "figure": figure, "min": round(min(each), 2),
                        "median": round(median(each), 2), "max": round(max(each), 2),
                    }
                )  # fmt: skip
    return found


def goals(section: str, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each goal of a section whose peer was measured, with the median ratio that answers it."""
    by = {(row["peer"], row["body"], row["connections"], row["figure"]): row for row in found}
    return [
        {
            "peer": goal.peer, "body": goal.body, "connections": goal.connections,
            "figure": goal.figure, "wanted": goal.wanted, "median": row["median"],
            "met": goal.met(row["median"]),
        }
        for goal in GOALS
        if goal.section == section
        and (row := by.get((goal.peer, goal.body, goal.connections, goal.figure)))
    ]  # fmt: skip
