"""What a shadow answered beside what callers got: kept by gateways, compared when somebody asks.

A shadow's answers reach nobody. They are compared value by value, and the pairs that differ most are
shown, with their inputs, for people to look at. Two files a gateway and algorithm hold the newest.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import orjson

from citybrain.core.tensors import DTYPES
from citybrain.serving.wire import Call, Reply

MOST_BYTES = 8 << 20
MOST_PAIRS = 2000
SHOWN = 20
SHOWN_BYTES = 2000
AGREES = 1e-3
"""Largest relative difference of any value that still counts as the same answer."""
_ENDS = ("outputs", "results")


class Pair(NamedTuple):
    """One call, and both answers to it."""

    request_id: str
    content_type: str
    body: bytes
    header_length: int
    version: int
    reply: Reply
    shadow_version: int
    shadow: Reply


class ShadowBook:
    """A gateway's notes about shadows; a full file becomes the old one, the old one goes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._encoder = msgspec.msgpack.Encoder()

    def write(self, algorithm: str, call: Call, answers: tuple[int, Reply, int, Reply]) -> None:
        """Append a pair; blocks for a short write."""
        version, reply, other, shadow = answers
        raw = self._encoder.encode(
            Pair(call.request_id, call.content_type, call.body, call.header_length,
                 version, reply, other, shadow)
        )  # fmt: skip
        if len(raw) > MOST_BYTES // 8:
            return
        folder = self._folder / algorithm
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / f"{os.getpid()}.pairs"
        with path.open("ab") as file:
            file.write(struct.pack("<I", len(raw)) + raw)
            full = file.tell() > MOST_BYTES
        if full:
            path.replace(path.with_suffix(".old"))


def pairs(folder: Path, algorithm: str) -> Iterator[Pair]:
    """What every gateway kept; what a kill cut off at a file's end is left out."""
    for path in sorted(
        chain((folder / algorithm).glob("*.old"), (folder / algorithm).glob("*.pairs"))
    ):
        for pair, _ in _pieces(path.read_bytes()):
            yield pair


def _pieces(raw: bytes) -> Iterator[tuple[Pair, bytes]]:
    """The pairs of a file, each with its own bytes."""
    decoder, begin = msgspec.msgpack.Decoder(Pair), 0
    while begin + 4 <= len(raw):
        end = begin + 4 + struct.unpack_from("<I", raw, begin)[0]
        if end > len(raw):
            return
        try:
            yield decoder.decode(raw[begin + 4 : end]), raw[begin:end]
        except msgspec.MsgspecError:
            return
        begin = end


def forget(folder: Path, before: datetime) -> int:
    """Remove the pairs that are older; how many files that changed.

    A gateway that appends to a file in that moment may lose a pair: it is a sample.
    """
    oldest = f"{int(before.timestamp() * 1000):012x}"  # request ids begin with their time
    changed = 0
    for path in [*folder.glob("*/*.old"), *folder.glob("*/*.pairs")]:
        raw = path.read_bytes()
        kept = b"".join(one for pair, one in _pieces(raw) if pair.request_id >= oldest)
        if len(kept) < len(raw):
            fresh = path.with_suffix(".new")
            fresh.write_bytes(kept)
            fresh.replace(path) if kept else path.unlink()
            fresh.unlink(missing_ok=True)
            changed += 1
    return changed


def report(folder: Path, algorithm: str) -> dict[str, Any]:
    """How often the shadow agreed, by how much it did not, and the pairs that differ most."""
    kept = list(pairs(folder, algorithm))[-MOST_PAIRS:]
    answered = [(pair, difference(_values(pair.reply), _values(pair.shadow))) for pair in kept
                if not pair.reply.code and not pair.shadow.code]  # fmt: skip
    gaps = np.array([gap for _, gap in answered]) if answered else np.zeros(0)
    worst = sorted(answered, key=lambda item: -item[1])[:SHOWN]
    return {
        "pairs": len(kept),
        "compared": len(answered),
        "agreeing": int((gaps <= AGREES).sum()),
        "shadow_failed": sum(bool(p.shadow.code) and not p.reply.code for p in kept),
        "mean_difference": float(gaps.mean()) if answered else 0.0,
        "p95_difference": float(np.percentile(gaps, 95)) if answered else 0.0,
        "versions": sorted({(p.version, p.shadow_version) for p in kept}),
        "most_different": [
            {
                "request_id": pair.request_id, "difference": round(gap, 6),
                "input": _shown_input(pair), "answer": _shown(pair.reply),
                "shadow": _shown(pair.shadow),
            }
            for pair, gap in worst if gap > AGREES
        ],
    }  # fmt: skip


def difference(one: Any, other: Any) -> float:
    """The largest difference of any value: relative for numbers, 0 or 1 for everything else."""
    if isinstance(one, bool) or isinstance(other, bool) or one is None or other is None:
        return float(one is not other)
    if isinstance(one, int | float) and isinstance(other, int | float):
        size = max(abs(one), abs(other), 1e-6)
        return abs(one - other) / size
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return 1.0
        return max((difference(one[key], other[key]) for key in one), default=0.0)
    if isinstance(one, list) and isinstance(other, list):
        if len(one) != len(other):
            return 1.0
        return max((difference(a, b) for a, b in zip(one, other, strict=True)), default=0.0)
    return float(one != other)


def _values(reply: Reply) -> Any:
    """The part of an answer that is the model's, as plain JSON values."""
    if reply.header_length < 0:
        body = orjson.loads(reply.body)
    else:
        body = orjson.loads(reply.body[: reply.header_length])
        start = reply.header_length
        for output in body.get("outputs", []):
            size = (output.pop("parameters", None) or {}).get("binary_data_size")
            if size is not None:
                raw = reply.body[start : start + size]
                start += size
                output["data"] = _array(output["datatype"], raw)
    return {key: body[key] for key in _ENDS if key in body} or body


def _array(datatype: str, raw: bytes) -> Any:
    dtype = DTYPES.get(datatype)
    if dtype is None or dtype == np.object_:
        return hashlib.sha256(raw).hexdigest()
    return np.frombuffer(raw, dtype).tolist()


def _shown(reply: Reply) -> Any:
    values = _values(reply)
    return values if len(orjson.dumps(values)) <= SHOWN_BYTES else "too long to show"


def _shown_input(pair: Pair) -> Any:
    if pair.header_length < 0 and len(pair.body) <= SHOWN_BYTES:
        try:
            return orjson.loads(pair.body)
        except orjson.JSONDecodeError:
            pass
    return {"bytes": len(pair.body), "sha256": hashlib.sha256(pair.body).hexdigest()}
