"""M3: archives that leave their folder, by name, by kind or by two readers' opinions."""

import io
import os
import random
import tarfile
import zipfile

from hostile.case import add, file_of, zip_of

ODD = {
    "parent": "../x.txt", "deep-parent": "a/../../x.txt", "absolute": "/tmp/x.txt", "dot": "./../x.txt",
    "backslash": "..\\x.txt", "backslash-inside": "a\\..\\..\\x.txt", "drive": "C:\\x.txt",
    "nul": "x\0.txt", "nul-before-parent": "ok\0/../../x.txt", "double-slash": "a//x.txt",
    "unicode-dots": "\u2024\u2024\u2044x\u202e.txt", "fullwidth-dots": "．．\u200b/x.txt",
    "newline": "a\nb.txt", "escape": "a\x1b[2Jb.txt", "long": "x" * 4097, "long-part": "a/" * 2048 + "x",
    "only-dots": "..", "only-dot": ".", "trailing-parent": "a/..", "tilde-and-parent": "~/../x",
}  # fmt: skip
REFUSED = r"path inside|regular file|archive|holds|encrypted|twice|algorithm\.yaml"


def tar_of(path, members, mode):
    with tarfile.open(path, mode, format=tarfile.PAX_FORMAT) as archive:
        for member in members:
            info, data = member if isinstance(member, tuple) else (member, b"")
            info.size = len(data) if data else info.size
            archive.addfile(info, io.BytesIO(data) if data else None)
    return path


def info(name, kind=tarfile.REGTYPE, **about):
    found = tarfile.TarInfo(name)
    found.type = kind
    for key, value in about.items():
        setattr(found, key, value)
    return found


FIRST = (info("algorithm.yaml"), b"name: x\n")
for key, name in ODD.items():
    add("zip", key, lambda f, s, n=name: odd_zip(f, n), REFUSED)
    add(
        "tar", key, lambda f, s, n=name: tar_of(f / "m.tar", [FIRST, (info(n), b"x")], "w"), REFUSED
    )
SUFFIXES = {"tar": "w", "tar.gz": "w:gz", "tar.xz": "w:xz", "tar.bz2": "w:bz2"}
KINDS = {
    "symlink": info("a", tarfile.SYMTYPE, linkname="/etc/passwd"),
    "symlink-to-parent": info("a", tarfile.SYMTYPE, linkname=".."),
    "hardlink": info("a", tarfile.LNKTYPE, linkname="algorithm.yaml"),
    "hardlink-outside": info("a", tarfile.LNKTYPE, linkname="../../../etc/passwd"),
    "character-device": info("a", tarfile.CHRTYPE, devmajor=1, devminor=5),
    "block-device": info("a", tarfile.BLKTYPE, devmajor=8),
    "fifo": info("a", tarfile.FIFOTYPE),
    "sparse": info("a", tarfile.GNUTYPE_SPARSE, size=0),
    "contiguous": info("a", tarfile.CONTTYPE),
    "unknown-kind": info("a", b"Z"),
}
for key, member in KINDS.items():
    for suffix, mode in (
        SUFFIXES.items() if key == "symlink" else [("tar", "w"), ("tar.gz", "w:gz")]
    ):
        add("tar-kind", f"{key}-{suffix}",
            lambda f, s, m=member, x=suffix, o=mode: tar_of(f / f"m.{x}", [FIRST, m], o), REFUSED)  # fmt: skip
add("tar-kind", "link-then-through-it", lambda f, s: tar_of(f / "m.tar", [
    info("a", tarfile.SYMTYPE, linkname=str(f)), (info("a/x.txt"), b"x")], "w"), REFUSED)  # fmt: skip
add("tar-kind", "setuid", lambda f, s: tar_of(
    f / "m.tar", [FIRST, (info("run.sh", mode=0o6755), b"#!/bin/sh")], "w"), r"run\.sh|algorithm")  # fmt: skip
add("tar-kind", "twice", lambda f, s: tar_of(f / "m.tar", [FIRST, FIRST], "w"), "twice")
add("tar-kind", "twice-in-another-case", lambda f, s: tar_of(
    f / "m.tar", [FIRST, (info("Algorithm.YAML"), b"x")], "w"), "twice")  # fmt: skip
add("tar-kind", "twice-by-a-dot", lambda f, s: tar_of(
    f / "m.tar", [FIRST, (info("./algorithm.yaml"), b"x")], "w"), "twice")  # fmt: skip
add("tar-kind", "file-then-folder", lambda f, s: tar_of(
    f / "m.tar", [(info("a"), b"x"), (info("a/b"), b"x")], "w"), "archive")  # fmt: skip
add("tar-kind", "folder-then-file", lambda f, s: tar_of(
    f / "m.tar", [(info("a/b"), b"x"), (info("a"), b"x")], "w"), "archive")  # fmt: skip
add("tar-kind", "pax-path", lambda f, s: tar_of(
    f / "m.tar", [(info("x", pax_headers={"path": "../../x"}), b"x")], "w"), REFUSED)  # fmt: skip
add("tar-kind", "pax-size", lambda f, s: tar_of(
    f / "m.tar", [(info("x", pax_headers={"size": str(1 << 62)}), b"x")], "w"), REFUSED)  # fmt: skip
add("tar-kind", "pax-sparse", lambda f, s: tar_of(f / "m.tar", [(info("x", pax_headers={
    "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "y",
    "GNU.sparse.realsize": str(1 << 40)}), b"1\n0\n1\n".ljust(512, b"\0"))], "w"), REFUSED)  # fmt: skip
add("tar-kind", "sparse-old", lambda f, s: sparse(f), REFUSED)


def odd_zip(folder, name):
    """zipfile mends names when it writes; so the name is put in afterwards."""
    fake = "q" * len(name.encode())
    path = zip_of(folder / "m.zip", [("algorithm.yaml", b"name: x\n"), (fake, b"x")])
    path.write_bytes(path.read_bytes().replace(fake.encode(), name.encode()))
    return path


def typed_zip(kind):
    def make(folder, shot):
        path = folder / "m.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("algorithm.yaml", "name: x\n")
            entry = zipfile.ZipInfo("a")
            entry.create_system = 3
            entry.external_attr = (kind | 0o6777) << 16
            archive.writestr(entry, "/etc/passwd")
        return path

    return make


for key, kind in {"symlink": 0o120000, "fifo": 0o010000, "device": 0o020000, "block": 0o060000,
                  "socket": 0o140000, "folder-by-mode": 0o040000}.items():  # fmt: skip
    add("zip-kind", key, typed_zip(kind), REFUSED)
add("zip-kind", "twice", lambda f, s: zip_of(f / "m.zip", [("a", b"1"), ("a", b"2")]), "twice")
add(
    "zip-kind",
    "twice-in-another-case",
    lambda f, s: zip_of(f / "m.zip", [("a", b"1"), ("A", b"2")]),
    "twice",
)
add(
    "zip-kind",
    "file-then-folder",
    lambda f, s: zip_of(f / "m.zip", [("a", b"1"), ("a/b", b"2")]),
    "archive",
)
add("zip-kind", "encrypted", lambda f, s: patched_zip(f, 8, b"\1"), "encrypted")
add("zip-kind", "unknown-compression", lambda f, s: patched_zip(f, 10, b"\x63"), "archive")
add("zip-kind", "bad-crc", lambda f, s: patched_zip(f, 16, b"\xde\xad\xbe\xef"), "archive")
add("zip-kind", "size-lies-small", lambda f, s: patched_zip(f, 24, b"\x01\0\0\0"), "archive")
add("zip-kind", "truncated", lambda f, s: cut(zip_of(f / "m.zip", [("a", b"1" * 500)])), "archive")
add("zip-kind", "junk", file_of("m.zip", b"PK\5\6" + b"\xff" * 18), "archive")
add("zip-kind", "empty", lambda f, s: zip_of(f / "m.zip", []), "archive|Nothing")
add("zip-kind", "nothing", file_of("m.zip", b""), "archive")
add(
    "zip-kind",
    "folders-only",
    lambda f, s: zip_of(f / "m.zip", [("a/", b""), ("b/", b"")]),
    "empty",
)


def patched_zip(folder, at, data):
    path = zip_of(folder / "m.zip", [("a", b"1" * 500)])
    found = bytearray(path.read_bytes())
    place = found.find(b"PK\1\2") + at
    found[place : place + len(data)] = data
    path.write_bytes(found)
    return path


def cut(path):
    path.write_bytes(path.read_bytes()[:-30])
    return path


def sparse(folder):
    header = bytearray(info("a", tarfile.GNUTYPE_SPARSE, size=512).tobuf(tarfile.GNU_FORMAT))
    header[386:398] = b"00000000000\0"
    header[398:410] = b"00000001000\0"
    header[483:495] = b"77777777777\0"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (folder / "m.tar").write_bytes(bytes(header) + b"x" * 512 + b"\0" * 1024)
    return folder / "m.tar"


PARTS = (
    "a",
    "b",
    "..",
    ".",
    "",
    "A",
    "x" * 150,
    "．．",
    "\u202e",
    "con",
    "a\\b",
    "\0",
    "~",
    "ü",
    "u\u0308",
)


def random_archive(folder, seed):
    """An archive of a few members of any kind and name; mostly harmless, so that files come out."""
    chance = random.Random(seed)
    suffix = chance.choice(["zip", "tar", "tar.gz", "tar.xz"])
    path = folder / f"m.{suffix}"

    def name():
        if chance.random() < 0.7:
            return "/".join(
                chance.choice("abcdef") * chance.randint(1, 9) for _ in range(chance.randint(1, 3))
            )
        parts = [chance.choice(PARTS) for _ in range(chance.randint(1, 5))]
        return chance.choice(["", "", "/", "./"]) + "/".join(parts)

    if suffix == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for _ in range(chance.randint(0, 5)):
                entry = zipfile.ZipInfo("q")
                entry.filename = entry.orig_filename = name() or "q"
                entry.create_system = 3
                mode = chance.choice([0, 0, 0, 0o100644, 0o104755, 0o120777, 0o010644, 0o040755])
                entry.external_attr = mode << 16
                archive.writestr(entry, os.urandom(chance.randint(0, 50)))
    else:
        members = []
        for _ in range(chance.randint(0, 5)):
            kind = chance.choice([tarfile.REGTYPE] * 8 + [tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE,
                                 tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.CONTTYPE, b"7", b"\0"])  # fmt: skip
            members.append(info(name(), kind, linkname=chance.choice(["/etc/passwd", "..", "a", "../x"]),
                                mode=chance.choice([0o644, 0o6755, 0o777])))  # fmt: skip
        tar_of(path, members, SUFFIXES[suffix])
    data = bytearray(path.read_bytes())
    if data and chance.random() < 0.3:  # and a few broken bytes
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(data[: chance.choice([len(data), chance.randrange(len(data))])])
    return path
