"""Requests and answers of the Open Inference Protocol, written and read without the product's code.

A tensor is a nested Python list here. `pack` and `unpack` are the reference for its raw bytes.
"""

import json
import struct

FORMATS = {
    "BOOL": "?", "INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q", "UINT8": "B",
    "UINT16": "H", "UINT32": "I", "UINT64": "Q", "FP16": "e", "FP32": "f", "FP64": "d",
}  # fmt: skip
SAMPLES = {
    "BOOL": [[True, False, True]],
    "INT8": [[-128, 0, 127]],
    "INT16": [[-(2**15), 0, 2**15 - 1]],
    "INT32": [[-(2**31), 0, 2**31 - 1]],
    "INT64": [[-(2**63), 0, 2**63 - 1]],
    "UINT8": [[0, 128, 255]],
    "UINT16": [[0, 2**15, 2**16 - 1]],
    "UINT32": [[0, 2**31, 2**32 - 1]],
    "UINT64": [[0, 2**63, 2**64 - 1]],
    "FP16": [[-1.5, 0.0, 65504.0]],
    "BF16": [[-1.5, 0.0, 2.0**20]],
    "FP32": [[-1.5, 0.0, 16777215.0]],
    "FP64": [[-1.5, 0.1, 1e300]],
    "BYTES": [["", "road", "桥梁"]],
}
DATATYPES = list(SAMPLES)


def shape_of(rows):
    shape = []
    while isinstance(rows, list):
        shape.append(len(rows))
        rows = rows[0] if rows else None
    return shape


def flat(values):
    if not isinstance(values, list):
        return [values]
    return [item for value in values for item in flat(value)]


def pack(datatype, values):
    """Raw little-endian bytes; BYTES elements behind four bytes of length."""
    values = flat(values)
    if datatype == "BYTES":
        texts = [v.encode() if isinstance(v, str) else v for v in values]
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)
    if datatype == "BF16":  # the upper half of an FP32
        return b"".join(struct.pack("<f", value)[2:] for value in values)
    return struct.pack(f"<{len(values)}{FORMATS[datatype]}", *values)


def unpack(datatype, raw):
    """The values of raw bytes, flat."""
    if datatype == "BYTES":
        found, place = [], 0
        while place < len(raw):
            (length,) = struct.unpack_from("<I", raw, place)
            found.append(raw[place + 4 : place + 4 + length].decode())
            place += 4 + length
        return found
    if datatype == "BF16":
        return [struct.unpack("<f", b"\0\0" + raw[i : i + 2])[0] for i in range(0, len(raw), 2)]
    size = struct.calcsize(FORMATS[datatype])
    return list(struct.unpack(f"<{len(raw) // size}{FORMATS[datatype]}", raw))


def tensor(datatype, values=None, /, **changes):
    """One input of a request in JSON; a change to None leaves the field out."""
    values = SAMPLES[datatype] if values is None else values
    found = {
        "name": f"x_{datatype.lower()}", "datatype": datatype, "shape": shape_of(values),
        "data": values,
    }  # fmt: skip
    return {name: value for name, value in (found | changes).items() if value is not None}


def binary(datatype, values=None, /, raw=None, **changes):
    """One input whose bytes follow the JSON, and these bytes."""
    values = SAMPLES[datatype] if values is None else values
    raw = pack(datatype, values) if raw is None else raw
    more = {"data": None, "parameters": {"binary_data_size": len(raw)}} | changes
    return tensor(datatype, values, **more), raw


def only(*datatypes, **parameters):
    """`outputs` of a request that asks for the echo of these datatypes."""
    found = [{"name": f"y_{name.lower()}"} for name in datatypes]
    return [entry | {"parameters": parameters} for entry in found] if parameters else found


def outputs_of(answer):
    """Outputs of an HTTP answer by name: datatype, shape, flat values; JSON or binary."""
    length = answer.headers.get("inference-header-content-length")
    body = answer.content
    head = json.loads(body if length is None else body[: int(length)])
    place = len(body) if length is None else int(length)
    found = {}
    for output in head["outputs"]:
        size = (output.get("parameters") or {}).get("binary_data_size")
        if size is None:
            values = flat(output["data"])
        else:
            values = unpack(output["datatype"], body[place : place + size])
            place += size
        found[output["name"]] = (output["datatype"], output["shape"], values)
    assert place == len(body), "bytes of the answer belong to no output"
    return found


def is_binary(answer, name):
    """Whether this output of an answer came as raw bytes."""
    length = answer.headers.get("inference-header-content-length")
    head = json.loads(answer.content if length is None else answer.content[: int(length)])
    (output,) = [entry for entry in head["outputs"] if entry["name"] == name]
    assert ("data" in output) != ("binary_data_size" in (output.get("parameters") or {}))
    return "data" not in output
