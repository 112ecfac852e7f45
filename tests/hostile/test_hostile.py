"""Admission refuses every hostile file and folder, quickly, in little memory, and runs none (M1-M7)."""

import json
import os
import re
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from citybrain.core.errors import CityBrainError
from citybrain.registry.admission import admit as admission
from citybrain.registry.admission.archive import extract
from citybrain.registry.sandbox import Isolation, Limits, isolation, run_isolated
from hostile import graphs, tensors
from hostile.archives import random_archive
from hostile.case import Shot, folder_of
from hostile.cases import CASES

HERE = Path(__file__).resolve().parents[1]
BEST, REASON = isolation()
CARD = {"name": "try-me", "owner": "traffic", "licence": "Apache-2.0", "domain": "traffic"}
LIMITS = Limits(seconds=30, memory=2 << 30)
SECONDS = 2
"""Of processors, in each sandbox: by the clock it is the machine that is measured, which may be busy."""
PATIENCE = 60
"""By the clock, from a file to its refusal; the table shows what it was."""
GROWTH = 100 << 20
UNCLEAR = re.compile(
    r"Traceback|It cannot be read: \w+|without an answer|/site-packages|\.py\b.*line"
)
FULL = bool(os.environ.get("TRUST_FULL"))
STRIDE = 16
CHOSEN = CASES if FULL else CASES[int(os.environ.get("HOSTILE_SEED", "0")) % STRIDE :: STRIDE]
"""`make trust` hands all of them in, `make test` every sixteenth."""
PICKLES = [case for case in CASES if case.family.startswith("pickle")]
took: dict[str, tuple[float, float, int]] = {}


@pytest.fixture(scope="module", autouse=True)
def table(request):
    """Print what the slowest cases and the largest took when all are done."""
    yield
    shown = {
        name: took[name]
        for kind, count in ((0, 10), (1, 10), (2, 3))
        for name in sorted(took, key=lambda name: -took[name][kind])[:count]
    }
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n{len(took)} hostile cases; those that took most processor, clock or memory:")
        for name, (seconds, clock, memory) in shown.items():
            print(f"  {seconds:5.2f} s of {clock:5.2f} s {memory >> 20:5d} MB  {name}")


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """Bytes that a step takes that does nothing."""
    if BEST is Isolation.none:
        return 0
    work = tmp_path_factory.mktemp("empty")
    told = {"of": "hostile.measured:nothing", "markers": []}
    run_isolated("hostile.measured:step", work, told, library=HERE)
    return json.loads((work / "used.json").read_text())["memory"]


def look(folder):
    """Everything below a folder: names, kinds, sizes, times, links."""
    found = {}
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            at = os.lstat(os.path.join(root, name))
            found[os.path.join(root, name)] = (at.st_mode, at.st_size, at.st_mtime_ns, at.st_ino)
    return found


def refuse(case, tmp_path, monkeypatch, how, empty=0):
    """Hand one case in; assert all that is asked of a refusal."""
    handed, work, beside = (tmp_path / name for name in ("handed-in", "work", "beside"))
    for folder in (handed, work, beside):
        folder.mkdir()
    mark = f"hostile-{os.getpid()}-{len(took)}"
    outside = (str(beside / mark), f"/tmp/{mark}", str(tmp_path / mark))
    shot = Shot((*outside, f"/job/{mark}", f"/job/in/{mark}", f"/job/out/{mark}"))
    source = case.make(handed, shot)
    steps = []

    def measured(step, work, request, **options):
        steps.append(work)
        told = {**request, "of": step, "markers": list(shot.markers)}
        return run_isolated("hostile.measured:step", work, told, library=HERE, **options)

    monkeypatch.setattr(admission, "run_isolated", measured)
    before = {**look(handed), **look(beside)}
    begin = time.monotonic()
    with pytest.raises(CityBrainError) as refused:
        admission.admit(source, work, {**CARD, **case.card}, LIMITS, how=how)
    clock = time.monotonic() - begin
    used = [json.loads((s / "used.json").read_text()) for s in steps if (s / "used.json").exists()]
    memory = max((one["memory"] for one in used), default=empty) - empty
    seconds = max((one["seconds"] for one in used), default=0.0)
    took[f"{case} ({how})"] = (seconds, clock, memory)
    message = refused.value.message
    assert message.strip() and re.search(case.says, message, re.IGNORECASE), message
    assert not UNCLEAR.search(message), message
    for place in (str(tmp_path), str(HERE), sys.prefix, "/job/"):
        assert place not in str(refused.value), message
    assert [one["markers"] for one in used if one["markers"]] == []
    assert not [path for path in look(tmp_path) if mark in path]
    assert not [path for path in outside if os.path.lexists(path)]
    assert {**look(handed), **look(beside)} == before
    assert seconds < SECONDS
    assert clock < PATIENCE
    if how is not Isolation.none:
        assert len(used) == len(steps), "a step died instead of answering"
        assert memory < GROWTH


@pytest.mark.skipif(BEST is Isolation.none, reason=f"no namespaces here: {REASON}")
@pytest.mark.parametrize("case", CHOSEN, ids=str)
def test_it_is_refused(case, tmp_path, monkeypatch, empty):
    refuse(case, tmp_path, monkeypatch, BEST, empty)


def harmless_graph():
    """A loop of known length and a function, which real exporters write."""
    steps = [graphs.own("F", "x", "a"), graphs.loop("n", start="a")]
    inside = [graphs.function("F", [graphs.same()])]
    return graphs.model(steps, [graphs.constant("n", 10)], inside).SerializeToString()


@pytest.mark.parametrize("kind", ["folder", "zip", "tar.gz", "onnx"])
def test_harmless_twins_are_admitted(kind, tmp_path):
    files = {"algorithm.yaml": tensors.MANIFEST, "model.onnx": harmless_graph(), "LICENSE": "x"}
    source = folder_of(files)(tmp_path, None)
    if kind == "onnx":
        source = source / "model.onnx"
    elif kind != "folder":
        kinds = {"zip": "zip", "tar.gz": "gztar"}
        source = Path(shutil.make_archive(str(tmp_path / "m"), kinds[kind], source))
    (tmp_path / "work").mkdir()
    found = admission.admit(source, tmp_path / "work", dict(CARD), LIMITS)
    assert found.report["examined"]["graph"]["operators"]


@pytest.mark.parametrize("case", PICKLES if FULL else PICKLES[:: 2 * STRIDE], ids=str)
def test_pickles_are_refused_without_namespaces_too(case, tmp_path, monkeypatch):
    case = replace(case, says=f"{case.says}|gives no namespaces")
    refuse(case, tmp_path, monkeypatch, Isolation.none)


def test_there_are_enough_cases():
    assert len(CHOSEN) >= 45
    assert len(CASES) >= 600


def test_random_archives_leave_only_regular_files_inside(tmp_path):
    seed = int(os.environ.get("HOSTILE_SEED", "1"))
    outcomes = {"written": 0, "refused": 0}
    for number in range(2000 if FULL else 200):
        folder = tmp_path / str(number)
        folder.mkdir()
        source = random_archive(folder, f"{seed}/{number}")
        before = set(look(tmp_path))
        try:
            extract(source, folder / "out")
            outcomes["written"] += 1
        except CityBrainError as error:
            assert error.message
            outcomes["refused"] += 1
        made = [Path(path) for path in set(look(tmp_path)) - before]
        assert all(path.is_relative_to(folder / "out") for path in made), number
        assert all(path.is_dir() or path.is_file() for path in made)
        assert not any(path.is_symlink() for path in made)
        assert all(path.stat().st_nlink == 1 for path in made if path.is_file())
        assert not any(path.stat().st_mode & 0o6111 for path in made if path.is_file())
        shutil.rmtree(folder)
    assert min(outcomes.values()) > 20, outcomes
