"""Coverage-guided bytes for what reads a stranger's tensors; run by `test_fuzz.py`, a process a target.

    python tests/trust/fuzz.py TARGET CORPUS [-runs=N] [-seed=N]

A target may refuse what it is given, with an error of ours; anything else is a crash, which libFuzzer
reports with the bytes, and so is memory that the input does not pay for.
"""

import struct
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["citybrain.serving.protocols", "citybrain.core.tensors"]):
    from citybrain.core.errors import CityBrainError
    from citybrain.serving.protocols import grpc, oip

WORDS = (
    '"shape":', '"datatype":', '"data":', '"name":', '"binary_data_size":', '"parameters":', "[[1,2]]",
    "[1.5]", "1e999", "-1", "0", "9223372036854775808", "null", "true", "[]", "{}", "],[", "\\ud800",
)  # fmt: skip
"""What libFuzzer may put in, besides what it finds."""
DATATYPES = ("BOOL", "UINT8", "INT16", "INT64", "FP16", "BF16", "FP32", "FP64", "BYTES")
MOST = 64
"""Bytes of tensors for one of the body: a BYTES element is an object, a digit of JSON a number."""


def paid_for(tensors, data):
    size = sum(array.nbytes for array in tensors.values())
    assert size <= MOST * len(data), f"{len(data)} bytes became {size}"


def binary(data):
    """Two bytes of header length, then a body of JSON and raw tensors."""
    if len(data) < 2:
        return
    (length,) = struct.unpack_from("<h", data)
    body = data[2:]
    try:
        request, tensors = oip.decode(body, length)
        paid_for(tensors, body)
        for array in tensors.values():
            array.tobytes()
        oip.encode(request, tensors, "echo", "1")
    except CityBrainError:
        pass


def message(data):
    """A ModelInferRequest."""
    try:
        request, tensors = grpc.decode(data)
        paid_for(tensors, data)
        grpc.answer(grpc.encode(request, tensors, "echo", "1"))
    except CityBrainError:
        pass


def binary_seeds():
    for datatype in DATATYPES:
        raw = _raw(datatype)
        plain = {"BOOL": "[true,false]", "BYTES": '["a","b"]'}.get(datatype, "[[1,2]]")
        size = f'"parameters":{{"binary_data_size":{len(raw)}}}'
        for data, tail in ((size, raw), (f'"data":{plain}', None)):
            head = (
                f'{{"id":"7","inputs":[{{"name":"x","datatype":"{datatype}","shape":[1,2],{data}}}],'
                '"outputs":[{"name":"x","parameters":{"binary_data":true}}]}'
            ).encode()
            yield struct.pack("<h", -1 if tail is None else len(head)) + head + (tail or b"")


def message_seeds():
    from tritonclient.grpc import service_pb2 as pb

    for datatype in DATATYPES:
        request = pb.ModelInferRequest(model_name="echo", id="7")
        tensor = request.inputs.add(name="x", datatype=datatype, shape=[1, 2])
        request.outputs.add(name="x")
        if datatype in grpc.CONTENTS:
            values = [b"a", b"bc"] if datatype == "BYTES" else [1, 0]
            getattr(tensor.contents, grpc.CONTENTS[datatype]).extend(values)
            yield request.SerializeToString()
        tensor.ClearField("contents")
        request.raw_input_contents.append(_raw(datatype))
        yield request.SerializeToString()


def _raw(datatype):
    """Two elements."""
    if datatype == "BYTES":
        return struct.pack("<I2sI1s", 2, b"ab", 1, b"c")
    sizes = {"BOOL": 1, "UINT8": 1, "INT64": 8, "FP32": 4, "FP64": 8}
    return bytes(range(1, 1 + 2 * sizes.get(datatype, 2)))


TARGETS = {"binary": (binary, binary_seeds), "message": (message, message_seeds)}


if __name__ == "__main__":
    target, corpus, *words = sys.argv[1:]
    run, seeds = TARGETS[target]
    for number, seed in enumerate(seeds()):
        (Path(corpus) / f"seed-{number}").write_bytes(seed)
        run(seed)
    known = Path(corpus).with_suffix(".words")
    quoted = (word.replace("\\", "\\\\").replace('"', '\\"') for word in (*WORDS, *DATATYPES))
    known.write_text("".join(f'"{word}"\n' for word in quoted))
    atheris.Setup([sys.argv[0], corpus, f"-dict={known}", *words], run)
    atheris.Fuzz()
