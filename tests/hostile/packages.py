"""Packages: folders with an algorithm.yaml that is not what it seems."""

import os

from hostile.case import add, folder_of
from hostile.graphs import model, same
from hostile.mlflow_folders import LAUGHS, WEIGHTS
from hostile.opcodes import call, whole
from hostile.tensors import MANIFEST


def payload(shot):
    return whole(call("os:system", shot.shell))


def onnx(shot):
    return model([same()]).SerializeToString()


def package(name, manifest=MANIFEST, files=(), says="algorithm.yaml"):
    found = {"algorithm.yaml": manifest, "model.onnx": onnx, **dict(files)}
    add("package", name, folder_of({k: v for k, v in found.items() if v is not None}), says)


for tag, text in {
    "apply": "!!python/object/apply:os.system ['touch x']", "name": "!!python/name:os.system",
    "module": "!!python/module:os", "new": "!!python/object/new:os.system [x]",
    "object": "!!python/object:subprocess.Popen {}", "tuple": "!!python/tuple [a]", "own": "!evil x",
}.items():  # fmt: skip
    package(f"yaml-tag-{tag}", MANIFEST + f"description: {text}\n")
package("yaml-bomb", LAUGHS + MANIFEST)
package("yaml-alias", MANIFEST.replace("zh: 试", "zh: &a 试").replace("en: Try", "en: *a"))
package("yaml-deep", MANIFEST + "description: " + "[" * 20_000)
package("yaml-large", MANIFEST + "description: [" + "a, " * 300_000 + "]")
package("yaml-huge", MANIFEST + "#" * 20_000_000)
package("yaml-not-text", b"\xff\xfe\0")
package("yaml-a-list", "[1, 2]")
package("yaml-long-number", MANIFEST + "max_batch: " + "9" * 100_000)
package("yaml-odd-key", "? [a, b]\n: c\n" + MANIFEST)
package("yaml-two-documents", MANIFEST + "---\nname: x\n")
package("unknown-field", MANIFEST + "loader_module: evil\n")
package("no-licence", MANIFEST.replace("licence: Apache-2.0\n", ""), says="licence")
package("no-owner", MANIFEST.replace("owner: traffic\n", ""), says="owner")
package("empty-licence", MANIFEST.replace("Apache-2.0", "''"), says="licence")
package("owner-with-a-path", MANIFEST.replace("owner: traffic", "owner: ../traffic"), says="owner")
package("name-with-a-path", MANIFEST.replace("try-me", "../try-me"), says="name")
package("name-with-a-shell", MANIFEST.replace("try-me", "'x; touch y'"), says="name")
for place in (
    "../x",
    "/etc/passwd",
    "a/../../x",
    "model.onnx/../../x",
    "..",
    "'a\\b'",
    '"a\\0b"',
    "''",
):
    package(f"weights-at-{place.strip('/.').replace('/', '-')}-{len(place)}",
            MANIFEST.replace("model.onnx", place), says="path inside")  # fmt: skip
package("weights-absent", MANIFEST.replace("model.onnx", "other.onnx"), says=r"other\.onnx")
package(
    "weights-a-folder",
    MANIFEST.replace("model.onnx", "inside"),
    {"inside/a.txt": "x"},
    r"inside|onnx",
)
package(
    "weights-the-manifest",
    MANIFEST.replace("model.onnx", "algorithm.yaml"),
    says=r"algorithm\.yaml",
)
package("runtime-unknown", MANIFEST.replace("runtime: onnx", "runtime: pickle"), says="pickle")
package(
    "runtime-of-python", MANIFEST.replace("runtime: onnx", "runtime: os.system"), says="runtime"
)
package("task-unknown", MANIFEST.replace("task: tensor", "task: evil"), says="evil")
package("recipe-unknown", MANIFEST.replace("runtime: onnx", "runtime: torch").replace(
    "model.onnx", "model.safetensors") + "lineage: {recipe: os}\n",
    {"model.onnx": None, "model.safetensors": WEIGHTS}, "recipe")  # fmt: skip
package(
    "options-lie",
    MANIFEST.replace("[-1, 4]", "[-1, 400000000000]"),
    says="algorithm|tensor|option|input|memory",
)
package(
    "options-negative",
    MANIFEST.replace("[-1, 4]", "[-1, -400]"),
    says="algorithm|tensor|option|input|memory",
)
package("weights-junk", files={"model.onnx": b"\xff" * 100}, says=r"model\.onnx")
package("weights-a-pickle", files={"model.onnx": payload}, says=r"model\.onnx")
package("weights-pt", MANIFEST.replace("model.onnx", "model.pt"), {"model.onnx": None, "model.pt": payload},
        r"model\.pt")  # fmt: skip
package("weights-skops", MANIFEST.replace("model.onnx", "m.skops"), {"model.onnx": None, "m.skops": payload},
        r"m\.skops")  # fmt: skip
package(
    "weights-pt2",
    MANIFEST.replace("model.onnx", "m.pt2"),
    {"model.onnx": None, "m.pt2": payload},
    r"m\.pt2",
)
for extra in ("evil.py", "evil.so", "evil.sh", "evil.pyc", "evil.pkl", "evil.npy", "evil.exe", "evil.whl",
              "evil.html", "evil.svg", "evil.js", "evil.pth", "deep/evil.bin", "deep/a/evil.dll", "evil.pt2",
              "evil.skops", "evil.zip", "evil.tar", "evil.PY", "evil.md.py", ".evil.so", "evil.onnx.data"):  # fmt: skip
    package(f"extra-{extra.replace('/', '-')}", files={extra: payload}, says="evil")
for name in (".git/hooks/post-checkout", "__pycache__/x.cpython-311.pyc", "sitecustomize.py", ".env", "Dockerfile",
             "Makefile", "conftest.py", "setup.py"):  # fmt: skip
    package(f"extra-{name.replace('/', '-')}", files={name: payload}, says=name.rpartition("/")[2])
package("graph-called-text", files={"other.onnx": b"\xff"}, says=r"other\.onnx")
package("tensors-lie", files={"other.safetensors": b"\xff" * 20}, says=r"other\.safetensors")


def linked(kind):
    def make(folder, shot):
        root = folder_of({"algorithm.yaml": MANIFEST, "notes.txt": "x"})(folder, shot)
        (folder / "secret").write_bytes(onnx(shot))
        if kind == "symbolic":
            (root / "model.onnx").symlink_to(folder / "secret")
        elif kind == "hard":
            os.link(folder / "secret", root / "model.onnx")
        elif kind == "fifo":
            os.mkfifo(root / "model.onnx")
        elif kind == "device":
            (root / "model.onnx").symlink_to("/dev/zero")
        elif kind == "dangling":
            (root / "model.onnx").symlink_to("nowhere")
        elif kind == "circle":
            (root / "model.onnx").symlink_to("model.onnx")
        return root

    return make


for kind in ("symbolic", "hard", "fifo", "device", "dangling", "circle"):
    add("package", f"weights-link-{kind}", linked(kind), r"model\.onnx")


def manifest_link(folder, shot):
    root = folder_of({"model.onnx": onnx})(folder, shot)
    (folder / "secret").write_text(MANIFEST)
    (root / "algorithm.yaml").symlink_to(folder / "secret")
    return root


def whole_link(folder, shot):
    folder_of({"algorithm.yaml": MANIFEST, "model.onnx": onnx}, name="real")(folder, shot)
    (folder / "handed-in").symlink_to(folder / "real")
    return folder / "handed-in"


def file_link(folder, shot):
    (folder / "secret").write_bytes(onnx(shot))
    (folder / "model.onnx").symlink_to(folder / "secret")
    return folder / "model.onnx"


def pipe(folder, shot):
    os.mkfifo(folder / "model.onnx")
    return folder / "model.onnx"


def many(count, deep=False):
    def make(folder, shot):
        root = folder_of({"algorithm.yaml": MANIFEST, "model.onnx": onnx})(folder, shot)
        inside = root
        for number in range(count):
            if deep:
                inside = inside / "d"
                inside.mkdir()
            else:
                (root / f"{number}.txt").touch()
        return root

    return make


add("package", "manifest-link", manifest_link, r"algorithm\.yaml")
add("package", "whole-link", whole_link, "link|regular")
add("package", "file-link", file_link, r"model\.onnx")
add("package", "file-pipe", pipe, r"model\.onnx")
add("package", "files-10000", many(10_000), "more than")
add("package", "folders-600-deep", many(600, deep=True), "deep|more than|path")
add("package", "nothing-there", lambda f, s: f / "nowhere", "nowhere|not there|no such")
add("package", "empty-folder", folder_of({}), "Nothing")
