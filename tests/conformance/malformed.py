"""Bodies that are nearly right, made from a seed: each with what a right server must make of it.

`must` is `ok` (and what comes back), `refuse`, or `either` where chance decides whether the
bytes still are a request.
"""

import json
import math
import random
from typing import NamedTuple

from conformance import colour_model
from conformance.bodies import DATATYPES, SAMPLES, only, pack, tensor, unpack

TOKENS = [
    "null", "true", "{}", "[]", '""', "-0", "1e999", "-1e999", "NaN", "Infinity", "1e-400",
    "9" * 400, "0.1e+1", "[[[[]]]]", '"\\ud800"', '"\\u0000"', '"\\x"', "18446744073709551616",
    '{"a":{"a":{"a":1}}}', "[" * 300, "]" * 300, ",", ":", "\ufeff", "\\", '"', "//", "\x00",
]  # fmt: skip

PICTURE = colour_model.picture("red")


class Made(NamedTuple):
    """A body, what its head says of it, what must come of it, and the echo expected."""

    body: bytes
    said: str | None
    """The length of its header, or of a form its content type."""
    must: str
    echo: bytes = b""


def json_body(rng: random.Random) -> Made:
    """A right JSON request, harmed in one to four places."""
    datatype = rng.choice(DATATYPES)
    request = {"id": "7", "inputs": [tensor(datatype)], "outputs": only(datatype),
               "parameters": {"binary_data_output": rng.random() < 0.3}}  # fmt: skip
    body = json.dumps(request, ensure_ascii=rng.random() < 0.5).encode()
    return Made(harmed(rng, body), None, "either")


def item_body(rng: random.Random) -> Made:
    """A right body of the task API, harmed in one to four places."""
    datatypes = rng.sample(DATATYPES, rng.randint(1, 3))
    item = {"tensors": {f"x_{name.lower()}": SAMPLES[name][0] for name in datatypes}}
    request = {"inputs": [item] * rng.choice([1, 2, 70])}
    body = json.dumps(request, ensure_ascii=rng.random() < 0.5).encode()
    return Made(harmed(rng, body), None, "either")


def form_body(rng: random.Random) -> Made:
    """A form of pictures, harmed in its frame, its heads or the pictures; and its content type."""
    boundary = rng.choice(["x", "----WebKitFormBoundary7MA4YWxk", "a" * 70, "="])
    parts = []
    for number in range(rng.randint(1, 3)):
        head = f'content-disposition: form-data; name="file"; filename="{number}.png"'
        more = rng.choice(["", "\r\ncontent-type: image/png", "\r\nx: " + "y" * 5000, "\r\n:"])
        picture = PICTURE if rng.random() < 0.5 else harmed(rng, PICTURE)
        parts.append(f"--{boundary}\r\n{head}{more}\r\n\r\n".encode() + picture + b"\r\n")
    body = b"".join(parts) + f"--{boundary}--\r\n".encode()
    if rng.random() < 0.6:
        body = harmed(rng, body)
    said = rng.choice(
        [boundary] * 6 + ["", "y", boundary[:-1], '"' + boundary, "\\", boundary * 40]
    )
    kind = rng.choice(["multipart/form-data"] * 6 + ["multipart/mixed", "image/png", "multipart"])
    return Made(body, f"{kind}; boundary={said}", "either")


def harmed(rng: random.Random, right: bytes) -> bytes:
    """Bytes changed, lost, doubled or put in, at one to four places."""
    body = bytearray(right)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(body)) if body else 0
        end = place + rng.randint(1, 12)
        match rng.randrange(7):
            case 0:
                body[place:place] = rng.choice(TOKENS).encode()
            case 1:
                body[place:end] = rng.choice(TOKENS).encode()
            case 2:
                del body[place:end]
            case 3:
                del body[place:]
            case 4 if body:
                body[place] ^= 1 << rng.randrange(8)
            case 5:
                body[place:place] = rng.randbytes(rng.randint(1, 8))
            case _:
                body[place:place] = body[place:end] * rng.randint(1, 50)
    return bytes(body)


def binary_body(rng: random.Random) -> Made:
    """A right binary request with one lie: in shape, length, header or bytes; sometimes none."""
    datatype = rng.choice(DATATYPES)
    rows, columns = rng.randint(1, 4), rng.randint(1, 5)
    raw = _values(rng, datatype, rows * columns)
    shape, size, header, tail = [rows, columns], len(raw), 0, b""
    must, name, kind = "refuse", f"x_{datatype.lower()}", datatype
    match rng.randrange(12):
        case 0:
            must = "ok"
        case 1:
            harmed = bytearray(raw)
            harmed[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
            raw, must = bytes(harmed), _judge(datatype, bytes(harmed))
        case 2:
            shape[rng.randrange(2)] += rng.choice([-7, -1, 1, 2, 2**31, 2**62, 2**64])
        case 3:
            shape = rng.choice([[], [rows * columns], [rows, columns, 1], [0, 2**62], [1] * 65])
        case 4:
            raw = raw[: -rng.randint(1, len(raw))]
            size = len(raw)
            must = "either" if datatype == "BYTES" else "refuse"
        case 5:
            raw += rng.randbytes(rng.randint(1, 20))
            size = len(raw)
            if datatype == "BYTES" or len(raw) == rows * columns:
                must = "either"
        case 6:
            size = rng.choice([0, -1, size - 1, size + 1, 2**31, 2**63, 2**80])
        case 7:
            header = rng.choice([-3, -1, 1, len(raw), 10**6])
            must = "either"
        case 8:
            tail = rng.randbytes(rng.randint(1, 40))
        case 9:
            kind = rng.choice([k for k in [*DATATYPES, "FP8", ""] if k != datatype])
        case 10:
            name = rng.choice(["", "x", "y_fp32", name * 100, "x_\u0000", "é"])
        case _:
            raw, must = rng.randbytes(len(raw)), "either"
            size = len(raw)
    entry = {"name": name, "datatype": kind, "shape": shape,
             "parameters": {"binary_data_size": size}}  # fmt: skip
    head = json.dumps({"inputs": [entry], "outputs": only(datatype, binary_data=True)}).encode()
    echo = _echo(datatype, raw) if must == "ok" else b""
    return Made(head + raw + tail, str(len(head) + header), must, echo)


def message(rng: random.Random, good: bytes) -> bytes:
    """A serialised ModelInferRequest with some bytes changed, lost or doubled."""
    body = bytearray(good)
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(body))
        match rng.randrange(4):
            case 0:
                body[place] ^= 1 << rng.randrange(8)
            case 1 if len(body) > 20:
                del body[place : place + rng.randint(1, 9)]
            case 2:
                body[place:place] = rng.randbytes(rng.randint(1, 9))
            case _:
                body[place:place] = body[place : place + rng.randint(1, 30)]
    return bytes(body)


def _values(rng: random.Random, datatype: str, count: int) -> bytes:
    flat = [rng.choice(SAMPLES[datatype][0]) for _ in range(count)]
    return pack(datatype, flat)


def _judge(datatype: str, raw: bytes) -> str:
    """What must come of raw bytes of the right length."""
    if datatype == "BYTES":
        return "either"
    if datatype in ("FP16", "BF16", "FP32", "FP64"):
        return "ok" if all(map(math.isfinite, unpack(datatype, raw))) else "refuse"
    return "ok"


def _echo(datatype: str, raw: bytes) -> bytes:
    if datatype == "BOOL":
        return bytes(value != 0 for value in raw)
    return raw
