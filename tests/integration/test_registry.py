"""The registry's later life over a real home: environments, rollback, lineage, cards, endings."""

import hashlib
import json
import re
import shutil
from datetime import timedelta

import pytest
import yaml
from support_registry import World, manifest
from typer.testing import CliRunner

from citybrain.core.errors import (
    AlgorithmNotFound,
    BadPackage,
    Conflict,
    GateNotPassed,
    InvalidInput,
    NotAllowed,
    NotFound,
    PurposeNotServed,
    RowNotFound,
    SignatureWrong,
    VersionNotFound,
    VersionWithdrawn,
)
from citybrain.core.schemas import NewGrant, NewTraffic
from citybrain.models.package import MANIFEST, Manifest
from citybrain.platform.cli import lifecycle as commands
from citybrain.platform.cli.main import app as cli
from citybrain.platform.wiring import SYSTEM
from citybrain.registry.catalogue import SIGNED
from citybrain.registry.runs import DIGEST
from citybrain.storage.moments import now
from citybrain.storage.records.audit import entries

# An upload's own time-out is httpx's business; the test client has none.
pytestmark = pytest.mark.filterwarnings("ignore:You should not use the 'timeout' argument")
DATA = hashlib.sha256(b"speeds.csv").hexdigest()
EVIL = '"><script>alert(1)</script>'


@pytest.fixture
def world(tmp_path, fresh_home):
    shutil.copytree(fresh_home, tmp_path / "home")
    return World(tmp_path / "home")


@pytest.fixture
def three(world, tmp_path):
    """Three versions; each was champion in its turn."""
    for _ in range(3):
        version = world.register(tmp_path)
        world.examined(version)
        world.owner.promote("flow", version)
    return world


def mlflow_aliases(world):
    model = world.plane.catalogue.client.get_registered_model("flow")
    return {alias: int(version) for alias, version in model.aliases.items()}


# Environments


def test_a_version_goes_through_named_environments_with_its_lineage(world, tmp_path):
    lineage = {"recipe": "speeds", "data": "speeds.csv", "data_digest": DATA, "seed": 3}
    world.register(tmp_path, lineage=lineage)
    world.register(tmp_path)
    city = world.owner
    city.promote("flow", 1, alias="dev")
    city.promote("flow", alias="staging", source="dev")
    copied = city.promote("flow", alias="city", source="staging")
    assert (copied.version, copied.source) == (1, "staging")
    assert mlflow_aliases(world) == {"dev": 1, "staging": 1, "city": 1, "challenger": 2}
    assert city.version("flow", "city").lineage["data_digest"] == DATA
    reason = city.alias_history("flow")[0].reason
    assert reason == f"promotion {copied.id} from staging (self-approved)"
    with pytest.raises(VersionNotFound, match="no alias 'nowhere'"):
        city.promote("flow", alias="city", source="nowhere")
    with pytest.raises(InvalidInput):
        city.promote("flow", alias="city", source="city")
    with pytest.raises(InvalidInput):
        city.promote("flow", 1, alias="city", source="dev")


ODD = {
    "3": "version number", "v3": "reserved by MLflow", "latest": "reserved by MLflow",
    "retired": "citybrain retire", "Staging": "not a valid alias", "a b": "not a valid alias",
    "": "not a valid alias", "-x": "not a valid alias",
}  # fmt: skip


def test_a_reserved_or_odd_alias_is_refused(world, tmp_path):
    world.register(tmp_path)
    for alias, says in ODD.items():
        with pytest.raises(InvalidInput, match=says):
            world.owner.promote("flow", 1, alias=alias)
    world.plane.projection.project("flow")
    assert mlflow_aliases(world) == {"challenger": 1}


def test_an_alias_that_plain_mlflow_sets_on_its_own_is_put_back(world, tmp_path):
    world.register(tmp_path)
    world.register(tmp_path)
    world.owner.withdraw_version("flow", 1, "a mistake")
    client = world.plane.catalogue.client
    client.set_registered_model_alias("flow", "retired", "2")
    client.set_registered_model_alias("flow", "staging", "1")
    client.set_registered_model_alias("flow", "dev", "2")
    world.plane.projection.project("flow")
    assert mlflow_aliases(world) == {"challenger": 2, "dev": 2}


# Rollback


def test_rollback_is_one_command_and_leaves_a_line(three):
    city = three.owner
    assert city.roll_back("flow").version == 2
    assert city.roll_back("flow").version == 1
    with pytest.raises(VersionNotFound, match="no earlier version"):
        city.roll_back("flow")
    moves = [m for m in city.alias_history("flow") if m.alias == "champion"]
    assert [m.version for m in moves] == [1, 2, 3, 2, 1]
    assert [m.previous for m in moves] == [2, 3, 2, 1, 0]
    assert mlflow_aliases(three)["champion"] == 1


def test_rollback_after_going_back_and_forth_never_turns_in_circles(three):
    city = three.owner
    city.promote("flow", 1)  # 1 2 3 1
    assert [city.roll_back("flow").version for _ in range(3)] == [3, 2, 1]
    with pytest.raises(VersionNotFound):
        city.roll_back("flow")
    city.promote("flow", 3)
    assert city.roll_back("flow").version == 1


def test_rollback_passes_over_a_withdrawn_and_a_retired_version_and_says_so(three, tmp_path):
    city = three.owner
    city.withdraw_version("flow", 2, "trained on the wrong month")
    moved = city.roll_back("flow")
    assert (moved.version, moved.reason) == (1, "rollback from 3, past 2 (withdrawn)")
    city.promote("flow", 3)
    city.retire("flow", "2099-01-31", version=1)
    with pytest.raises(VersionNotFound, match=r"Closed: 1 \(retired\)\."):
        city.roll_back("flow")
    city.undo_retirement("flow", 1)
    assert city.roll_back("flow").version == 1
    with pytest.raises(InvalidInput):
        city.roll_back("flow", "retired")


# Promotions


def test_a_promotion_asked_before_a_retirement_is_refused_after_it(three):
    city, second = three.owner, three.client("traffic", "developer")
    city.set_approval("flow", "four-eyes")
    asked = city.promote("flow", 2)
    city.retire("flow", "2099-01-31", version=2)
    with pytest.raises(Conflict, match="flow@2 is retired") as refused:
        second.approve(asked.id)
    assert "--undo" in refused.value.hint
    assert city.algorithm("flow").algorithm.aliases["champion"] == 3


def test_another_departments_promotions_versions_and_logs_are_not_ones_own(three):
    city, stranger = three.owner, three.client("health", "developer")
    city.set_approval("flow", "four-eyes")
    asked = city.promote("flow", 2)
    three.plane.truths.deployments.want("flow", "champion", 1, SYSTEM)
    for act in (
        lambda: stranger.withdraw(asked.id),
        lambda: stranger.approve(asked.id),
        lambda: stranger.promotion_notice("flow", 2),
        lambda: stranger.evaluate("scenic-crowd", "flow", "2"),
        lambda: stranger.logs("flow"),
        lambda: stranger.undeploy("flow"),
        lambda: stranger.shadow("flow"),
    ):
        with pytest.raises((NotAllowed, NotFound)):  # what is another's is not found either
            act()
    assert city.promotion(asked.id).state == "waiting"
    assert city.withdraw(asked.id).state == "withdrawn"
    for act in (city.withdraw, city.approve):
        with pytest.raises(RowNotFound):
            act("nothing")


def test_an_old_promotion_is_approved_like_any_other_however_many_wait(three):
    """Its owner and its gate are looked at, too."""
    history = three.plane.truths.history
    asked = history.ask("flow", "champion", 2, "", SYSTEM)
    for number in range(200):
        history.ask("flow", f"alias-{number}", 2, "", SYSTEM)
    with pytest.raises(NotFound):
        three.client("health", "developer").approve(asked.id)
    assert three.owner.approve(asked.id).state == "done"


def test_a_dry_run_tells_who_called_and_changes_nothing(three, tmp_path):
    journal = tmp_path / "journal"
    journal.mkdir()
    three.calls(journal, "health", 3, 5)
    seen = three.owner.promotion_notice("flow", 2)
    assert (seen.version, seen.previous, seen.alias) == (2, 3, "champion")
    assert [(c.department, c.requests) for c in seen.callers] == [("health", 5)]
    assert three.owner.algorithm("flow").algorithm.aliases["champion"] == 3
    assert len(three.owner.promotions()) == 3
    three.register(tmp_path)
    with pytest.raises(GateNotPassed):
        three.owner.promotion_notice("flow", 4)


# Endings


def test_retiring_shows_callers_marks_the_version_and_can_be_undone(three, tmp_path):
    journal = tmp_path / "journal"
    journal.mkdir()
    three.calls(journal, "health", 2, 5)
    three.calls(journal, "tourism", 3, 2)
    city = three.owner
    assert [(c.department, c.key, c.requests) for c in city.callers("flow")] == [
        ("health", "key-health", 5), ("tourism", "key-tourism", 2),
    ]  # fmt: skip
    assert [c.department for c in city.callers("flow", 3)] == ["tourism"]
    sunset = f"{now() + timedelta(days=9):%Y-%m-%d}"
    done = city.retire("flow", sunset, version=2, replacement="flow@3")
    zone = three.plane.truths.settings.zone
    assert f"{done.sunset.astimezone(zone):%H:%M}" == "00:00", "the whole day is still served"
    assert f"{done.sunset.astimezone(zone) - timedelta(seconds=1):%Y-%m-%d}" == sunset
    assert mlflow_aliases(three)["retired"] == 2
    with pytest.raises(Conflict, match="retired already"):
        city.retire("flow", sunset, version=2)
    with pytest.raises(Conflict, match="retired"):
        city.promote("flow", 2, alias="staging")
    assert city.card("flow", "2").retirement.replacement == "flow@3"
    city.undo_retirement("flow", 2)
    assert "retired" not in mlflow_aliases(three)
    with pytest.raises(Conflict, match="not retired"):
        city.undo_retirement("flow", 2)
    acts = [entry.action for entry in entries(three.plane.truths.database)]
    assert {"algorithm.retire", "algorithm.unretire"} <= {*acts}


def test_a_wrong_retirement_is_refused(three, tmp_path):
    city = three.owner
    with pytest.raises(InvalidInput, match="in the past"):
        city.retire("flow", f"{now() - timedelta(days=2):%Y-%m-%d}")
    with pytest.raises(InvalidInput, match="not a date"):
        city.retire("flow", "soon")
    with pytest.raises(AlgorithmNotFound):
        city.retire("nothing", "2099-01-01")
    with pytest.raises(VersionNotFound):
        city.retire("flow", "2099-01-01", version=9)
    with pytest.raises(AlgorithmNotFound):
        city.retire("flow", "2099-01-01", replacement="nothing")
    for version, replacement in ((None, "flow"), (None, "flow@2"), (2, "flow@2")):
        with pytest.raises(InvalidInput, match="being retired"):
            city.retire("flow", "2099-01-01", version=version, replacement=replacement)
    city.retire("flow", "2099-01-01", version=1)
    with pytest.raises(InvalidInput, match="retired itself"):
        city.retire("flow", "2099-01-01", version=2, replacement="flow@1")
    stranger = three.client("health", "developer")
    caller = three.client("traffic", "department")
    for one, answer in ((stranger, AlgorithmNotFound), (caller, NotAllowed)):
        for act in (
            lambda one=one: one.retire("flow", "2099-01-01"),
            lambda one=one: one.undo_retirement("flow", 1),
            lambda one=one: one.withdraw_version("flow", 1, "a mistake"),
            lambda one=one: one.delete_version("flow", 1),
            lambda one=one: one.callers("flow"),
        ):
            with pytest.raises(answer) as refused:
                act()
            assert type(refused.value) is answer


def test_a_withdrawn_version_can_go_nowhere_and_a_deleted_one_is_gone(three, tmp_path):
    city, plane = three.owner, three.plane
    digests = {v.version: v.digest for v in city.algorithm("flow").versions}
    with pytest.raises(Conflict, match="is the champion") as refused:
        city.withdraw_version("flow", 3, "a mistake")
    assert "rollback" in refused.value.hint
    plane.truths.deployments.want("flow", "2", 1, SYSTEM)
    with pytest.raises(Conflict, match="deployed") as refused:
        city.withdraw_version("flow", 2, "a mistake")
    assert "--remove" in refused.value.hint
    plane.truths.deployments.unwant("flow", "2", SYSTEM)
    plane.truths.deployments.forget("flow", "2")
    with pytest.raises(Conflict, match="not withdrawn"):
        city.delete_version("flow", 2)
    with pytest.raises(VersionNotFound):
        city.withdraw_version("flow", 9, "a mistake")
    city.withdraw_version("flow", 2, "trained on the wrong month")
    for act in (
        lambda: city.promote("flow", 2),
        lambda: city.promote("flow", 2, alias="staging"),
        lambda: city.deploy("flow", "2", wait=0),
        lambda: city.withdraw_version("flow", 2, "again"),
    ):
        with pytest.raises(VersionWithdrawn, match="wrong month"):
            act()
    assert city.card("flow", "2").withdrawn == "trained on the wrong month"
    packages = plane.truths.home.packages
    artifacts = list(plane.truths.home.mlflow.rglob("model.onnx"))
    assert city.delete_version("flow", 2).kind == "deleted"
    assert not (packages / digests[2]).exists()
    assert (packages / digests[1]).exists()
    assert len(list(plane.truths.home.mlflow.rglob("model.onnx"))) == len(artifacts) - 1
    assert [v.version for v in city.algorithm("flow").versions] == [3, 1]
    with pytest.raises(VersionNotFound):
        city.version("flow", "2")
    assert city.delete_version("flow", 2).kind == "deleted", "whose answer was lost asks again"
    with pytest.raises(VersionNotFound):
        city.delete_version("flow", 9)
    acts = {entry.action: entry for entry in entries(plane.truths.database)}
    assert acts["version.delete"].object == "flow@2"
    assert acts["version.delete"].detail["digest"] == digests[2]
    assert [m.version for m in city.alias_history("flow") if m.alias == "champion"] == [3, 2, 1]
    assert three.register(tmp_path) == 4, "a number is never given twice"


def test_a_package_that_another_version_needs_stays_on_the_disk(world, tmp_path):
    first = world.register(tmp_path, content=b"same")
    world.register(tmp_path, content=b"same")
    digest = world.owner.version("flow", str(first)).digest
    world.owner.withdraw_version("flow", first, "a mistake")
    world.owner.delete_version("flow", first)
    assert (world.plane.truths.home.packages / digest).exists()
    world.owner.withdraw_version("flow", 2, "a mistake, too")
    world.owner.delete_version("flow", 2)
    assert not (world.plane.truths.home.packages / digest).exists()


@pytest.mark.parametrize("when", ["before MLflow's version", "after it", "before the package"])
def test_a_deletion_that_a_kill_interrupted_is_finished_by_asking_again(
    world, tmp_path, monkeypatch, when
):
    world.register(tmp_path)
    world.register(tmp_path)
    world.owner.withdraw_version("flow", 1, "a mistake")
    client, packages = world.plane.catalogue.client, world.plane.truths.home.packages
    digest, other = (world.owner.version("flow", str(v)).digest for v in (1, 2))
    really = client.delete_model_version
    with monkeypatch.context() as killed:

        def die(*arguments, **_):
            if when == "after it":
                really(*arguments)
            raise SystemExit

        if when == "before the package":
            killed.setattr("citybrain.registry.endings.shutil.rmtree", die)
        else:
            killed.setattr(client, "delete_model_version", die)
        with pytest.raises(SystemExit):
            world.plane.undertaker.delete("flow", 1, SYSTEM)
    if when == "after it":  # as a kill left it when the package went last
        (packages / digest).mkdir(exist_ok=True)
    assert world.owner.delete_version("flow", 1).kind == "deleted"
    assert [e.kind for e in world.plane.truths.endings.ends("flow")] == ["withdrawn", "deleted"]
    assert [int(v.version) for v in client.search_model_versions("name='flow'")] == [2]
    assert not (packages / digest).exists()
    assert (packages / other).exists()


def test_a_package_that_was_lost_is_made_again_from_mlflows_artifacts(world, tmp_path):
    world.register(tmp_path)
    folder, digest = world.plane.catalogue.folder("flow", 1)
    shutil.rmtree(folder)
    again, _ = world.plane.catalogue.folder("flow", 1)
    assert again == folder
    assert again.joinpath("model.onnx").read_bytes() == b"weights 1"


# Lineage


@pytest.fixture
def used(world, tmp_path):
    """Data, recipe, two versions, a conversion, deployments, a grant and calls."""
    lineage = {"recipe": "speeds", "data": "speeds.csv", "data_digest": DATA, "seed": 3}
    options = manifest()["options"]
    world.register(tmp_path, lineage=lineage, options=options)
    world.register(tmp_path, name="flow-int8", lineage={"source": "flow@1"})
    world.register(tmp_path, name="other", lineage={"source": "https://example.org/model"})
    deployments = world.plane.truths.deployments
    for name in ("flow-int8", "other"):
        deployments.want(name, "challenger", 1, SYSTEM)
        running = {"app": f"{name}.challenger.v1", "version": 1, "manifest": {}}
        deployments.saw(name, "challenger", state="running", version=1, running=running)
    people = world.plane.truths.people
    people.add_grant(NewGrant(department="health", algorithm="flow-int8"), SYSTEM)
    ended = people.add_grant(NewGrant(department="tourism", algorithm="flow-int8"), SYSTEM)
    people.revoke_grant(ended.id, SYSTEM)
    journal = tmp_path / "journal"
    journal.mkdir()
    world.calls(journal, "tourism", 1, 4)
    return world


def edges(graph):
    return {(e.source, e.target) for e in graph.edges}


def test_lineage_runs_from_data_to_departments_and_back(used):
    run = f"run:{used.owner.version('flow', '1').run_id}"
    graph = used.admin.lineage("flow", 1)
    assert edges(graph) >= {
        (f"data:{DATA}", run), (run, "version:flow@1"),
        ("version:flow@1", "version:flow-int8@1"),
        ("version:flow-int8@1", "deployment:flow-int8@challenger"),
        ("deployment:flow-int8@challenger", "department:health"),
        ("version:flow@1", "department:tourism"),
    }  # fmt: skip
    says = {(e.source, e.target): e.says for e in graph.edges}
    assert says["version:flow@1", "department:tourism"].startswith("4 calls, last on 2")
    assert says["deployment:flow-int8@challenger", "department:health"] == "granted for operation"
    names = {node.id for node in graph.nodes}
    assert not [name for name in names if "other" in name], "a stranger's branch"
    below = used.admin.lineage_of_data(DATA[:10])
    assert {n.id for n in below.nodes if n.kind == "department"} == {
        "department:health", "department:tourism",
    }  # fmt: skip
    up = used.admin.lineage("flow-int8")
    assert f"data:{DATA}" in {node.id for node in up.nodes}
    assert "department:tourism" not in {node.id for node in up.nodes}
    other = used.admin.lineage("other")
    assert ("source:https://example.org/model", "version:other@1") in edges(other)
    for digest in ("0" * 64, DATA[:7], ""):
        with pytest.raises(RowNotFound):
            used.admin.lineage_of_data(digest)
    with pytest.raises(VersionNotFound):
        used.admin.lineage("flow", 9)
    with pytest.raises(AlgorithmNotFound):
        used.admin.lineage("nothing")


def test_a_department_sees_its_own_use_and_no_others(used):
    health = used.client("health", "department")
    departments = {n.id for n in health.lineage("flow").nodes if n.kind == "department"}
    assert departments == {"department:health"}
    owner = {n.id for n in used.owner.lineage("flow").nodes if n.kind == "department"}
    assert owner == {"department:health", "department:tourism"}


def test_a_version_that_names_itself_as_its_source_is_drawn_once(world, tmp_path):
    world.register(tmp_path, lineage={"source": "flow@2"})
    world.register(tmp_path, lineage={"source": "flow@1"})
    graph = world.admin.lineage("flow")
    assert ("version:flow@1", "version:flow@2") in edges(graph)
    assert ("version:flow@2", "version:flow@1") in edges(graph)
    assert world.admin._http.get("/algorithms/flow").status_code == 200


# Signatures


def test_a_refused_deployment_stands_in_the_audit_once_however_often_it_is_tried(world, tmp_path):
    world.register(tmp_path)
    (first,) = world.admin.signers()
    world.admin.rotate_signer()
    world.admin.revoke_signer(first)
    for who in (world.owner, world.owner, world.owner, world.admin):
        with pytest.raises(SignatureWrong, match="revoked"):
            who.deploy("flow", "1")
    found = [e for e in entries(world.plane.truths.database) if e.action == "version.refused"]
    assert [(e.actor, e.department, e.object) for e in found] == [
        (world.admin.id, "platform", "flow@1"), (world.owner.id, "traffic", "flow@1"),
    ]  # fmt: skip
    assert "was revoked" in found[0].detail["reason"]
    assert world.admin.deployments() == []


def test_a_version_that_nobody_vouches_for_raises_an_alarm_until_something_is_done(
    world, tmp_path, caplog
):
    for _ in range(3):
        world.register(tmp_path)
    (first,) = world.admin.signers()
    world.admin.rotate_signer()
    world.admin.revoke_signer(first)
    page = lambda who: who._http.get("/overview/now").text
    mark = "文件无人担保"
    assert mark not in page(world.admin)
    for _ in range(2):
        for version in "123":
            with pytest.raises(SignatureWrong):
                world.owner.deploy("flow", version)
    lines = [r for r in caplog.records if r.getMessage().startswith("version.refused ")]
    told = [json.loads(line.getMessage().partition(" ")[2]) for line in lines]
    assert [line.levelname for line in lines] == ["ERROR"] * 3, "the same refusal is no news"
    assert {one["version"] for one in told} == {"flow@1", "flow@2", "flow@3"}
    assert all(one["asked_by"] == world.owner.id and "was revoked" in one["reason"] for one in told)
    shown = page(world.admin)
    assert mark in shown
    assert all(f"<code>flow@{version}</code>" in shown for version in "123")
    assert mark in page(world.owner)
    assert mark not in page(world.client("health", "developer")), "it is not theirs to know"
    world.admin.sign("flow", 1)
    world.owner.withdraw_version("flow", 2, "it was changed")
    deployments = world.plane.truths.deployments
    shown = page(world.admin)
    assert re.findall(r"<code>(flow@\d)</code>", shown) == ["flow@3"]
    deployments.want("flow", "3", 1, SYSTEM)
    deployments.saw("flow", "3", state="running", version=3)
    assert mark not in page(world.admin)


@pytest.mark.parametrize("with_digest", [False, True])
def test_an_old_statement_is_not_replayed(world, tmp_path, with_digest):
    """Somebody who writes to MLflow puts what was signed for one version at another."""
    for _ in range(2):
        world.register(tmp_path)
    client = world.plane.catalogue.client
    old = client.get_model_version("flow", "1").tags
    client.set_model_version_tag("flow", "2", SIGNED, old[SIGNED])
    if with_digest:
        client.set_model_version_tag("flow", "2", DIGEST, old[DIGEST])
    with pytest.raises(SignatureWrong, match="belongs to another"):
        world.plane.catalogue.folder("flow", 2)
    with pytest.raises(SignatureWrong):
        world.owner.deploy("flow", "2")
    assert world.plane.catalogue.folder("flow", 1)[1] == old[DIGEST]


# As-of


def test_as_of_over_the_api_is_told_by_moment_and_hides_others_grants(used):
    then = now()
    used.owner.promote("flow", 1, alias="staging")
    city = used.admin
    assert [a.alias for a in city.as_of(then.isoformat(), "flow").aliases] == ["challenger"]
    both = city.as_of(now().isoformat(), "flow")
    assert [(a.alias, a.moved_by) for a in both.aliases] == [
        ("challenger", "system"), ("staging", used.owner.id),
    ]  # fmt: skip
    local = now().astimezone(used.plane.truths.settings.zone)
    assert city.as_of(f"{local:%Y-%m-%dT%H:%M:%S.%f}").deployments, "a naive moment is the city's"
    assert [g.department for g in city.as_of(now().isoformat()).grants] == ["health"]
    assert used.client("tourism", "department").as_of(now().isoformat()).grants == []
    for wrong in ("yesterday", "2099-01-01", "2026-13-01", "2026-01-01T25:00"):
        with pytest.raises(InvalidInput):
            city.as_of(wrong)
    with pytest.raises(AlgorithmNotFound):
        city.as_of(now().isoformat(), "nothing")


# Cards


def test_the_card_says_what_one_should_know_and_is_a_model_card(world, tmp_path):
    from citybrain.platform.console.cards import as_markdown

    world.register(
        tmp_path, level="sensitive", purposes=["planning"], limits=["Not at night: no data."],
        training_data="Loops of 2025", contact="flow@example.org",
    )  # fmt: skip
    world.examined(1)
    card = world.client("health", "department").card("flow")
    assert (card.owner, card.licence, card.level.value) == ("traffic", "Apache-2.0", "sensitive")
    assert card.evaluations[0].metrics["mae"]["value"] == 1.25
    for language, words in (("en", "Where it should not be used"), ("zh", "不应使用的场合")):
        text = as_markdown(card, language)
        _, front, body = text.split("---\n", 2)
        found = yaml.safe_load(front)
        assert found["license"] == "apache-2.0"
        assert found["model-index"][0]["results"][0]["metrics"] == [{"type": "mae", "value": 1.25}]
        for said in (words, "planning", "Not at night", "Loops of 2025", "1.25", "flow@example.org",
                     "2026-" if found else ""):  # fmt: skip
            assert said in body
    with pytest.raises(VersionNotFound):
        world.admin.card("flow", "7")
    with pytest.raises(AlgorithmNotFound):
        world.admin.card("nothing")


def test_a_grant_is_for_what_the_card_says_that_the_algorithm_was_made_for(world, tmp_path):
    def grant(purpose, by=world.admin):
        return by.add_grant(NewGrant(department="health", algorithm="flow", purpose=purpose))

    world.register(tmp_path, purposes=["planning", "research"])
    for who in (world.admin, world.owner):
        with pytest.raises(PurposeNotServed, match=r"flow@1 was made for planning, research") as no:
            grant("operation", who)
        assert no.value.code == "purpose_not_served"
        assert "card names the purpose" in no.value.hint
    assert world.admin.grants() == []
    assert grant("research").purpose == "research"
    world.register(tmp_path)  # the newest is made for anything
    assert grant("operation").purpose == "operation"
    world.examined(1)
    world.owner.promote("flow", 1)
    with pytest.raises(PurposeNotServed):  # but the champion speaks for the algorithm
        grant("advertising")
    with pytest.raises(AlgorithmNotFound):
        world.admin.add_grant(NewGrant(department="health", algorithm="nothing"))


def test_a_grant_may_be_given_ahead_of_the_first_usable_version(world, tmp_path):
    world.register(tmp_path, purposes=["planning"])
    world.owner.withdraw_version("flow", 1, "a mistake")
    new = NewGrant(department="health", algorithm="flow")
    assert world.admin.add_grant(new).algorithm == "flow"


@pytest.mark.parametrize("field", ["owner", "licence"])
@pytest.mark.parametrize("how", ["missing", "empty"])
def test_an_upload_without_owner_or_licence_is_refused(world, tmp_path, field, how):
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"weights")
    found = manifest()
    found.pop(field)
    if how == "empty":
        found[field] = ""
    (folder / MANIFEST).write_text(yaml.safe_dump(found))
    with pytest.raises(BadPackage, match=field):
        world.owner.register(folder, "flow")
    with pytest.raises(AlgorithmNotFound):
        world.owner.algorithm("flow")


@pytest.mark.parametrize(
    "wrong", [{"level": "secret"}, {"purposes": ["Not A Name"]}, {"limits": [""]}, {"limits": "x"}]
)
def test_a_card_with_a_wrong_field_is_refused_and_an_old_manifest_is_not(wrong):
    assert Manifest.model_validate(manifest()).level == "internal"
    with pytest.raises(ValueError):
        Manifest.model_validate(manifest() | wrong)


# Console


def test_the_page_shows_card_graph_notice_and_who_is_affected(used, tmp_path):
    used.register(tmp_path, lineage={"data": EVIL}, limits=[EVIL])
    used.plane.truths.people.add_grant(NewGrant(department="health", algorithm="flow"), SYSTEM)
    used.examined(2)
    used.owner.set_approval("flow", "four-eyes")
    used.owner.promote("flow", 2)
    used.owner.retire("flow", "2099-01-31", replacement="other")
    used.owner.withdraw_version("flow", 1, "a mistake")
    page = used.admin._http.get("/algorithms/flow", headers={"accept-language": "en"})
    assert page.status_code == 200
    text = page.text
    assert "<script>alert" not in text
    assert "will change to version 2" in text
    assert "Affected: health" in text
    assert "2099-02-01 00:00" in text
    assert "Call other instead." in text
    assert "Withdrawn: a mistake" in text or "Withdrawn" in text
    assert '<svg class="lineage"' in text
    assert '<title id="lineage-title">Lineage of flow' in text
    overview = used.admin._http.get("/", headers={"accept-language": "zh"}).text
    assert "受影响的部门" in overview
    assert "health" in overview
    stranger = used.client("tourism", "department")._http
    assert (
        "Affected: none that this key may see"
        in stranger.get("/algorithms/flow", headers={"accept-language": "en"}).text
    )
    file = used.admin._http.get("/algorithms/flow/card.md", headers={"accept-language": "zh"})
    assert file.headers["content-type"].startswith("text/markdown")
    assert "敏感级别" in file.text


def test_a_version_that_did_not_start_says_why_on_its_page_after_its_deployment_too(
    world, tmp_path
):
    world.register(tmp_path)
    world.register(tmp_path)
    deployments = world.plane.truths.deployments
    deployments.want("flow", "1", 1, SYSTEM)
    reason = f"RuntimeError: {EVIL}"
    deployments.saw("flow", "1", state="failed", version=1, message=f"{reason}\nmore of it")
    world.owner.undeploy("flow", "1")
    deployments.forget("flow", "1")
    assert [f.version for f in world.owner.algorithm("flow").failures] == [1]
    for language, words in (("en", "Did not start as 1 on 20"), ("zh", "未能以 1 启动")):
        text = world.admin._http.get("/algorithms/flow", headers={"accept-language": language}).text
        assert words in text
        assert "RuntimeError: &#34;&gt;&lt;script" in text
        assert "more of it" in text
        assert "<script>alert" not in text
    deployments.want("flow", "1", 1, SYSTEM)
    running = {"app": "a", "version": 1, "manifest": {}}
    deployments.saw("flow", "1", state="running", version=1, running=running)
    assert "Did not start" not in world.admin._http.get("/algorithms/flow").text
    assert world.owner.algorithm("flow").failures == []


def test_the_page_of_an_algorithm_whose_only_version_is_withdrawn_still_shows(world, tmp_path):
    world.register(tmp_path)
    world.owner.withdraw_version("flow", 1, "a mistake")
    page = world.admin._http.get("/algorithms/flow", headers={"accept-language": "en"})
    assert page.status_code == 200
    assert "Withdrawn: a mistake" in page.text
    with pytest.raises(VersionNotFound, match="no version that can be used"):
        world.admin.card("flow")


# Commands


@pytest.fixture
def run(three, monkeypatch):
    from contextlib import contextmanager

    @contextmanager
    def client(**_):
        yield three.owner

    monkeypatch.setattr(commands, "client", client)
    monkeypatch.setattr("citybrain.platform.cli.catalogue.client", client)
    return lambda *arguments, **options: CliRunner().invoke(cli, list(arguments), **options)


def test_commands_ask_before_they_end_something(run, three):
    assert "Nobody called flow" in run("retire", "flow", "--dry-run").output
    assert run("retire", "flow", "--sunset", "2099-01-01", input="n\n").exit_code == 1
    assert three.plane.truths.endings.retirements() == []
    assert run("retire", "flow@2", "--sunset", "2099-01-01", "--yes").exit_code == 0
    assert three.plane.truths.endings.retirements()[0].version == 2
    assert run("retire", "flow@2", "--undo").exit_code == 0
    assert run("withdraw", "flow@2", "--reason", "a mistake").exit_code == 0
    done = run("delete", "flow@2", input="flow@3\n")
    assert isinstance(done.exception, InvalidInput)
    assert len(three.owner.algorithm("flow").versions) == 3
    assert run("delete", "flow@2", input="flow@2\n").exit_code == 0
    assert isinstance(run("delete", "flow", "--yes").exception, InvalidInput)
    assert isinstance(run("retire", "flow").exception, InvalidInput)


def test_commands_print_trees_tables_and_cards(run, three, tmp_path):
    tree = run("lineage", "flow").output
    assert "run" in tree and "flow@3" in tree and "Alias moves" in tree
    assert '"edges"' in run("lineage", "flow@champion", "--json").output
    three.plane.truths.traffics.put("flow", NewTraffic(fallback=["staging"]), SYSTEM)
    shown = run("as-of", now().isoformat(), "--algorithm", "flow").output
    assert "champion" in shown and "fallback" in shown
    out = tmp_path / "card.md"
    assert run("card", "flow", "--lang", "zh", "--out", str(out)).exit_code == 0
    assert out.read_text().startswith("---\nlanguage: zh")
    assert isinstance(run("card", "flow", "--lang", "fr").exception, InvalidInput)
    assert run("promote", "flow@champion", "--alias", "city").exit_code == 0
    assert three.owner.version("flow", "city").version == 3
    assert "again: rollback from 3" in run("rollback", "flow").output
    assert three.owner.version("flow", "champion").version == 2


def test_promote_says_who_called_before_the_champion_changes(run, three, tmp_path):
    journal = tmp_path / "journal"
    journal.mkdir()
    three.calls(journal, "health", 3, 5)
    shown = run("promote", "flow@2", "--dry-run").output
    assert "points to version 3; version 2 may follow" in shown
    assert "key-health" in shown
    assert three.owner.version("flow", "champion").version == 3
    shown = run("promote", "flow@2").output  # no terminal: printed, and on it goes
    assert shown.index("key-health") < shown.index("is done")
    assert three.owner.version("flow", "champion").version == 2
    found = json.loads(run("promote", "flow@1", "--json").output)
    assert (found["version"], found["callers"][0]["department"]) == (1, "health")
    three.owner.set_approval("flow", "four-eyes")
    asked = three.client("traffic", "developer").promote("flow", 3)
    assert "key-health" in run("promote", "--approve", asked.id).output
    assert three.owner.version("flow", "champion").version == 3
