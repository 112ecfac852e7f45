"""The rounds of a section of the serving benchmark: every server in turn, loaded and checked."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import Any

import uvloop
from grpc_load import GrpcTarget
from load import Load, generate
from serving_environments import versions
from serving_goals import Measurement
from serving_peers import interpreter
from serving_platform import CityBrain
from serving_profile import profiling
from serving_servers import Peer, Server, Setting
from serving_workload import Door, Workload

WAITED = 2000
"""Requests of the last load, which waits for every answer."""


class Tally:
    """Answers 200 that the platform gave, and what may have been on its way besides."""

    def __init__(self) -> None:
        self.answers = self.in_flight = 0

    def add(self, found: Load) -> None:
        self.answers += found.answers
        self.in_flight += found.in_flight


class Rounds:
    """One section: its servers, its measurements, and what else was found."""

    def __init__(
        self, workload: Workload, counts: list[int], options: argparse.Namespace, work: Path
    ) -> None:
        self.workload, self.counts, self.options, self.work = workload, counts, options, work
        self.servers: list[Server] = []
        self.measurements: list[Measurement] = []
        self.tried: list[dict[str, Any]] = []
        self.versions: dict[str, Any] = {}
        self.left_out: dict[str, str] = {}
        self.ledger: dict[str, Any] = {}
        self._tally = Tally()
        self._wrk = False if options.generator else None

    def add_peer(self, kind: type[Peer]) -> None:
        """A peer with the setting that is best for each count, or the reason why it is not here."""
        try:
            cache = self.options.cache.expanduser().resolve()
            python = interpreter(kind, cache, plain=self.options.plain_peers)
            found = [kind(self.work, self.workload, python) for _ in kind.settings]
            for peer, setting in zip(found, kind.settings, strict=True):
                peer.setting = setting
            self.servers += self._best(found) if len(found) > 1 else found
            self.versions[kind.name] = versions(python, list(kind.versions))
        except Exception as error:  # a peer that cannot be had is reported, not fatal
            self._leave_out(kind.name, error)

    def _best(self, peers: list[Peer]) -> list[Server]:
        """Try every setting shortly; each count of connections is measured with its best one."""
        rates: dict[int, dict[Setting, float]] = {count: {} for count in self.counts}
        for peer in peers:
            try:
                with peer.running() as doors:
                    for count in self.counts:
                        for kind, door in doors.items():
                            self.workload.check(kind, door)
                            door.load(count, 1, wrk=self._wrk)
                        seen = [
                            door.load(count, min(2, self.options.seconds), wrk=self._wrk).rate
                            for door in doors.values()
                        ]
                        rates[count][peer.setting] = sum(seen) / len(seen)
            except RuntimeError as error:  # one setting of several that does not work here
                print(f"tried {peer.name}, {peer.setting}: {str(error)[-300:]}", flush=True)
                continue
            told = ", ".join(f"{rates[count][peer.setting]:,.0f}/s" for count in self.counts)
            print(f"tried {peer.name}, {peer.setting}: {told}", flush=True)
        if not all(rates.values()):
            raise RuntimeError("no setting of it works here")
        chosen = {count: max(found, key=found.__getitem__) for count, found in rates.items()}
        self.tried += [
            {"server": peers[0].name, "connections": count, "setting": str(setting),
             "rate": round(rate, 1), "chosen": setting == chosen[count]}
            for count, found in rates.items() for setting, rate in found.items()
        ]  # fmt: skip
        for peer in peers:
            peer.counts = tuple(c for c, setting in chosen.items() if setting == peer.setting)
        return [peer for peer in peers if peer.counts]

    def run(self) -> None:
        """All rounds of all servers; a peer that fails is left out from there on."""
        with contextlib.ExitStack() as stack:
            together = self.options.together
            up = {s: stack.enter_context(s.running()) for s in self.servers} if together else {}
            for number in range(1, self.options.rounds + 1):
                for server in list(self.servers):
                    turn = contextlib.nullcontext(up[server]) if up else server.running()
                    try:
                        self._turn(server, turn, number)
                    except RuntimeError as error:
                        if isinstance(server, CityBrain):
                            raise
                        self._leave_out(server.name, error)
                        self.servers.remove(server)

    def _turn(self, server: Server, turn: Any, number: int) -> None:
        """One server in one round."""
        with turn as doors:
            for kind, door in doors.items():
                self._measure(server, kind, door, number)
            if type(server) is CityBrain and number == self.options.rounds:
                self._check_ledger(server, next(iter(doors.values())))

    def _leave_out(self, name: str, error: Exception) -> None:
        """Say that a peer cannot be had, and why."""
        self.left_out[name] = str(error)[-1500:]
        print(f"{name} is left out: {str(error)[-300:]}", flush=True)

    def _measure(self, server: Server, kind: str, door: Door, number: int) -> None:
        """All numbers of connections of one server and one body in one round."""
        tally = self._tally if type(server) is CityBrain else Tally()
        for connections in self.counts:
            if server.counts and connections not in server.counts:
                continue
            tally.answers += self.workload.check(kind, door)
            tally.add(door.load(connections, 1, wrk=self._wrk))  # warm
            watch = profiling(server) if self.options.profile else contextlib.nullcontext()
            with watch as profile:
                seen = door.load(connections, self.options.seconds, wrk=self._wrk)
            tally.add(seen)
            tally.answers += self.workload.check(kind, door)
            micros = profile.micros(seen) if profile else {}
            self.measurements.append(
                Measurement(server.name, kind, connections, number, seen, micros)
            )
            problems = f", {seen.refused} refused, {seen.broken} broken" * bool(
                seen.refused or seen.broken
            )
            print(
                f"round {number}  {server.name:11} {kind:6} {connections:3} connections "
                f"{seen.rate:9,.0f}/s  p50 {seen.p50_ms:7.2f}  p99 {seen.p99_ms:7.2f} ms{problems}",
                flush=True,
            )
            if micros:
                told = ", ".join(f"{name} {value:g}" for name, value in micros.items())
                print(f"{'':10}CPU microseconds a call: {told}", flush=True)

    def _check_ledger(self, city: CityBrain, door: Door) -> None:
        """Compare the ledger with the tally, then once more with a load that leaves nothing behind.

        wrk stops in the middle: a request that it had sent is served and entered in the ledger, and
        its answer meets a closed connection. There is at most one such request a connection.
        """
        rows, other = city.served()
        seen = self._tally.answers + city.asked
        waited = (
            door.load(8, 2)
            if isinstance(door, GrpcTarget)
            else uvloop.run(generate(door, 8, 30, limit=WAITED))
        )
        after, other = city.served()
        self.ledger = {
            "rows": rows, "answers": seen, "in_flight": self._tally.in_flight, "other": other,
            "rows_waited": after - rows, "answers_waited": waited.answers,
            "exact": seen <= rows <= seen + self._tally.in_flight
            and after - rows == waited.answers,
        }  # fmt: skip
