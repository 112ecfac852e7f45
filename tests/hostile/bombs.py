"""M4: archives that grow."""

import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib

from hostile.archives import REFUSED, info, tar_of
from hostile.case import add, file_of, zip_of

GROWS = r"unpacks to more|overlaps|more than|archive|larger|path inside|algorithm\.yaml"
for key, size in (("48kb-to-50mb", 50 << 20), ("one-to-1000", 200 << 20)):
    add("bomb", f"zip-{key}", lambda f, s, n=size: zip_of(
        f / "m.zip", [("model.onnx", b"\0" * n)], zipfile.ZIP_DEFLATED), GROWS)  # fmt: skip
    for suffix in ("gz", "xz", "bz2"):
        add("bomb", f"tar-{suffix}-{key}", lambda f, s, n=size, x=suffix: tar_of(
            f / f"m.tar.{x}", [(info("model.onnx"), b"\0" * n)], f"w:{x}"), GROWS)  # fmt: skip


def nested(folder, depth=6):
    data = zlib.compress(b"\0" * (1 << 20))
    for level in range(depth):
        kept = io.BytesIO()
        with zipfile.ZipFile(kept, "w", zipfile.ZIP_DEFLATED) as archive:
            for copy in range(10):
                archive.writestr(f"{level}-{copy}.zip", data)
        data = kept.getvalue()
    (folder / "m.zip").write_bytes(data)
    return folder / "m.zip"


def directory(entries, *, body=b"", count=None, size=None):
    """A zip by hand: local part, then a central directory of (name, offset, packed, unpacked)."""
    found = b"".join(
        struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 8 if packed else 0, 0, 0, 0, packed, unpacked,
                    len(name), 0, 0, 0, 0, 0, offset) + name
        for name, offset, packed, unpacked in entries
    )  # fmt: skip
    amount = min(len(entries), 0xFFFF) if count is None else count
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, amount, amount,
                      len(found) if size is None else size, len(body), 0)  # fmt: skip
    return body + found + end


def overlapping(shot):
    """Fifield's: one kernel of zeros that many entries share."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    kernel = packer.compress(b"\0" * (10 << 20)) + packer.flush()
    local = (
        struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 8, 0, 0, 0, len(kernel), 10 << 20, 1, 0) + b"a"
    )
    return directory(
        [(b"%04d" % i, 0, len(kernel), 10 << 20) for i in range(500)], body=local + kernel
    )


add("bomb", "zip-in-zip", lambda f, s: nested(f), r"zip|nothing that is taken|config")
add("bomb", "overlapping", file_of("m.zip", overlapping), GROWS)
add("bomb", "million-entries", file_of("m.zip", lambda s: directory(
    [(b"%07d" % i, 0, 0, 0) for i in range(1_000_000)])), GROWS)  # fmt: skip
add("bomb", "million-entries-denied", file_of("m.zip", lambda s: directory(
    [(b"%07d" % i, 0, 0, 0) for i in range(300_000)], count=1)), GROWS)  # fmt: skip
add("bomb", "million-entries-as-pt", file_of("m.pt", lambda s: directory(
    [(b"a/%06d" % i, 0, 0, 0) for i in range(500_000)])), GROWS)  # fmt: skip
add("bomb", "million-entries-as-pt2", file_of("m.pt2", lambda s: directory(
    [(b"m/data/weights/weight_%06d" % i, 0, 0, 0) for i in range(500_000)])), GROWS)  # fmt: skip
add("bomb", "million-entries-as-skops", file_of("m.skops", lambda s: directory(
    [(b"%06d.npy" % i, 0, 0, 0) for i in range(500_000)])), GROWS)  # fmt: skip
add(
    "bomb",
    "directory-beyond-the-file",
    file_of("m.zip", lambda s: directory([], size=1 << 30)),
    GROWS,
)
add("bomb", "million-entries-tar", lambda f, s: gzip_of(
    f, info("a").tobuf() * 200_000), GROWS)  # fmt: skip
add(
    "bomb",
    "gzip-junk-tail",
    lambda f, s: gzip_of(f, tar_bytes(), b"junk" * 100_000),
    REFUSED + "|algorithm",
)
add(
    "bomb",
    "gzip-zero-tail",
    lambda f, s: gzip_of(f, tar_bytes() + b"\0" * (100 << 20)),
    REFUSED + "|algorithm",
)
add("bomb", "gzip-members", lambda f, s: gzip_of(
    f, b"", gzip.compress(b"\0" * (1 << 20)) * 60), REFUSED + "|empty")  # fmt: skip
add(
    "bomb",
    "xz-of-zeros",
    file_of("m.tar.xz", lambda s: lzma.compress(b"\0" * (100 << 20), preset=0)),
    GROWS,
)
add("bomb", "xz-large-dictionary", file_of("m.tar.xz", lambda s: lzma.compress(
    tar_bytes(), filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1536 << 20, "mode": lzma.MODE_FAST,
                           "mf": lzma.MF_HC3, "nice_len": 4, "depth": 1}])[:0] or xz_header()), GROWS)  # fmt: skip
add("bomb", "long-name-tar", lambda f, s: gzip_of(f, long_name(60 << 20)), GROWS)
add("bomb", "pax-header-tar", lambda f, s: gzip_of(f, long_name(60 << 20, b"x")), GROWS)
add("bomb", "pt-of-zeros", lambda f, s: zip_of(
    f / "m.pt", [("archive/data.pkl", b"N" * (50 << 20)), ("archive/version", b"3")],
    zipfile.ZIP_DEFLATED), r"m\.pt|pickle")  # fmt: skip


def xz_header():
    """An .xz whose filter asks for a dictionary of 1.5 GB."""
    data = bytearray(lzma.compress(tar_bytes(), preset=0))
    size = (data[12] + 1) * 4
    data[16] = 0x27  # the dictionary's size, as a code
    data[12 + size - 4 : 12 + size] = struct.pack("<I", zlib.crc32(bytes(data[12 : 12 + size - 4])))
    return bytes(data)


def tar_bytes():
    kept = io.BytesIO()
    with tarfile.open(fileobj=kept, mode="w") as archive:
        archive.addfile(info("algorithm.yaml", size=8), io.BytesIO(b"name: x\n"))
    return kept.getvalue()


def long_name(size, kind=b"L"):
    header = info("long", kind, size=size).tobuf(tarfile.GNU_FORMAT)
    return header + b"a" * size + info("x").tobuf()


def gzip_of(folder, data, tail=b""):
    (folder / "m.tar.gz").write_bytes(gzip.compress(data, 6) + tail)
    return folder / "m.tar.gz"


add(
    "zip",
    "empty-name",
    file_of("m.zip", lambda s: directory([(b"", 0, 0, 0)])),
    "archive|path inside",
)
