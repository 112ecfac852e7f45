"""How many parts an ONNX file has, counted before a library makes an object of each.

Two bytes can say "one more node", for which protobuf takes a hundred: a file within all limits of
size would fill the memory. This walks over the file's wire format and only counts.
"""

from __future__ import annotations

from citybrain.core.errors import BadPackage, TooLarge

MAX_NODES = 100_000
MAX_PARTS = 1_000_000
INSIDE = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {6: "graph", 11: "graph"},
}
"""Fields of a message that hold messages with many parts of their own."""


def check_parts(name: str, raw: bytes) -> None:
    """TooLarge over the limit; BadPackage when it is not protobuf."""
    stack = [("model", 0, len(raw))]
    count = nodes = 0
    try:
        while stack:
            kind, place, end = stack.pop()
            inside = INSIDE[kind]
            while place < end:
                count += 1
                if count > MAX_PARTS:
                    raise TooLarge(f"{name} has more than {MAX_PARTS} parts.")
                key = raw[place]  # nearly every key and size is one byte: no call for those
                if key < 128:
                    place += 1
                else:
                    key, place = _number(raw, place)
                wire = key & 7
                if wire == 2:
                    size = raw[place]
                    if size < 128:
                        place += 1
                    else:
                        size, place = _number(raw, place)
                    if deeper := inside.get(key >> 3):
                        nodes += deeper == "node"
                        if nodes > MAX_NODES:
                            raise TooLarge(f"{name} has more than {MAX_NODES} nodes.")
                        stack += [(kind, place + size, end), (deeper, place, place + size)]
                        break
                    place += size
                elif wire == 0:
                    _, place = _number(raw, place)
                elif wire in (1, 5):
                    place += 8 if wire == 1 else 4
                else:
                    raise ValueError("groups are not used")
            else:
                if place == end:
                    continue
                raise ValueError("a part is longer than the whole")
    except (IndexError, ValueError) as error:
        raise BadPackage(f"{name} is not an ONNX model: {error}.") from error


def _number(raw: bytes, place: int) -> tuple[int, int]:
    byte = raw[place]
    if byte < 128:
        return byte, place + 1
    found, shift = byte & 127, 7
    while byte > 127:
        place += 1
        byte = raw[place]
        found |= (byte & 127) << shift
        shift += 7
        if shift > 70:
            raise ValueError("a number is too long")
    return found, place + 1
