"""Load on one HTTP address of this machine: `wrk` where it is installed, else a generator here.

Both keep a fixed number of connections busy, each with one request at a time, for a fixed time.
As a script it loads any server that is already up:

    python benchmarks/load.py http://127.0.0.1:8080/v2/models/NAME/infer body.json --key cb_...
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httptools
import uvloop

MAX_REQUESTS = 5_000_000  # an end to every run of the generator, whatever the clock says
WRK_SCRIPT = """\
local file = io.open("{body}", "rb")
wrk.method = "POST"
wrk.body = file:read("*all")
file:close()
{headers}
done = function(summary, latency)
  io.write(string.format(
    "RESULT %d %d %d %d %d %d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), summary.errors.status,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
"""


@dataclass(frozen=True)
class Target:
    """Where a request goes and what it is."""

    port: int
    path: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    host: str = "127.0.0.1"

    def ask(self) -> tuple[int, bytes]:
        """One request on a connection of its own: status and body."""
        return ask(self)

    def load(self, connections: int, seconds: float, *, wrk: bool | None = None) -> Load:
        """Keep this many connections busy for this long."""
        return load(self, connections, seconds, wrk=wrk)


@dataclass(frozen=True)
class Load:
    """What one measurement saw."""

    answers: int
    """Answers with status 200."""
    seconds: float
    p50_ms: float
    p99_ms: float
    refused: int
    """Answers with another status."""
    broken: int
    """Connections that failed and answers that came too late."""
    in_flight: int
    """Requests at most on their way when the load stopped: sent, perhaps served, not counted."""

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answers / self.seconds


def ask(target: Target, timeout: float = 10.0) -> tuple[int, bytes]:
    """One request on a connection of its own: status and body."""
    connection = http.client.HTTPConnection(target.host, target.port, timeout=timeout)
    try:
        headers = {"content-type": "application/json"} | target.headers
        connection.request("POST", target.path, target.body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def load(target: Target, connections: int, seconds: float, *, wrk: bool | None = None) -> Load:
    """Load the target; `wrk` unless it is not installed or not wanted."""
    use_wrk = shutil.which("wrk") is not None if wrk is None else wrk
    if use_wrk:
        return _wrk(target, connections, seconds)
    return uvloop.run(generate(target, connections, seconds))


def _wrk(target: Target, connections: int, seconds: float) -> Load:
    with tempfile.TemporaryDirectory() as folder:
        body, script = Path(folder, "body"), Path(folder, "post.lua")
        body.write_bytes(target.body)
        named = {"content-type": "application/json"} | target.headers
        headers = "\n".join(f'wrk.headers["{k}"] = "{v}"' for k, v in named.items())
        script.write_text(WRK_SCRIPT.format(body=body, headers=headers))
        url = f"http://{target.host}:{target.port}{target.path}"
        command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s",
                   str(script), url]  # fmt: skip
        found = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=seconds + 30
        )
    line = next(line for line in found.stdout.splitlines() if line.startswith("RESULT "))
    requests, micros, p50, p99, refused, broken = (int(part) for part in line.split()[1:])
    return Load(
        answers=requests - refused, seconds=micros / 1e6, p50_ms=p50 / 1e3, p99_ms=p99 / 1e3,
        refused=refused, broken=broken, in_flight=connections,
    )  # fmt: skip


class _Connection(asyncio.Protocol):
    """Sends, waits for the whole answer, sends again until it is told to stop."""

    def __init__(self, request: bytes, run: _Run) -> None:
        self._request = request
        self._run = run
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._parser = httptools.HttpResponseParser(self)
        self._send()

    def _send(self) -> None:
        if self._run.over():
            self._transport.close()
            return
        self._run.sent += 1
        self._started = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self._run.times.append(time.perf_counter() - self._started)
        if self._parser.get_status_code() != 200:
            self._run.refused += 1
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


class _Run:
    def __init__(self, deadline: float, limit: int) -> None:
        self.times: list[float] = []
        self.sent = self.refused = 0
        self._deadline = deadline
        self._limit = limit

    def over(self) -> bool:
        return self.sent >= self._limit or time.perf_counter() >= self._deadline


async def generate(
    target: Target, connections: int, seconds: float, *, limit: int = MAX_REQUESTS
) -> Load:
    """The generator: it waits for the last answers, so nothing is left in flight."""
    headers = {"host": f"{target.host}:{target.port}", "content-type": "application/json",
               "content-length": str(len(target.body))} | target.headers  # fmt: skip
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request = f"POST {target.path} HTTP/1.1\r\n{head}\r\n".encode() + target.body
    started = time.perf_counter()
    run = _Run(started + seconds, limit)
    loop = asyncio.get_running_loop()
    opened = [
        (await loop.create_connection(lambda: _Connection(request, run), target.host, target.port))
        for _ in range(connections)
    ]
    await asyncio.wait([protocol.ended for _, protocol in opened], timeout=seconds + 30)
    took = time.perf_counter() - started
    for transport, _ in opened:
        transport.close()
    return timed(run.times, took, run.refused, run.sent - len(run.times))


def timed(seconds: list[float], took: float, refused: int = 0, broken: int = 0) -> Load:
    """What a load saw that waited for its last answers, of the time of each answer."""
    times = sorted(seconds) or [0.0]
    return Load(
        answers=len(seconds) - refused, seconds=took,
        p50_ms=times[len(times) // 2] * 1e3, p99_ms=times[int(len(times) * 0.99)] * 1e3,
        refused=refused, broken=broken, in_flight=0,
    )  # fmt: skip


def main() -> int:
    """Load an address that is already up, and print one line of JSON for each count."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url", help="on this machine: http://127.0.0.1:PORT/...")
    parser.add_argument("body", type=Path, help="file with the body of every request")
    parser.add_argument("--key", default="", help="sent as Authorization: Bearer ...")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=3.0, help="for each count, at most 60")
    parser.add_argument("--generator", action="store_true", help="use the one here, not wrk")
    options = parser.parse_args()
    address = urlsplit(options.url)
    if address.hostname not in ("127.0.0.1", "localhost") or not 0 < options.seconds <= 60:
        parser.error("only this machine is loaded, and for at most 60 seconds")
    headers = {"authorization": f"Bearer {options.key}"} if options.key else {}
    target = Target(address.port or 80, address.path, options.body.read_bytes(), headers)
    for connections in options.connections:
        found = load(target, connections, options.seconds, wrk=False if options.generator else None)
        print(json.dumps({"connections": connections, "rate": round(found.rate)} | vars(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
