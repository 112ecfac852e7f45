"""Many HTTP calls from one process: keep-alive connections on asyncio, with the least work a call."""

import asyncio
import time
from collections import Counter
from urllib.parse import urlsplit

import orjson


class Wire:
    """One connection; opened again when the server closed it."""

    def __init__(self, url, key):
        self._place = urlsplit(url).hostname, urlsplit(url).port
        self._head = f"host: city\r\nauthorization: Bearer {key}\r\n"
        self._reader = self._writer = None

    async def ask(self, path, body, more=""):
        """Status and decoded body of one POST; `more`: further lines of its head."""
        status, _, answer = await self.send(path, orjson.dumps(body), more)
        return status, orjson.loads(answer)

    async def send(self, path, data, more=""):
        """Status, head and body of one POST, as bytes."""
        head = f"POST {path} HTTP/1.1\r\n{self._head}{more}content-length: {len(data)}\r\n\r\n"
        if self._reader is not None and self._reader.at_eof():
            self.close()  # it was idle for too long
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(*self._place)
        self._writer.write(head.encode() + data)
        try:
            found = (await self._reader.readuntil(b"\r\n\r\n")).lower()
            answer = await self._reader.readexactly(number_in(found, b"\ncontent-length"))
            self.request_id = self._named(found, b"x-request-id")
            self.retry_after = self._named(found, b"retry-after")
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            raise
        if b"connection: close" in found:
            self.close()
        return int(found[9:12]), found, answer

    @staticmethod
    def _named(head, name):
        start = head.find(b"\n" + name + b": ")
        return head[start:].split(b"\r", 1)[0].split(b": ")[1].decode() if start >= 0 else ""

    def close(self):
        """Hang up."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


def number_in(head, name):
    """The number that a line of a head says."""
    start = head.index(name + b": ") + len(name) + 2
    return int(head[start : head.index(b"\r", start)])


class Crowd:
    """Callers that call without pause until told to stop; what they were answered."""

    def __init__(self, platform, path, body, count):
        self._wires = [Wire(platform.url, platform.key) for _ in range(count)]
        self._path, self._body = path, body
        self.codes = Counter()
        self.versions = Counter()
        self.took = []
        self._stop = False

    async def __aenter__(self):
        self._began = time.monotonic()
        self._tasks = [asyncio.create_task(self._call(wire)) for wire in self._wires]
        return self

    async def __aexit__(self, *_):
        self._stop = True
        await asyncio.gather(*self._tasks)
        self.seconds = time.monotonic() - self._began

    async def _call(self, wire):
        while not self._stop:
            began = time.monotonic()
            try:
                status, answer = await wire.ask(self._path, self._body)
            except (OSError, asyncio.IncompleteReadError) as error:
                self.codes[type(error).__name__] += 1
                continue
            self.codes[status if status == 200 else answer["code"]] += 1
            if status == 200:
                self.took.append(time.monotonic() - began)
                self.versions[int(answer.get("version") or answer["model_version"])] += 1
        wire.close()


def flood(url, key, path, body, rate, seconds):
    """What so many calls a second on up to 200 connections are answered; run in a process of its own."""
    codes = Counter()
    idle = [Wire(url, key) for _ in range(200)]

    async def one():
        if not idle:
            codes["late"] += 1  # all callers wait already: this one would come later
            return
        wire = idle.pop()
        status, answer = await wire.ask(path, body)
        codes[status if status == 200 else answer["code"]] += 1
        idle.append(wire)

    async def go():
        start, tasks = time.monotonic(), []
        while (passed := time.monotonic() - start) < seconds:
            tasks += [asyncio.create_task(one()) for _ in range(int(passed * rate) - len(tasks))]
            await asyncio.sleep(0.005)
        await asyncio.gather(*tasks)

    asyncio.run(go())
    return codes


async def paced(url, key, path, body, rate, count):
    """Codes and sorted seconds of calls at a steady rate, whatever the answers take."""
    codes, took, idle = Counter(), [], []

    async def one():
        wire = idle.pop() if idle else Wire(url, key)
        began = time.perf_counter()
        status, answer = await wire.ask(path, body)
        took.append(time.perf_counter() - began)
        codes[status if status == 200 else answer["code"]] += 1
        idle.append(wire)

    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(one())
            await asyncio.sleep(1 / rate)
    return codes, sorted(took)
