"""A safetensors file before a library maps anything: its header as data, and sizes that do not lie."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

from citybrain.core.errors import BadPackage

MAX_HEADER = 100 << 20
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "U16": 16, "I16": 16,
    "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64,
    "C64": 64,
}  # fmt: skip


def check_safetensors(path: Path) -> None:
    """BadPackage unless the tensors fill the file exactly, and each is as large as its shape says."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        if len(head) < 8:
            raise BadPackage(f"{path.name} is not a safetensors file.")
        (length,) = struct.unpack("<Q", head)
        if length > min(size - 8, MAX_HEADER):
            raise BadPackage(f"{path.name}: the header claims {length} bytes.")
        try:
            header = json.loads(file.read(length), object_pairs_hook=_once)
            spans = sorted(
                _span(entry) for name, entry in header.items() if name != "__metadata__"
            )  # fmt: skip
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BadPackage(f"{path.name}: the header cannot be read.") from error
    told = header.get("__metadata__", {})
    if not isinstance(told, dict) or not all(isinstance(text, str) for text in told.values()):
        raise BadPackage(f"{path.name}: the metadata is not text.")
    if not spans:
        raise BadPackage(f"{path.name} holds no tensors.")
    end = 0
    for begin, until in spans:
        if begin != end or until < begin:
            raise BadPackage(f"{path.name}: tensors overlap or leave gaps.")
        end = until
    if end != size - 8 - length:
        raise BadPackage(f"{path.name}: {size - 8 - length} bytes of data, {end} described.")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):  # readers differ in which of the two they take
        raise ValueError("a name stands twice")
    return found


def _span(entry: dict[str, Any]) -> tuple[int, int]:
    begin, until = entry["data_offsets"]
    shape = entry["shape"]
    if any(type(number) is not int or number < 0 for number in (begin, until, *shape)):
        raise ValueError("not a size")
    if math.prod(shape) * BITS[entry["dtype"]] != 8 * (until - begin):
        raise ValueError("a shape that is not as large as its bytes")
    return begin, until
