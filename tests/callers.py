"""Callers of every kind that do not stop: on kept connections, on new ones, over gRPC."""

import asyncio
import os
import time
from collections import Counter
from contextlib import AsyncExitStack
from zoneinfo import ZoneInfo

import grpc
import pytest
from sqlalchemy import text
from support import command, wait_for
from tritonclient.grpc import service_pb2 as pb
from wires import Wire

from citybrain.storage.database import Database
from citybrain.storage.records.usage import Usage

SECONDS = 20 if "TRUST_FULL" in os.environ else 1.5
KINDS = ("kept", "new", "grpc")

OK = "answered"
REFUSED = "refused"
CANCELLED = "cancelled by gRPC, untaken"


class Callers:
    """Some of each kind; how each call ended, and the request ids of those that were answered."""

    def __init__(self, platform, algorithm, tensors, count=2):
        self._platform = platform
        self._path = f"/v2/models/{algorithm}/infer"
        self._body = {"inputs": tensors}
        message = pb.ModelInferRequest(model_name=algorithm)
        for tensor in tensors:
            found = message.inputs.add(**{k: tensor[k] for k in ("name", "datatype", "shape")})
            found.contents.fp32_contents.extend(tensor["data"])
        self._message = message.SerializeToString()
        self.ends = Counter()
        self.ids = []
        self._stop = False
        self._kinds = [self._kept, self._new, self._grpc] * count

    async def __aenter__(self):
        self._tasks = [asyncio.create_task(kind()) for kind in self._kinds]
        return self

    async def __aexit__(self, *_):
        self._stop = True
        await asyncio.gather(*self._tasks)

    def count(self, kind):
        """How many calls of a kind were answered."""
        return self.ends[f"{kind} {OK}"]

    @property
    def wrong(self):
        """Every end that is neither an answer nor a refusal."""
        good = {f"{kind} {end}" for kind in KINDS for end in (OK, REFUSED)}
        return {end: times for end, times in self.ends.items() if end not in good}

    async def _kept(self):
        wire = Wire(self._platform.url, self._platform.key)
        while not self._stop:
            await self._ask("kept", wire)
        wire.close()

    async def _new(self):
        while not self._stop:
            wire = Wire(self._platform.url, self._platform.key)
            await self._ask("new", wire)
            wire.close()

    async def _ask(self, kind, wire):
        try:
            status, answer = await wire.ask(self._path, self._body)
        except ConnectionRefusedError:
            self.ends[f"{kind} {REFUSED}"] += 1
            await asyncio.sleep(0.05)
            return
        except (OSError, asyncio.IncompleteReadError) as error:
            self.ends[f"{kind} {type(error).__name__} {error}"[:80]] += 1
            return
        if status == 200:
            self.ends[f"{kind} {OK}"] += 1
            self.ids.append(wire.request_id)
        elif (status, answer["code"]) == (503, "shutting_down"):
            assert wire.retry_after
            self.ends[f"{kind} {REFUSED}"] += 1
            await asyncio.sleep(0.02)
        else:
            self.ends[f"{kind} {status} {answer['code']}"] += 1

    async def _grpc(self):
        headers = (("authorization", f"Bearer {self._platform.key}"),)
        async with grpc.aio.insecure_channel(self._platform.grpc) as channel:
            infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            while not self._stop:
                call = infer(self._message, metadata=headers, timeout=40)
                try:
                    await call
                    self.ends[f"grpc {OK}"] += 1
                    self.ids.append(dict(await call.trailing_metadata())["x-request-id"])
                except grpc.aio.AioRpcError as error:
                    code = dict(error.trailing_metadata() or ()).get("citybrain-code", "")
                    away = "connect" in error.details() and "refused" in error.details().lower()
                    if error.code() == grpc.StatusCode.UNAVAILABLE and (
                        code == "shutting_down" or away
                    ):
                        self.ends[f"grpc {REFUSED}"] += 1
                        await asyncio.sleep(0.05)
                    elif error.code() == grpc.StatusCode.CANCELLED and not code:
                        self.ends[f"grpc {CANCELLED}"] += 1
                    else:
                        said = f"{error.code().name} {code} {error.details()}"
                        self.ends[f"grpc {said}"[:120]] += 1


def tensor(name, *values):
    """One row of numbers."""
    return {"name": name, "datatype": "FP32", "shape": [1, len(values)], "data": list(values)}


def answered_in_ledger(home):
    """Ids of the calls that the ledger has as answered."""
    database = Database.at(home.database)
    # As the control process does, which may be starting, or have ended.
    Usage(database, ZoneInfo("UTC")).load(home.journal)
    query = "SELECT request_id FROM requests WHERE state = 'SERVED' AND status = 200"
    with database.read() as session:
        return {row[0] for row in session.execute(text(query))}


async def under_load(platform, act, quick, *others):
    """Callers of every kind before, during and after an act: all of them are answered."""
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(Callers(platform, *quick))
        rest = [await stack.enter_async_context(Callers(platform, *o, 1)) for o in others]
        await asyncio.sleep(SECONDS)
        before = dict(first.ends)
        answer = await asyncio.to_thread(act)
        await asyncio.sleep(SECONDS)
    print(before, *(dict(callers.ends) for callers in (first, *rest)))
    for callers in (first, *rest):
        assert set(callers.ends) == {f"{kind} {OK}" for kind in KINDS}
    for kind in KINDS:
        assert first.count(kind) > before[f"{kind} {OK}"] > 0
    ids = [i for callers in (first, *rest) for i in callers.ids]
    assert len(set(ids)) == len(ids)
    wait_for(lambda: set(ids) <= answered_in_ledger(platform.home), 60)
    return answer


async def through_down(platform, quick, slow):
    """Callers of every kind while the platform stops: each is answered or refused, and counted so."""
    before = await asyncio.to_thread(answered_in_ledger, platform.home)
    idle = Wire(platform.url, platform.key)  # who says nothing must not hold it
    path = f"/v2/models/{quick[0]}/infer"
    assert (await idle.ask(path, {"inputs": quick[1]}))[0] == 200
    stream = asyncio.create_task(_idle_stream(platform, Callers(platform, *quick)))
    async with Callers(platform, *quick) as first, Callers(platform, *slow) as second:
        await asyncio.sleep(SECONDS)
        began = time.monotonic()
        await asyncio.to_thread(command, platform.home.root, "down")
        took = time.monotonic() - began
    print(dict(first.ends), dict(second.ends), f"{took:.1f} s")
    for callers in (first, second):
        # One that sends in the moment when gRPC's server closes.
        assert callers.ends.pop(f"grpc {CANCELLED}", 0) <= 2
        assert not callers.wrong
        for kind in KINDS:
            assert callers.count(kind) > 0
            assert callers.ends[f"{kind} {REFUSED}"] > 0
    code, streamed = await stream
    assert code == "shutting_down"
    answers = {*first.ids, *second.ids, idle.request_id, streamed}
    assert await asyncio.to_thread(answered_in_ledger, platform.home) - before == answers


async def _idle_stream(platform, callers):
    """A stream whose client asks once, and then waits; how it ends, and the one answer's id."""
    async with grpc.aio.insecure_channel(platform.grpc) as channel:
        infer = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        call = infer(metadata=(("authorization", f"Bearer {platform.key}"),))
        await call.write(callers._message)
        answer = pb.ModelStreamInferResponse.FromString(await call.read())
        assert not answer.error_message
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await call.read()
        code = dict(ended.value.trailing_metadata()).get("citybrain-code")
        return code, answer.infer_response.parameters["x-request-id"].string_param
