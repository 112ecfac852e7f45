"""The sandbox holds: what a hostile step tries, it does not get (check M10)."""

import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from support import wait_for

from citybrain.core.errors import BadPackage, SandboxFailed, TooLarge
from citybrain.registry.sandbox import Isolation, Limits, isolation, run_isolated

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BEST, REASON = isolation()
WAYS = [Isolation.user] + [Isolation.own_user] * (os.getuid() == 0)
pytestmark = pytest.mark.skipif(BEST is Isolation.none, reason=f"no namespaces here: {REASON}")


@pytest.fixture(params=WAYS)
def step(request, tmp_path):
    def run(name, told=None, library=HERE, **limits):
        return run_isolated(
            f"support_hostile_steps:{name}", tmp_path, told or {}, how=request.param,
            limits=Limits(**{"seconds": 20, **limits}), library=Path(library),
        )  # fmt: skip

    run.work = tmp_path
    return run


def test_a_step_answers_and_leaves_files(step):
    found = step("answer_back", {"n": 1})
    assert found["request"] == {"n": 1, "isolated": True}
    assert found["pid"] < 10, "it has process numbers of its own"
    made = step.work / "out" / "made.txt"
    assert made.read_text() == "made"
    assert made.stat().st_uid == os.getuid()


def test_libraries_behind_a_link_are_found(step, tmp_path_factory):
    link = tmp_path_factory.mktemp("linked") / "library"
    link.symlink_to(HERE)
    assert step("answer_back", {"n": 1}, library=link)["request"]["n"] == 1


def test_nothing_outside_can_be_read_written_reached_or_signalled(
    step, tmp_path_factory, monkeypatch
):
    monkeypatch.setenv("CITYBRAIN_SECRET_OF_A_TEST", "x")
    outside = tmp_path_factory.mktemp("outside")
    secret = outside / "pepper"
    secret.write_text("secret")
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        local.bind(str(outside / "s"))
        local.listen()
        told = {
            "secret": str(secret), "port": server.getsockname()[1], "process": os.getpid(),
            "socket": str(outside / "s"),
        }  # fmt: skip
        assert step("look_around", told)["reached"] == []
    assert secret.read_text() == "secret"


def test_a_fork_bomb_stops_at_its_limit_and_ends_with_the_step(step):
    if step("answer_back")["uid"] == 0 and os.getuid() == 0:
        pytest.skip("the kernel counts no processes of the real root; another user is used for it")
    assert step("fork_bomb", processes=200, seconds=90)["children"] < 200
    step("leave_children")
    time.sleep(0.3)
    alive = (step.work / "alive").read_text()
    time.sleep(0.3)
    assert (step.work / "alive").read_text() == alive, "a child outlived the step"


@pytest.mark.skipif(os.getuid() != 0, reason="a user of its own for each sandbox needs root")
def test_a_fork_bomb_takes_no_processes_from_a_sandbox_beside_it(tmp_path):
    """The kernel counts a user's processes, whichever sandbox they are in."""
    bomb, honest = tmp_path / "bomb", tmp_path / "honest"
    for work in (bomb, honest):
        work.mkdir()

    def run(name, work, told, processes):
        return run_isolated(
            f"support_hostile_steps:{name}", work, told, how=Isolation.own_user,
            limits=Limits(seconds=60, processes=processes), library=Path(HERE),
        )  # fmt: skip

    with ThreadPoolExecutor() as pool:
        held = pool.submit(run, "hold_bomb", bomb, {}, 100)
        wait_for((bomb / "bombed").exists)
        try:
            told = run("start_processes", honest, {"count": 20}, 60)
        finally:
            (bomb / "enough").touch()
        assert told["started"] == 20
        assert held.result()["uid"] != told["uid"]


@pytest.mark.parametrize(
    ("name", "limits", "says"),
    [
        ("sleep_for_ever", {"seconds": 1}, "longer than 1 seconds"),
        ("fill_disk", {"disk": 200 << 20}, "wrote more than 200 MB"),
        ("fill_memory", {"memory": 300 << 20}, "more than 300 MB of memory"),
    ],
)
def test_limits_end_the_job(step, name, limits, says):
    begin = time.monotonic()
    with pytest.raises(TooLarge, match=says):
        step(name, **limits)
    assert time.monotonic() - begin < 15
    time.sleep(0.2)
    children = [p for p in psutil.Process().children(recursive=True) if p.name() == "unshare"]
    assert children == []


def test_a_step_that_dies_says_so(step):
    with pytest.raises(SandboxFailed, match="something broke"):
        step("die")


@pytest.mark.parametrize("kind", ["link", "huge", "deep", "junk"])
def test_an_answer_is_not_believed(step, kind):
    with pytest.raises((SandboxFailed, BadPackage)):
        step("lie", {"kind": kind})


def test_links_that_it_leaves_are_not_followed(step):
    before = os.stat("/etc/shadow").st_uid
    step("links")
    assert os.stat("/etc/shadow").st_uid == before
    assert (step.work / "out" / "shadow").is_symlink()
