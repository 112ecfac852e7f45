"""What a version's registrant wrote into its tags is heard, and never believed.

Plain MLflow calls on the home's own file, as anybody makes them on the platform's machine.
"""

import json

import pytest
from onnx import TensorProto, helper

from citybrain.core.errors import BadPackage
from citybrain.core.settings import Settings
from citybrain.models.package import MANIFEST
from citybrain.platform.wiring import SYSTEM, build
from citybrain.registry.catalogue import PROBLEM, SIGNED
from citybrain.registry.projection import ACTOR
from citybrain.registry.runs import DIGEST, RUN


def graph(factor):
    node = helper.make_node("Mul", ["x", "factor"], ["y"])
    body = helper.make_graph(
        [node], "times", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor("factor", TensorProto.FLOAT, [1], [float(factor)])],
    )  # fmt: skip
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(body, opset_imports=opset, ir_version=9).SerializeToString()


def package(folder, name, factor=2, owner="traffic", weights=b""):
    tensors = [{"name": "x", "dtype": "FP32", "shape": [-1, 3]}]
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(weights or graph(factor))
    manifest = {
        "name": name, "title": {"zh": "倍", "en": "Times"}, "task": "tensor", "runtime": "onnx",
        "weights": "model.onnx", "domain": "traffic", "owner": owner, "licence": "MIT",
        "options": {"inputs": tensors, "outputs": [{**tensors[0], "name": "y"}]},
    }  # fmt: skip
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


class Stranger:
    """Somebody with plain MLflow calls, beside a platform without a cluster."""

    def __init__(self, folder):
        self.folder = folder
        self.plane = build(Settings(home=folder / "home"))
        self.client = self.plane.catalogue.client
        experiment = self.client.create_experiment("mine", (folder / "mine").as_uri())
        self.run = self.client.create_run(experiment).info.run_id
        self.count = 0

    def platform_version(self, name, **changes):
        self.count += 1
        taken = package(self.folder / f"own-{self.count}", name, **changes)
        return self.plane.catalogue.register(taken, SYSTEM, report={"kind": "own"})

    def version(self, name, tags=None, *, run_id=None, model_tags=None, **changes):
        self.count += 1
        path = f"package-{self.count}"
        self.client.log_artifacts(
            self.run, str(package(self.folder / path, changes.pop("says", name), **changes)), path
        )
        if self.plane.catalogue.registered(name) is None:
            self.client.create_registered_model(name, model_tags or {})
        made = self.client.create_model_version(
            name, f"runs:/{self.run}/{path}", run_id or self.run, tags=tags or {}
        )
        return int(made.version)

    def verdict(self, name, version):
        self.plane.projection.run()
        return self.plane.truths.verdicts.of(name, version)

    def shown(self, name, version):
        (found,) = [v for v in self.plane.catalogue.versions(name) if v.version == version]
        return found


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    return Stranger(tmp_path_factory.mktemp("tags"))


def test_every_mark_of_the_platform_set_by_a_stranger_and_the_version_is_admitted_all_the_same(
    stranger,
):
    other = stranger.platform_version("reported", factor=5)
    tags = {
        DIGEST: "0" * 64, RUN: other.run_id, SIGNED: "x", PROBLEM: "It was bad.",
        "citybrain.noted": "1", "citybrain.source": "package",
    }  # fmt: skip
    version = stranger.version("marked", tags, factor=3)
    verdict = stranger.verdict("marked", version)
    assert verdict.problem == ""
    assert verdict.run not in ("", other.run_id)
    found = stranger.shown("marked", version)
    assert found.digest == verdict.digest != "0" * 64
    assert found.problem == ""
    assert stranger.plane.catalogue.folder("marked", version)[1] == verdict.digest
    report = stranger.plane.catalogue.report("marked", version)
    assert report["examined"]["graph"], "the report is not the one that a tag points to"


@pytest.mark.parametrize("digest", ["f" * 64, "{bad}", "../work", "..", "", "a"])
def test_a_digest_by_a_stranger_is_no_way_around_admission(stranger, tmp_path, digest):
    if digest == "{bad}":  # a folder that exists, with a package that nobody admitted
        digest = str(package(tmp_path / "evil", "sneaky", weights=b"not a graph"))
    version = stranger.version("sneaky", {DIGEST: digest}, weights=b"not a graph")
    assert "not an ONNX model" in stranger.verdict("sneaky", version).problem
    with pytest.raises(BadPackage, match="not taken in"):
        stranger.plane.catalogue.folder("sneaky", version)


def test_the_digest_of_anothers_package_makes_no_version_of_it(stranger):
    other = stranger.platform_version("popular", factor=7)
    version = stranger.version("copycat", {DIGEST: other.digest}, weights=b"not a graph")
    assert "not an ONNX model" in stranger.verdict("copycat", version).problem
    assert [v.version for v in stranger.plane.catalogue.versions("popular")] == [1]
    assert stranger.plane.catalogue.algorithm("popular").aliases == {"challenger": 1}


def test_a_package_that_says_another_name_is_turned_away(stranger):
    stranger.platform_version("famous")
    version = stranger.version("unknown", says="famous")
    assert "it is famous, not unknown" in stranger.verdict("unknown", version).problem
    assert [v.version for v in stranger.plane.catalogue.versions("famous")] == [1]


def test_tags_set_afterwards_neither_close_a_version_nor_change_what_is_shown(stranger):
    other = stranger.platform_version("elsewhere", factor=11)
    version = stranger.platform_version("steady", factor=12).version
    client = stranger.client
    client.set_model_version_tag("steady", str(version), PROBLEM, "It was bad.")
    client.set_model_version_tag("steady", str(version), RUN, other.run_id)
    assert stranger.verdict("steady", version).problem == ""
    assert stranger.shown("steady", version).problem == ""
    stranger.plane.catalogue.folder("steady", version)
    stranger.plane.undertaker.withdraw("steady", version, "a mistake", SYSTEM)
    stranger.plane.undertaker.delete("steady", version, SYSTEM)
    assert client.list_artifacts(other.run_id, "package"), "another version's files are gone"


def test_a_version_whose_mark_was_removed_is_taken_in_again_as_it_was(stranger):
    before = stranger.platform_version("erased", factor=13)
    for tag in (DIGEST, SIGNED):
        stranger.client.delete_model_version_tag("erased", "1", tag)
    assert stranger.verdict("erased", 1).digest == before.digest
    assert stranger.plane.catalogue.folder("erased", 1)[1] == before.digest


def test_other_files_under_a_number_that_was_registered_are_turned_away(stranger):
    stranger.platform_version("replaced", factor=14)
    stranger.client.delete_registered_model("replaced")
    version = stranger.version("replaced", factor=15)
    assert "registered with other files" in stranger.verdict("replaced", version).problem


def test_a_departments_version_is_its_own(stranger):
    tags = {ACTOR: "developer traffic k1"}
    version = stranger.version("ours", tags, factor=16)
    verdict = stranger.verdict("ours", version)
    assert "outside of MLflow's own" in verdict.problem, "a remote version names files anywhere"


@pytest.mark.parametrize(
    ("name", "tags", "says"),
    [
        ("theirs", {}, "theirs belongs to traffic, not to health"),
        (
            "brand-new",
            {"citybrain.owner": "traffic"},
            "brand-new belongs to traffic, not to health",
        ),
        ("theirs", {"citybrain.owner": "health"}, "theirs belongs to traffic; this version says"),
    ],
)
def test_a_department_adds_nothing_to_what_is_anothers(stranger, name, tags, says):
    if name == "theirs" and stranger.plane.catalogue.registered(name) is None:
        stranger.platform_version(name, factor=17)
    version = stranger.version(name, {ACTOR: "developer health k1", **tags}, factor=18)
    assert says in stranger.verdict(name, version).problem


def test_a_metric_that_is_no_number_is_left_out(stranger):
    for name, value in (("loss", 0.5), ("nothing", float("nan"))):
        stranger.client.log_metric(stranger.run, name, value)
    version = stranger.version("measured", factor=23)
    stranger.verdict("measured", version)
    assert stranger.shown("measured", version).metrics == {"loss": 0.5}


def test_a_run_that_does_not_exist_takes_no_page_away(stranger):
    stranger.platform_version("paged", factor=19)
    version = stranger.version("paged", run_id="0" * 32, factor=20)
    assert stranger.shown("paged", version).metrics == {}
    assert stranger.plane.lineage.around("paged").nodes


def test_an_odd_name_stops_nobody_else(stranger):
    stranger.client.create_registered_model("it's odd")
    stranger.client.create_model_version("it's odd", f"runs:/{stranger.run}/x", stranger.run)
    version = stranger.version("behind-it", factor=21)
    assert stranger.verdict("behind-it", version).digest
    assert "not a valid algorithm name" in stranger.verdict("it's odd", 1).problem


def test_aliases_wait_for_the_verdict_and_then_count(stranger):
    stranger.client.create_registered_model("early")
    version = stranger.version("early", factor=22)
    stranger.client.set_registered_model_alias("early", "dev", str(version))
    stranger.plane.projection.project("early")
    assert stranger.plane.truths.history.aliases("early") == {}
    stranger.verdict("early", version)
    assert stranger.plane.truths.history.aliases("early")["early"]["dev"] == version
    bad = stranger.version("early", weights=b"not a graph")
    stranger.client.set_registered_model_alias("early", "dev", str(bad))
    stranger.verdict("early", bad)
    assert stranger.client.get_registered_model("early").aliases["dev"] == version
