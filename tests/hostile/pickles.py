"""M1: pickles in every disguise, and in every file that could carry one."""

import gzip
import io
import struct
import zipfile

from hostile.case import add, file_of, zip_of
from hostile.opcodes import FORMS, GADGETS, call, whole

PICKLE = r"pickle|checkpoint|twice|Bytes lie before"
STATE = {"archive/version": b"3\n", "archive/byteorder": b"little"}


def payload(shot):
    return whole(call("os:system", shot.shell))


def checkpoint(data, more=(), name="archive/data.pkl"):
    """A maker of what torch.save writes, around any pickle."""

    def make(folder, shot):
        found = data(shot) if callable(data) else data
        inside = [(name, found), *STATE.items()]
        inside += [(key, one(shot) if callable(one) else one) for key, one in more]
        return zip_of(folder / "model.pt", inside)

    return make


for name, gadget in GADGETS.items():
    add("pickle", name, checkpoint(lambda s, g=gadget: whole(g(s))), r"model\.pt.*import|registry")
for name, form in FORMS.items():
    add("pickle-form", name, checkpoint(form), PICKLE)

for suffix in ("pkl", "pickle", "joblib", "pth", "pt", "bin", "ckpt", "dill", "npy", "h5"):
    add("pickle-as", suffix, file_of(f"model.{suffix}", payload), rf"model\.{suffix}")
for suffix in (
    "onnx",
    "safetensors",
    "pt2",
    "skops",
    "txt",
    "PKL",
    "Pt",
    "sklearn",
    "npz",
    "model",
    "p",
):
    add("pickle-as", suffix, file_of(f"model.{suffix}", payload), rf"model\.{suffix}")
add("pickle-as", "algorithm-yaml", file_of("algorithm.yaml", payload), "algorithm.yaml")
add("pickle-as", "config-json", file_of("config.json", payload), r"config\.json")
add("pickle-as", "MLmodel", file_of("MLmodel", payload), "MLmodel")
add("pickle-as", "no-suffix", file_of("model", payload), "model")

EMPTY = whole(b"}")
add("pickle-in", "extra-pkl", checkpoint(EMPTY, [("archive/other.pkl", payload)]), PICKLE)
add("pickle-in", "second-of-the-same-name",
    checkpoint(EMPTY, [("archive/data.pkl", payload)]), PICKLE)  # fmt: skip
add("pickle-in", "second-in-another-case",
    checkpoint(EMPTY, [("archive/DATA.PKL", payload)]), PICKLE)  # fmt: skip
add("pickle-in", "two-roots", checkpoint(EMPTY, [("other/data.pkl", payload)]), PICKLE)
add("pickle-in", "wrong-name", checkpoint(payload, name="archive/weights.pkl"), PICKLE)
add("pickle-in", "no-folder", checkpoint(payload, name="data.pkl"), PICKLE)
add("pickle-in", "hidden-suffix", checkpoint(payload, name="archive/data.pkl.txt"), PICKLE)
add("pickle-in", "torchscript-code",
    checkpoint(EMPTY, [("archive/code/__torch__.py", b"import os")]), "TorchScript")  # fmt: skip
add("pickle-in", "torchscript-constants",
    checkpoint(EMPTY, [("archive/constants.pkl", payload)]), PICKLE)  # fmt: skip
add("pickle-in", "strange-member",
    checkpoint(EMPTY, [("archive/libx.so", b"\x7fELF")]), r"model\.pt.*libx")  # fmt: skip
add("pickle-in", "storage-pickle",
    checkpoint(payload, [("archive/data/0", payload)]), PICKLE)  # fmt: skip
add("pickle-in", "path-in-a-member",
    checkpoint(EMPTY, [("archive/../../x", b"x")]), r"model\.pt")  # fmt: skip


def nested(folder, shot):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("archive/data.pkl", payload(shot))
    return zip_of(
        folder / "model.pt", [("archive/data.pkl", EMPTY), ("archive/x.zip", inner.getvalue())]
    )


def bad_crc(folder, shot):
    path = checkpoint(payload)(folder, shot)
    data = bytearray(path.read_bytes())
    for sign, at in ((b"PK\1\2", 16), (b"PK\3\4", 14)):
        place = data.find(sign)
        data[place + at : place + at + 4] = b"\xde\xad\xbe\xef"
    path.write_bytes(data)
    return path


def bad_flags(folder, shot):
    path = checkpoint(payload)(folder, shot)
    data = bytearray(path.read_bytes())
    place = data.find(b"PK\1\2")
    data[place + 8] |= 1  # encrypted, says the directory
    path.write_bytes(data)
    return path


def other_local_name(folder, shot):
    path = checkpoint(payload)(folder, shot)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"archive/data.pkl", b"archive/data.xkl", 1))
    return path


def two_directories(folder, shot):
    """Readers that take the first end record see another file than those that take the last."""
    path = checkpoint(EMPTY)(folder, shot)
    first = path.read_bytes()
    path = checkpoint(payload)(folder, shot)
    path.write_bytes(path.read_bytes() + first)
    return path


def legacy(shot):
    magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
    return magic + whole(b"M\xe9\x03") + whole(b"}") + payload(shot) + whole(b"]")


def npy(shot):
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    header += b" " * (117 - len(header)) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + payload(shot)


def compressed(folder, shot):
    return zip_of(
        folder / "model.pt", [("archive/data.pkl", payload(shot)), *STATE.items()],
        zipfile.ZIP_DEFLATED,
    )  # fmt: skip


add("pickle-in", "nested-zip", nested, r"model\.pt")
add("pickle-in", "bad-crc", bad_crc, PICKLE)
add("pickle-in", "bad-flags", bad_flags, PICKLE)
add("pickle-in", "other-local-name", other_local_name, PICKLE)
add("pickle-in", "two-directories", two_directories, PICKLE)
add("pickle-in", "compressed", compressed, PICKLE)
add("pickle-in", "legacy-torch", file_of("model.pt", legacy), PICKLE)
add("pickle-in", "legacy-torch-pth", file_of("model.pth", legacy), PICKLE)
add("pickle-in", "npy-object", file_of("model.npy", npy), r"model\.npy")
add("pickle-in", "npz-object",
    lambda f, s: zip_of(f / "model.npz", [("a.npy", npy(s))]), r"model\.npz")  # fmt: skip
add("pickle-in", "npy-in-skops",
    lambda f, s: zip_of(f / "model.skops", [("schema.json", b"{}"), ("a.npy", npy(s))]),
    r"model\.skops")  # fmt: skip
add(
    "pickle-in",
    "gzip",
    file_of("model.pkl.gz", lambda s: gzip.compress(payload(s))),
    "model.pkl.gz",
)
add(
    "pickle-in",
    "7z",
    file_of("model.7z", lambda s: b"7z\xbc\xaf\x27\x1c\x00\x04" + payload(s)),
    "7z",
)
add("pickle-in", "7z-as-pt", file_of("model.pt", lambda s: b"7z\xbc\xaf\x27\x1c\x00\x04" + payload(s)),
    PICKLE)  # fmt: skip
add(
    "pickle-in",
    "hdf5",
    file_of("model.h5", lambda s: b"\x89HDF\r\n\x1a\n" + payload(s)),
    r"model\.h5",
)
add("pickle-in", "keras",
    lambda f, s: zip_of(f / "model.keras", [("config.json", b"{}")]), "keras")  # fmt: skip
add("pickle-in", "zip-with-pkl",
    lambda f, s: zip_of(f / "model.zip", [("model.pkl", payload(s))]), r"model\.pkl")  # fmt: skip
add("pickle-in", "zip-with-joblib",
    lambda f, s: zip_of(f / "model.zip", [("deep/model.joblib", payload(s))]), "joblib")  # fmt: skip
