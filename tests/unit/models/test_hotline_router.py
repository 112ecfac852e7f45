"""The recipe hotline-router: its generated texts, and a tiny training from end to end."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from citybrain.core.errors import BadData
from citybrain.models.hotline_phrases import ISSUES, LOAD, TITLES
from citybrain.models.hotline_texts import make_calls, pairs
from citybrain.models.package import Package
from citybrain.models.predictor import Predictor
from citybrain.models.recipe import RECIPES, quiet

THINGS = {
    "roads": ("公交车|路面|出租车|高架", "很颠|堵车|不停站|绕路"),
    "water": ("水管|自来水|水表|水龙头", "漏水|发黄|停了|没压力"),
    "schools": ("老师|小学|幼儿园|食堂", "作业多|补课|罚站|不让报名"),
}


def write_texts(path: Path, count: int) -> Path:
    rng = np.random.default_rng(8)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for i in range(count):
            label = list(THINGS)[i % 3]
            thing, what = (str(rng.choice(half.split("|"))) for half in THINGS[label])
            writer.writerow(
                [f"{rng.choice(['你好', '请问', '那个'])}，{thing}{what}{i % 50}", label]
            )
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float], Path]:
    folder = tmp_path_factory.mktemp("router")
    data = write_texts(folder / "texts.csv", 450)
    seen: list[float] = []
    out = folder / "package"
    recipe = RECIPES.get("hotline-router")
    # More than it takes: a busy machine must not stop it early.
    metrics = recipe.train(
        data, out, seed=1, budget=120.0, progress=lambda share, _: seen.append(share)
    )
    assert seen == sorted(seen) and seen[0] == 0.0 and seen[-1] == 1.0
    return out, metrics, data


def answers(folder: Path, texts: list[str]) -> list[Any]:
    predictor = Predictor.open(folder)
    return predictor.predict([predictor.task.Input(text) for text in texts])


def test_equal_seeds_give_equal_files_and_other_seeds_others(tmp_path: Path) -> None:
    recipe = RECIPES.get("hotline-router")
    paths = [
        recipe.generate(tmp_path / str(i), seed=seed, part="test")
        for i, seed in enumerate((11, 11, 12))
    ]
    one, again, other = (path.read_bytes() for path in paths)
    assert one == again != other


def test_the_parts_share_no_text_and_no_pair_of_thing_and_complaint() -> None:
    train, test = make_calls(800, seed=3, test=False), make_calls(400, seed=3, test=True)
    assert not {call.text for call in train} & {call.text for call in test}
    for department in ISSUES:
        assert not set(pairs(department, test=True)) & set(pairs(department, test=False))
    assert {call.label for call in train} == {call.label for call in test} == set(TITLES)
    assert {call.clarity for call in test} == {"clear", "borderline", "mixed", "vague"}
    assert sum(LOAD) == pytest.approx(1.0)


def test_departments_are_called_as_often_as_their_load_says() -> None:
    found = Counter(call.label for call in make_calls(2000, seed=5, test=False))
    clear = Counter(c.label for c in make_calls(2000, seed=5, test=False) if c.clarity == "clear")
    assert found.keys() == clear.keys() == TITLES.keys()
    for label, load in zip(TITLES, LOAD, strict=True):
        assert clear[label] / clear.total() == pytest.approx(load, abs=0.04)


def test_training_on_any_labels_gives_a_package_that_answers(
    trained: tuple[Path, dict[str, float], Path],
) -> None:
    folder, metrics, _ = trained
    assert metrics["accuracy"] > 0.9  # three classes: chance is one third
    assert Package.open(folder).manifest.options["labels"] == sorted(THINGS)
    found = answers(folder, ["请问自来水发黄", "那个老师补课", "你好，高架堵车"])
    best = [max(a.probabilities, key=a.probabilities.__getitem__) for a in found]
    assert best == ["water", "schools", "roads"]
    assert all(sum(a.probabilities.values()) == pytest.approx(1.0, abs=1e-5) for a in found)


def test_an_answer_depends_neither_on_padding_nor_on_who_else_asks(
    trained: tuple[Path, dict[str, float], Path],
) -> None:
    folder, _, _ = trained
    predictor = Predictor.open(folder)
    short, long = "水管漏水", "你好，公交车不停站" * 9
    requests = [predictor.task.read([predictor.task.Input(t) for t in ts])
                for ts in ([short], [long], [short, long], [long, short, short])]  # fmt: skip
    alone = [predictor.infer([request])[0]["probabilities"] for request in requests]
    together = [answer["probabilities"] for answer in predictor.infer(requests)]
    for one, other in zip(alone, together, strict=True):
        assert np.allclose(one, other, atol=1e-5)
    for row in (alone[2][0], alone[3][1], alone[3][2]):
        assert np.allclose(row, alone[0][0], atol=1e-5)
    assert not np.allclose(alone[0], alone[1], atol=1e-2)


def test_equal_seeds_train_equal_weights(tmp_path: Path) -> None:
    data = write_texts(tmp_path / "few.csv", 150)
    recipe = RECIPES.get("hotline-router")
    for name in ("a", "b"):
        # So few steps are planned for this budget that no clock ends the training.
        recipe.train(data, tmp_path / name, seed=4, budget=60.0, progress=quiet)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b")]
    assert weights[0] == weights[1]


def test_the_folder_is_a_standard_one_without_code(
    trained: tuple[Path, dict[str, float], Path],
) -> None:
    from transformers import AutoTokenizer

    folder, _, _ = trained
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["DebertaV2ForSequenceClassification"]
    assert sorted(config["id2label"].values()) == sorted(THINGS)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    predictor = Predictor.open(folder)
    ids = predictor.task.prepare(predictor.task.read([predictor.task.Input("水管漏水")]))
    assert tokenizer("水管漏水")["input_ids"] == [int(i) for i in ids["input_ids"][0] if i]


@pytest.mark.parametrize("rows", ["a,x\n" * 30, "a,x\nb,y\n"])
def test_too_little_data_is_refused(tmp_path: Path, rows: str) -> None:
    path = tmp_path / "few.csv"
    path.write_text("text,label\n" + rows)
    with pytest.raises(BadData, match="few.csv holds"):
        RECIPES.get("hotline-router").train(
            path, tmp_path / "out", seed=0, budget=1.0, progress=quiet
        )
