"""Serve one small ONNX model with citybrain and with its peers, and compare them in one run.

The model is a network of 16, 64 and 4 units, so that what is measured is the server around it:
Open Inference Protocol JSON over HTTP, on loopback, one replica or worker each. The servers take
turns: in every round each is started, warmed, loaded with 1, 8 and 32 connections and ended, so
that none pays for the idling of another and slow drifts of the machine meet all of them.

    python benchmarks/serving.py                       # all servers, 3 rounds, about 8 minutes
    python benchmarks/serving.py --quick               # citybrain, uvicorn, Ray Serve: a minute
    python benchmarks/serving.py --only citybrain mlserver --rounds 5 --out figures.json

MLServer and BentoML are installed at the first run into environments of their own under --cache.
Afterwards the platform's ledger must hold one SERVED row for every answer 200 that was counted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvloop
from load import Load, Target, ask, generate, load
from serving_environments import own_environment, versions
from serving_model import expected_answer, write_package
from serving_report import Measurement, print_report, processor, ratios, summary, targets
from serving_servers import (
    BentoML,
    CityBrain,
    MLServer,
    RayServe,
    Server,
    Uvicorn,
)

NAMES = ("citybrain", "ray-serve", "uvicorn", "mlserver", "bentoml")
QUICK = ("citybrain", "uvicorn", "ray-serve")
UVLOOP = {"mlserver": "uvloop<0.22", "bentoml": "uvloop"}
"""MLServer 1.7's workers ask for a loop in a way that uvloop 0.22 no longer answers."""
WAITED = 2000
"""Requests of the last load, which waits for every answer."""


def options_of(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "citybrain-benchmarks"
    add = parser.add_argument
    add("--only", nargs="+", choices=NAMES, help="these servers, in this order")
    add("--rounds", type=int, default=3, help="3; every server once in each")
    add("--seconds", type=float, default=4.0, help="of each measurement, at most 60; 4")
    add("--connections", type=int, nargs="+", default=[1, 8, 32], help="1 8 32")
    add("--quick", action="store_true", help="only citybrain, uvicorn, ray-serve; 1 s each")
    add("--together", action="store_true", help="start all servers once and keep them all up")
    add("--generator", action="store_true", help="load with load.py's generator, not with wrk")
    add("--plain-peers", action="store_true", help="MLServer, BentoML without httptools")
    add("--cache", type=Path, default=cache, help="folder of the peers' environments")
    add("--out", type=Path, help="write everything as JSON here")
    add("--strict", action="store_true", help="exit with 1 when a target is missed, too")
    options = parser.parse_args(arguments)
    if options.quick:
        options.only = options.only or list(QUICK)
        options.seconds, options.together = 1.0, True
    if not 0 < options.seconds <= 60 or not 0 < options.rounds <= 50:
        parser.error("--seconds lies in 0 to 60, --rounds in 1 to 50")
    if not all(0 < count <= 1024 for count in options.connections):
        parser.error("--connections lie in 1 to 1024")
    return options


def open_servers(
    options: argparse.Namespace, work: Path
) -> tuple[list[Server], dict[str, Any], dict[str, str]]:
    """The servers that can run here, their versions, and why the others cannot."""
    model = write_package(work / "package")
    servers: list[Server] = []
    found: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    ours = Path(sys.executable)
    for name in options.only or NAMES:
        try:
            if name == "citybrain":
                servers.append(CityBrain(work, work / "package"))
                found[name] = versions(ours, ["citybrain", "ray", "onnxruntime", "uvicorn"])
            elif name == "ray-serve":
                servers.append(RayServe(name, "its HTTP proxy, one replica", work, model, "/"))
                found[name] = versions(ours, ["ray", "onnxruntime", "uvicorn"])
            elif name == "uvicorn":
                servers.append(Uvicorn(name, "plain ASGI, model in process, no key", work, model))
                found[name] = versions(ours, ["uvicorn", "uvloop", "httptools", "onnxruntime"])
            else:
                # httptools makes both faster than their own requirements do.
                packages = [name, "onnxruntime", "orjson", UVLOOP[name]]
                folder = options.cache.expanduser().resolve()
                if options.plain_peers:
                    python = own_environment(folder, f"{name}-plain", packages)
                else:
                    python = own_environment(folder, name, [*packages, "httptools"])
                kind = MLServer if name == "mlserver" else BentoML
                says = "in its own environment, one worker, no access log, no metrics"
                says += "" if options.plain_peers else ", with httptools"
                server = kind(name, says, work, model)
                server.python = python
                if isinstance(server, MLServer):
                    choose_workers(server)
                servers.append(server)
                named = [name, "onnxruntime", "uvicorn", "uvloop"]
                found[name] = versions(python, named)
        except Exception as error:  # a peer that cannot be had is reported, not fatal
            if name == "citybrain":
                raise
            left_out[name] = str(error)[-1500:]
    return servers, found, left_out


def choose_workers(server: MLServer) -> None:
    """Model in MLServer's process or in one of its workers, whichever answers more."""
    rates = {}
    for workers in (0, 1):
        server.parallel_workers = workers
        with server.running() as target:
            load(target, 32, 1)
            rates[workers] = load(target, 32, 2).rate
    server.parallel_workers = max(rates, key=lambda workers: rates[workers])
    server.says += f", parallel_workers={server.parallel_workers}"
    told = ", ".join(f"parallel_workers={k}: {v:,.0f}/s" for k, v in rates.items())
    print(f"mlserver, tried first: {told}", flush=True)


def check_answers(target: Target, expected: list[float], times: int = 5) -> int:
    """Ask a few times; every answer must be 200 with the right numbers. How often it asked."""
    for _ in range(times):
        status, body = ask(target)
        if status != 200:
            raise RuntimeError(f"status {status}: {body[:300]!r}")
        (output,) = json.loads(body)["outputs"]
        wrong = [abs(a - b) > 1e-4 for a, b in zip(output["data"], expected, strict=True)]
        if any(wrong):
            raise RuntimeError(f"wrong numbers: {output['data']} instead of {expected}")
    return times


class Tally:
    """Answers 200 that the platform gave, and what may have been on its way besides."""

    def __init__(self) -> None:
        self.answers = self.in_flight = 0

    def add(self, found: Load) -> None:
        self.answers += found.answers
        self.in_flight += found.in_flight


def measure(
    server: Server, target: Target, number: int, options: argparse.Namespace,
    expected: list[float], tally: Tally,
) -> list[Measurement]:  # fmt: skip
    """All connection counts of one server in one round."""
    found = []
    wrk = False if options.generator else None
    for connections in options.connections:
        tally.answers += check_answers(target, expected)
        tally.add(load(target, connections, 1, wrk=wrk))  # warm
        seen = load(target, connections, options.seconds, wrk=wrk)
        tally.add(seen)
        tally.answers += check_answers(target, expected)
        found.append(Measurement(server.name, connections, number, seen))
        problems = f", {seen.refused} refused, {seen.broken} broken" * bool(
            seen.refused or seen.broken
        )
        print(
            f"round {number}  {server.name:10} {connections:3} connections "
            f"{seen.rate:9,.0f}/s  p50 {seen.p50_ms:7.2f}  p99 {seen.p99_ms:7.2f} ms{problems}",
            flush=True,
        )
    return found


def check_ledger(city: CityBrain, target: Target, tally: Tally) -> dict[str, Any]:
    """Compare the ledger with the tally, then once more with a load that leaves nothing behind.

    wrk stops in the middle: a request that it had sent is served and entered in the ledger, and
    its answer meets a closed connection. There is at most one such request a connection.
    """
    rows, other = city.served()
    seen = tally.answers + city.asked
    waited = uvloop.run(generate(target, 8, 30, limit=WAITED))
    after, other = city.served()
    return {
        "rows": rows, "answers": seen, "in_flight": tally.in_flight, "other": other,
        "rows_waited": after - rows, "answers_waited": waited.answers,
        "exact": seen <= rows <= seen + tally.in_flight and after - rows == waited.answers,
    }  # fmt: skip


def run(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """All rounds of all servers; everything that was found."""
    average = os.getloadavg()
    servers, found_versions, left_out = open_servers(options, work)
    expected = expected_answer(work / "package" / "model.onnx")
    measurements: list[Measurement] = []
    ledger: dict[str, Any] = {}
    tally, nobody = Tally(), Tally()
    with contextlib.ExitStack() as stack:
        up = {s.name: stack.enter_context(s.running()) for s in servers if options.together}
        for number in range(1, options.rounds + 1):
            for server in servers:
                turn = contextlib.nullcontext(up[server.name]) if up else server.running()
                ours = isinstance(server, CityBrain)
                with turn as target:
                    measurements += measure(
                        server, target, number, options, expected, tally if ours else nobody
                    )
                    if isinstance(server, CityBrain) and number == options.rounds:
                        ledger = check_ledger(server, target, tally)
    compared = ratios(measurements)
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": processor(), "cores": os.cpu_count(), "python": platform.python_version(),
        "load_average": average, "seconds": options.seconds, "rounds": options.rounds,
        "together": options.together, "servers": {s.name: s.says for s in servers},
        "versions": found_versions, "left_out": left_out, "summary": summary(measurements),
        "ratios": compared, "targets": targets(compared), "ledger": ledger,
        "measurements": [m.as_json() for m in measurements],
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
    bad = any(m["refused"] or m["broken"] for m in report["measurements"])
    wrong = bool(report["ledger"]) and not report["ledger"]["exact"]
    missed = options.strict and not all(row["met"] for row in report["targets"])
    return int(bad or wrong or missed)


if __name__ == "__main__":
    sys.exit(main())
