"""Serve models with citybrain and with its peers, and compare them in one run.

Three sections:

- tiny: a network of 16, 64 and 4 units by Open Inference Protocol JSON over HTTP, so that what is
  measured is the server around the model; 1, 8 and 32 connections;
- vision: MobileNetV3 small with 600 KB of raw tensor, the same in JSON, and a JPEG file; two
  replicas, 8 connections; ONNX Runtime without a server is a peer;
- grpc: the tiny network over gRPC; 1, 8 and 32 connections.

The servers take turns: in every round each is started, warmed, loaded and ended, so that none pays
for the idling of another and slow drifts of the machine meet all of them. Peers that can have
several workers or form batches are tried first with each of their settings, and measured at each
number of connections with the best one.

    python benchmarks/serving.py                       # everything, 3 rounds, about 40 minutes
    python benchmarks/serving.py --quick               # citybrain, uvicorn, Ray Serve: a minute
    python benchmarks/serving.py --section tiny --only citybrain mlserver --rounds 5
    python benchmarks/serving.py --section grpc --profile --out figures.json

Peers that must not share the platform's environment are installed at the first run into
environments of their own under --cache. What cannot be installed or started is reported, and left
out. Afterwards the platform's ledger must hold one SERVED row for every answer 200 that was
counted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from serving_environments import versions
from serving_goals import goals, ratios, summary
from serving_model import grpc_workload, tiny_workload
from serving_peers import (
    BentoML,
    LitServe,
    MLServer,
    NullGrpc,
    PyTriton,
    RayHAProxy,
    RayServe,
    Uvicorn,
    UvicornTwo,
)
from serving_platform import CityBrain, OpenGateway
from serving_report import print_report, processor
from serving_rounds import Rounds
from serving_servers import Peer
from serving_vision import RawOnnx, vision_workload
from serving_workload import Workload


class Section(NamedTuple):
    """One comparison."""

    workload: Callable[[Path], Workload]
    """Made in a folder whose name is that of the algorithm."""
    folder: str
    peers: tuple[type[Peer], ...]
    counts: tuple[int, ...]
    replicas: int = 1


SECTIONS = {
    "tiny": Section(
        tiny_workload, "bench-mlp",
        (RayServe, RayHAProxy, Uvicorn, UvicornTwo, MLServer, BentoML, LitServe, PyTriton),
        (1, 8, 32),
    ),
    "vision": Section(vision_workload, "vision", (UvicornTwo,), (8,), replicas=2),
    "grpc": Section(grpc_workload, "bench-mlp", (NullGrpc, MLServer), (1, 8, 32)),
}  # fmt: skip
OURS, OPEN, RAW = CityBrain.name, OpenGateway.name, RawOnnx.name
NAMES = tuple(
    dict.fromkeys([OURS, OPEN, RAW, *(kind.name for s in SECTIONS.values() for kind in s.peers)])
)
QUICK = ("citybrain", "uvicorn", "ray-serve")


def options_of(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "citybrain-benchmarks"
    add = parser.add_argument
    add("--section", nargs="+", choices=SECTIONS, help="these comparisons; all")
    add("--only", nargs="+", choices=NAMES, metavar="SERVER", help=f"of {', '.join(NAMES)}")
    add("--rounds", type=int, default=3, help="3; every server once in each")
    add("--seconds", type=float, default=4.0, help="of each measurement, at most 60; 4")
    add("--connections", type=int, nargs="+", help="tiny and grpc: 1 8 32, vision: 8")
    add("--quick", action="store_true", help="tiny with citybrain, uvicorn, ray-serve; 1 s each")
    add("--together", action="store_true", help="start all servers once and keep them all up")
    add("--generator", action="store_true", help="load with load.py's generator, not with wrk")
    add("--plain-peers", action="store_true", help="MLServer, BentoML without httptools")
    add("--profile", action="store_true", help="CPU microseconds a call of each process")
    add("--cache", type=Path, default=cache, help="folder of the peers' environments")
    add("--out", type=Path, help="write everything as JSON here")
    add("--strict", action="store_true", help="exit with 1 when a goal is missed, too")
    options = parser.parse_args(arguments)
    if options.quick:
        options.section = options.section or ["tiny"]
        options.only = options.only or list(QUICK)
        options.seconds, options.together = 1.0, True
    if not 0 < options.seconds <= 60 or not 0 < options.rounds <= 50:
        parser.error("--seconds lies in 0 to 60, --rounds in 1 to 50")
    if not all(0 < count <= 1024 for count in options.connections or ()):
        parser.error("--connections lie in 1 to 1024")
    return options


def measure(name: str, options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """One section: all rounds of all its servers."""
    section = SECTIONS[name]
    wanted = options.only or NAMES
    work.mkdir()
    workload = section.workload(work / section.folder)
    counts = options.connections or list(section.counts)
    rounds = Rounds(workload, counts, options, work)
    if OURS in wanted:
        rounds.servers.append(CityBrain(work, workload, section.replicas))
        packages = ["citybrain", "ray", "onnxruntime", "uvicorn", "grpcio"]
        rounds.versions[OURS] = versions(Path(sys.executable), packages)
    if OPEN in wanted and name == "tiny":
        rounds.servers.append(OpenGateway(work, workload, section.replicas))
    if RAW in wanted and name == "vision":
        rounds.servers.append(RawOnnx(workload))
    for kind in section.peers:
        if kind.name in wanted:
            rounds.add_peer(kind)
    rounds.run()
    compared = ratios(rounds.measurements)
    return {
        "says": workload.says, "servers": {s.name: s.says for s in rounds.servers},
        "versions": rounds.versions, "left_out": rounds.left_out, "tried": rounds.tried,
        "summary": summary(rounds.measurements), "ratios": compared,
        "goals": goals(name, compared), "ledger": rounds.ledger,
        "measurements": [m.as_json() for m in rounds.measurements],
    }  # fmt: skip


def run(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Everything that was asked for."""
    average = os.getloadavg()
    wanted = options.section or SECTIONS
    # Ray's sockets lie in this folder, so its path is kept short.
    found = {name: measure(name, options, work / name[0]) for name in SECTIONS if name in wanted}
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": processor(), "cores": os.cpu_count(), "python": platform.python_version(),
        "load_average": average, "seconds": options.seconds, "rounds": options.rounds,
        "together": options.together, "sections": found,
    }  # fmt: skip


def leave(*_: object) -> None:
    """Leave through every `with`, so that each ends its server; a second signal changes nothing."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("told to end; ending the servers", file=sys.stderr)
    sys.exit(143)


def main(arguments: list[str] | None = None) -> int:
    """0: measured, every answer right, the ledger exact; 1: not so."""
    options = options_of(arguments)
    signal.signal(signal.SIGTERM, leave)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        report = run(options, Path(folder))
    print_report(report)
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")
        print(f"written: {options.out}")
    found = report["sections"].values()
    bad = any(m["refused"] or m["broken"] for section in found for m in section["measurements"])
    wrong = any(section["ledger"] and not section["ledger"]["exact"] for section in found)
    missed = options.strict and not all(row["met"] for section in found for row in section["goals"])
    return int(bad or wrong or missed)


if __name__ == "__main__":
    sys.exit(main())
