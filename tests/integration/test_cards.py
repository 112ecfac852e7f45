"""What is said of a model: it reaches the card by every way in, and an algorithm keeps its own facts."""

import json
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from onnx import TensorProto, helper
from support import doubler
from support_registry import World
from typer.testing import CliRunner

from citybrain.core.errors import AlgorithmNotFound, BadPackage, InvalidInput
from citybrain.models.package import CARD, MANIFEST, NEEDED
from citybrain.platform.cli import registering
from citybrain.platform.cli.main import app as cli
from citybrain.registry.catalogue import PROBLEM
from citybrain.registry.words import WORDS

pytestmark = pytest.mark.filterwarnings("ignore:You should not use the 'timeout' argument")
SAID = {
    "level": "personal", "purposes": ["planning", "research"], "limits": ["Not at night."],
    "training_data": "Loops of 2025", "contact": "flow@example.org",
}  # fmt: skip
OWNED = {"owner": "traffic", "licence": "MIT", "domain": "traffic"}
TITLE = {"zh": "加倍", "en": "Double"}


@pytest.fixture
def world(tmp_path, fresh_home):
    shutil.copytree(fresh_home, tmp_path / "home")
    return World(tmp_path / "home")


def said(world, name, target=""):
    card = world.owner.card(name, target).model_dump(mode="json")
    return {field: card[field] for field in SAID}


def plain_mlflow(world, name, path, tags=None, model_tags=None):
    """A version as anybody registers one with MLflow's own calls on the platform's machine."""
    client = world.plane.catalogue.client
    experiments = client.search_experiments(filter_string="name = 'lab'")
    experiment = experiments[0].experiment_id if experiments else client.create_experiment("lab")
    run = client.create_run(experiment).info.run_id
    client.log_artifact(run, str(path), "model")
    if world.plane.catalogue.registered(name) is None:
        client.create_registered_model(name, model_tags or {})
    made = client.create_model_version(name, f"runs:/{run}/model", run, tags=tags or {})
    world.plane.projection.run()
    return int(made.version)


# By every way in


def test_a_package_whose_weights_are_converted_keeps_its_card(world, tmp_path):
    import skops.io
    from sklearn.linear_model import LogisticRegression

    folder = tmp_path / "flow"
    folder.mkdir()
    model = LogisticRegression().fit([[0.0], [1.0]], ["calm", "busy"])
    skops.io.dump(model, folder / "model.skops")
    words = {"name": "flow", "title": TITLE, "task": "tabular-classification", "runtime": "onnx",
             "weights": "model.skops", "serving": "source", "max_batch": 8,
             "options": {"features": ["hour"], "labels": ["busy", "calm"]}}  # fmt: skip
    (folder / MANIFEST).write_text(yaml.safe_dump(words | OWNED | SAID, allow_unicode=True))
    assert world.owner.register(folder, "flow").version == 1
    assert said(world, "flow") == SAID
    manifest = world.plane.catalogue.manifest("flow", 1)
    assert (manifest.weights, manifest.serving, manifest.max_batch) == ("model.onnx", "source", 8)
    assert manifest.title.zh == "加倍"


def test_files_alone_take_the_card_that_the_api_is_given(world, tmp_path):
    path = doubler(tmp_path / "double.onnx")
    lineage = {"data": "loops.csv", "seed": 3}
    world.owner.register(path, "double", card=OWNED | SAID | {"title": TITLE, "lineage": lineage})
    assert said(world, "double") == SAID
    assert world.owner.version("double", "1").lineage["data"] == "loops.csv"
    for wrong, says in (
        ({"level": "secret"}, "level: Input should be"), ({"purposes": ["Not A Name"]}, "purposes"),
        ({"title": "Double"}, "title"), ({"colour": "red"}, "unknown fields: colour"),
        ({"weights": "x"}, "unknown fields: weights"),
    ):  # fmt: skip
        with pytest.raises(InvalidInput, match=says):
            world.owner.register(path, "double", card=OWNED | wrong)


@pytest.fixture
def run(world, monkeypatch):
    @contextmanager
    def client(**_):
        yield world.owner

    monkeypatch.setattr(registering, "client", client)
    return lambda *arguments: CliRunner().invoke(cli, list(arguments))


def test_files_alone_take_the_card_that_the_command_is_given(world, run, tmp_path):
    path = str(doubler(tmp_path / "double.onnx"))
    done = run(
        "register", path, "--name", "double", "--owner", "traffic", "--licence", "MIT",
        "--domain", "traffic", "--title-zh", "加倍", "--level", "personal", "--purpose", "planning",
        "--purpose", "research", "--limit", "Not at night.", "--training-data", "Loops of 2025",
        "--contact", "flow@example.org", "--lineage", "data=loops.csv", "--max-batch", "8",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert said(world, "double") == SAID
    assert world.plane.catalogue.manifest("double", 1).max_batch == 8


def test_a_plain_mlflow_version_takes_the_card_that_its_tags_hold(world, tmp_path):
    path = doubler(tmp_path / "double.onnx")
    words = OWNED | SAID | {"title": TITLE}
    tags = {f"citybrain.{field}": value if isinstance(value, str) else json.dumps(value)
            for field, value in words.items()}  # fmt: skip
    plain_mlflow(world, "double", path, tags)
    assert said(world, "double") == SAID
    assert world.owner.algorithm("double").algorithm.title_zh == "加倍"
    bad = plain_mlflow(world, "double", path, {"citybrain.purposes": "planning"})
    assert "citybrain.purposes is not JSON" in world.owner.version("double", str(bad)).problem
    bad = plain_mlflow(world, "double", path, {"citybrain.level": "secret"})
    assert "level: Input should be" in world.owner.version("double", str(bad)).problem


def test_there_is_one_list_of_words():
    from typer.main import get_command

    options = {one.name for one in get_command(cli).commands["register"].params}
    named = {"title": {"title_zh", "title_en"}, "purposes": {"purpose"}, "limits": {"limit"},
             "options": {"option"}}  # fmt: skip
    for field in CARD:
        assert named.get(field, {field}) <= options, field
    assert set(WORDS.values()) == CARD
    assert set(NEEDED) <= CARD


# Words beside a package that speaks for itself


def package(folder, **changes):
    tensors = [{"name": "x", "dtype": "FP32", "shape": [-1, 3]}]
    folder.mkdir()
    doubler(folder / "double.onnx")
    words = {"name": "double", "title": TITLE, "task": "tensor", "runtime": "onnx",
             "weights": "double.onnx",
             "options": {"inputs": tensors, "outputs": [{**tensors[0], "name": "y"}]}}  # fmt: skip
    (folder / MANIFEST).write_text(json.dumps(words | OWNED | changes))
    return folder


OTHERWISE = (
    ({"task": "text-classification"}, "says task: tensor, and it was handed in with text"),
    ({"purposes": ["planning"]}, r"says purposes: \['operation'\]"),
    ({"level": "personal"}, "says level: internal"),
    ({"training_data": "x"}, "says training_data: nothing"),
    ({"options": {"labels": ["a"]}}, "says options"),
    ({"title": {"en": "Twice"}}, "says title"),
    ({"architecture": "torchvision:resnet18"}, "needs no architecture"),
)  # fmt: skip


def test_a_package_that_says_otherwise_is_refused_with_the_reason(world, tmp_path):
    folder = package(tmp_path / "double", purposes=["operation"])
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", folder)
    cases = [*((folder, *case) for case in OTHERWISE), (Path(archive), *OTHERWISE[0])]
    for source, card, says in cases:
        with pytest.raises(BadPackage, match=says) as refused:
            world.owner.register(source, "double", card=card)
        assert "out." in refused.value.hint
    with pytest.raises(AlgorithmNotFound):
        world.owner.algorithm("double")


def test_a_package_takes_the_words_that_it_says_itself(world, tmp_path):
    source = package(tmp_path / "double", lineage={"seed": 3})
    card = {
        "task": "tensor",
        "title": {"en": "Double"},
        "lineage": {"seed": "3"},
        "level": "internal",
    }
    assert world.owner.register(source, "double", card=card).version == 1


def test_options_of_a_graph_that_passes_its_tensors_through_are_refused(world, tmp_path):
    with pytest.raises(BadPackage, match="tensor takes no options"):
        world.owner.register(
            doubler(tmp_path / "double.onnx"), "double", card=OWNED | {"options": {"labels": ["a"]}}
        )


# What an algorithm says of itself


def facts(world, name="flow"):
    found = world.admin.algorithm(name).algorithm
    return found.title_en, found.description, found.domain, found.licence


def test_a_version_that_nobody_promoted_does_not_rewrite_the_catalogue(world, tmp_path):
    def register(number, domain="traffic"):
        return world.register(
            tmp_path, title={"zh": f"车{number}", "en": f"Flow {number}"}, domain=domain,
            description=f"Words {number}", licence=f"MIT-{number}",
        )  # fmt: skip

    register(1)
    assert facts(world) == ("Flow 1", "Words 1", "traffic", "MIT-1")
    register(2, "safety")
    assert facts(world) == ("Flow 2", "Words 2", "safety", "MIT-2"), "no champion: the newest"
    world.examined(1)
    world.owner.promote("flow", 1)
    assert facts(world) == ("Flow 1", "Words 1", "traffic", "MIT-1")
    register(3, "health")
    assert facts(world) == ("Flow 1", "Words 1", "traffic", "MIT-1")
    assert world.owner.card("flow", "3").domain == "health", "its own card is its own"
    world.examined(3)
    world.owner.promote("flow", 3)
    assert facts(world) == ("Flow 3", "Words 3", "health", "MIT-3")
    world.owner.roll_back("flow")
    assert facts(world) == ("Flow 1", "Words 1", "traffic", "MIT-1")


def test_before_a_champion_a_withdrawn_version_does_not_speak(world, tmp_path):
    world.register(tmp_path, title={"zh": "一", "en": "One"})
    world.register(tmp_path, title={"zh": "二", "en": "Two"})
    world.owner.withdraw_version("flow", 2, "a mistake")
    assert facts(world)[0] == "One"


def test_files_alone_leave_title_and_level_as_they_were(world, tmp_path):
    path = doubler(tmp_path / "double.onnx")
    world.owner.register(
        path, "double", card=OWNED | SAID | {"title": TITLE, "description": "Adds."}
    )
    world.owner.register(path, "double", card=OWNED)
    assert facts(world, "double") == ("Double", "Adds.", "traffic", "MIT")
    assert said(world, "double", "2") == {**SAID, "training_data": ""}, "these are other weights"
    world.owner.register(path, "double", card=OWNED | {"title": {"en": "Twice"}, "level": "public"})
    card = world.owner.card("double", "3")
    assert (card.title_en, card.title_zh, card.level.value) == ("Twice", "加倍", "public")
    with pytest.raises(BadPackage, match="licence is missing"):
        world.owner.register(path, "double", card={"owner": "traffic", "domain": "traffic"})


def graph(path, name="x", dtype=TensorProto.FLOAT, columns=3):
    node = helper.make_node("Add", [name, name], ["y"])
    body = helper.make_graph(
        [node], "double", [helper.make_tensor_value_info(name, dtype, ["n", columns])],
        [helper.make_tensor_value_info("y", dtype, ["n", columns])],
    )  # fmt: skip
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def test_a_version_that_callers_could_not_call_as_before_is_refused(world, tmp_path):
    world.owner.register(graph(tmp_path / "a.onnx"), "double", card=OWNED)
    for number, (change, says) in enumerate((
        ({"name": "z"}, r"inputs x FP32\[n\] \(version 1\), and this version has z FP32\[n\]"),
        ({"dtype": TensorProto.DOUBLE}, r"and this version has x FP64\[n\]"),
    )):  # fmt: skip
        with pytest.raises(InvalidInput, match=says) as refused:
            world.owner.register(graph(tmp_path / f"{number}.onnx", **change), "double", card=OWNED)
        assert "another name" in refused.value.hint
    world.owner.register(graph(tmp_path / "wide.onnx", columns=5), "double", card=OWNED)
    with pytest.raises(
        InvalidInput, match="does tensor .version 2., and this version does tabular"
    ):
        world.register(tmp_path, name="double")
    bad = plain_mlflow(world, "double", graph(tmp_path / "b.onnx", name="z"))
    assert "this version has z FP32" in world.owner.version("double", str(bad)).problem
    assert facts(world, "double")[0] == "double"
    for version in (1, 2):
        world.owner.withdraw_version("double", version, "all a mistake")
    assert world.register(tmp_path, name="double"), "nobody relies on withdrawn versions"


# Plain MLflow versions


def test_a_plain_mlflow_version_without_owner_or_licence_waits_for_its_words(world, tmp_path):
    path = doubler(tmp_path / "double.onnx")
    client = world.plane.catalogue.client
    plain_mlflow(world, "double", path, model_tags={"citybrain.domain": "traffic"})
    problem = world.plane.truths.verdicts.of("double", 1).problem
    assert "double@1 says no owner and no licence" in problem
    assert 'set_registered_model_tag("double", "citybrain.licence", "Apache-2.0")' in problem
    assert "citybrain.domain" not in problem
    assert client.get_model_version("double", "1").tags[PROBLEM] == problem
    with pytest.raises(AlgorithmNotFound) as missing:
        world.owner.algorithm("double")
    assert "citybrain.licence" in missing.value.hint
    client.set_registered_model_alias("double", "dev", "1")
    client.set_registered_model_tag("double", "citybrain.licence", "MIT")
    world.plane.projection.run()
    assert "says no owner," in world.plane.truths.verdicts.of("double", 1).problem
    client.set_registered_model_tag("double", "citybrain.owner", "traffic")
    world.plane.projection.run()
    found = world.owner.algorithm("double")
    assert (found.algorithm.owner, found.algorithm.licence) == ("traffic", "MIT")
    assert (found.versions[0].problem, found.versions[0].digest != "") == ("", True)
    assert PROBLEM not in client.get_model_version("double", "1").tags
    assert found.algorithm.aliases == {"challenger": 1, "dev": 1}
    plain_mlflow(world, "double", path)
    assert world.owner.version("double", "2").problem == "", "the algorithm has its words already"
    assert world.owner.card("double", "2").licence == "MIT"
