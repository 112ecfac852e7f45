"""The traffic recipe: data, training, the package, and what real series say of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from citybrain.core.errors import BadData
from citybrain.evaluation.metric import BASELINES, METRICS
from citybrain.models import traffic_series
from citybrain.models.forecast_network import build_network
from citybrain.models.package import Package
from citybrain.models.predictor import Predictor
from citybrain.models.recipe import RECIPES, quiet
from citybrain.models.tasks.forecasting import History
from citybrain.models.traffic_series import Part

ROOT = Path(__file__).parents[3]


def small(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The recipe with little data, so that a test takes a second."""
    parts = traffic_series.PARTS
    monkeypatch.setattr(
        traffic_series,
        "PARTS",
        {
            "train": Part(3, 8, parts["train"].begin),
            "test": Part(1, 3, parts["test"].begin),
        },
    )
    return RECIPES.get("traffic-flow")


def scores(folder: Path, data: Path) -> dict[str, tuple[float, float]]:
    """Each metric of a package and of the last value, as the evaluation measures them."""
    predictor = Predictor.open(folder)
    samples = predictor.task.samples(data)
    answers = []
    for answer in predictor.infer([sample.inputs for sample in samples]):
        assert isinstance(answer, dict), answer
        answers += predictor.task.write(answer)
    base = BASELINES.get("last-value").answer(samples, predictor.task)
    truths = [sample.truth for sample in samples]
    return {
        name: (METRICS.get(name).score(truths, answers), METRICS.get(name).score(truths, base))
        for name in ("mase", "mae", "rmse", "pinball", "coverage")
    }


def test_equal_seeds_give_equal_bytes_and_the_parts_share_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small(monkeypatch)
    paths = [
        recipe.generate(tmp_path / str(i), seed=seed, part=part)
        for i, (seed, part) in enumerate([(3, "train"), (3, "train"), (4, "train"), (3, "test")])
    ]
    first, again, other, test = [path.read_bytes() for path in paths]
    assert first == again and first != other
    header, *rows = [line.split(b",") for line in first.splitlines()]
    test_header, *test_rows = [line.split(b",") for line in test.splitlines()]
    assert set(header) & set(test_header) == {b"time"}
    assert rows[-1][0] < test_rows[0][0]
    assert any(cell == b"" for row in rows for cell in row)  # drop-outs


def test_a_trained_package_beats_the_last_value_on_other_sensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small(monkeypatch)
    monkeypatch.setattr("citybrain.models.recipes.traffic_flow.STEPS_A_SECOND", 7)
    data = recipe.generate(tmp_path / "data", seed=5, part="train")
    seen: list[float] = []
    found = recipe.train(
        data, tmp_path / "out", seed=5, budget=60.0, progress=lambda share, _: seen.append(share)
    )
    assert found["mae"] < 0.85 * found["mae-last-value"]
    assert seen == sorted(seen) and seen[-1] == 1.0 and len(seen) > 5
    package = Package.open(tmp_path / "out")
    assert package.manifest.options["context"] == 48 and package.manifest.options["non_negative"]

    test = recipe.generate(tmp_path / "data", seed=5, part="test")
    measured = scores(tmp_path / "out", test)
    for name in ("mase", "mae", "rmse", "pinball"):
        model, last_value = measured[name]
        assert model < 0.9 * last_value, name
    assert 0.65 < measured["coverage"][0] < 0.95

    predictor = Predictor.open(tmp_path / "out")
    long = [float(x) for x in 50 + 20 * np.sin(np.arange(60) / 9)]
    items = [History(long, "2026-03-02T08:05"), History(long[-12:]), History([7.0] * 12)]
    answers = predictor.predict(items)
    alone = [predictor.predict([item])[0] for item in items]
    for one, other in zip(answers, alone, strict=True):
        for name in ("0.1", "0.5", "0.9"):
            assert one.quantiles[name] == pytest.approx(other.quantiles[name], rel=1e-4, abs=1e-3)
        low, mid, high = (np.array(one.quantiles[name]) for name in ("0.1", "0.5", "0.9"))
        assert (low <= mid).all() and (mid <= high).all() and len(mid) == 12
    assert np.abs(np.array(answers[2].quantiles["0.5"]) - 7.0).max() < 7.0


def test_equal_seeds_train_equal_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = small(monkeypatch)
    monkeypatch.setattr("citybrain.models.recipes.traffic_flow.STEPS_A_SECOND", 3)
    data = recipe.generate(tmp_path / "data", seed=1, part="train")
    for name in ("a", "b"):
        recipe.train(data, tmp_path / name, seed=2, budget=60.0, progress=quiet)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b")]
    assert weights[0] == weights[1]
    # As many steps planned for a hundredth of the time, on a machine that takes longer.
    monkeypatch.setattr("citybrain.models.recipes.traffic_flow.STEPS_A_SECOND", 300)
    recipe.patience = 1000.0
    recipe.train(data, tmp_path / "slow", seed=2, budget=0.6, progress=quiet)
    assert (tmp_path / "slow" / "model.safetensors").read_bytes() == weights[0]
    recipe.patience = 1.0
    recipe.train(data, tmp_path / "cut", seed=2, budget=0.6, progress=quiet)
    assert (tmp_path / "cut" / "model.safetensors").read_bytes() != weights[0]


def test_other_horizons_contexts_and_files_without_times(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    steps = np.arange(400)
    wave = 20 + 10 * np.sin(steps / 7)[:, None] + rng.normal(0, 1, (400, 3)) - 40
    path = tmp_path / "wide.csv"
    np.savetxt(path, wave, delimiter=",", header="a,b,c", comments="", fmt="%.3f")
    recipe: Any = RECIPES.get("traffic-flow")
    recipe.horizon, recipe.step_seconds = 3, 3600
    found = recipe.train(path, tmp_path / "out", seed=1, budget=4.0, progress=quiet)
    assert found["mae"] < found["mae-last-value"]
    options = Package.open(tmp_path / "out").manifest.options
    assert (options["context"], options["horizon"], options["calendar"]) == (12, 3, False)
    assert options["non_negative"] is False and options["step_seconds"] == 3600
    assert scores(tmp_path / "out", path)["mae"][0] < 2.5


def test_data_too_short_to_learn_from_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "short.csv"
    path.write_text("a\n" + "1\n2\n" * 20)
    with pytest.raises(BadData, match="too short"):
        RECIPES.get("traffic-flow").train(
            path, tmp_path / "out", seed=1, budget=2.0, progress=quiet
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("quantiles", [[0.5], [0.1, 0.5, 0.9], [0.05, 0.25, 0.5, 0.75, 0.95]])
def test_the_network_cannot_cross_and_moves_with_the_units(quantiles: list[float]) -> None:
    import torch

    torch.manual_seed(0)
    network = build_network(24, 6, quantiles, 0)
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    series = torch.randn(50, 24).cumsum(1) + 200
    with torch.inference_mode():
        answer = network(series=series)
        assert answer.shape == (50, 6, len(quantiles))
        assert (answer.diff(dim=-1) >= 0).all()
        assert torch.isfinite(network(series=torch.zeros(2, 24))).all()
        assert torch.isfinite(network(series=torch.full((1, 24), 1e12))).all()


def test_the_split_puts_the_last_rows_into_the_test_part(tmp_path: Path) -> None:
    source = tmp_path / "counts.csv"
    rows = [f"{day:02d}/01/2016 {hour}:00,{hour},1" for day in (4, 5) for hour in range(24)]
    source.write_text("\ufeff5 Minutes,Flow,Points\n" + "\n".join(rows) + "\n")
    command = [sys.executable, str(ROOT / "benchmarks" / "traffic_split.py"), str(source)]
    named = ["--time", "5 Minutes", "--time-format", "%d/%m/%Y %H:%M", "--columns", "Flow"]
    done = subprocess.run(
        [*command, str(tmp_path), *named], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    train = (tmp_path / "train.csv").read_text().splitlines()
    test = (tmp_path / "test.csv").read_text().splitlines()
    assert train[:2] == ["time,Flow", "2016-01-04T00:00:00,0"]
    assert (len(train), len(test)) == (1 + 38, 1 + 10)
    assert test[1] == "2016-01-05T14:00:00,14"
    missing = [*command, str(tmp_path), "--time", "no"]
    wrong = subprocess.run(missing, capture_output=True, text=True, check=False)
    assert wrong.returncode == 1 and "there is no column 'no'" in wrong.stderr


@pytest.mark.skipif(
    not os.environ.get("CITYBRAIN_TEST_DATA"), reason="CITYBRAIN_TEST_DATA names no folder"
)
def test_a_real_detector_is_forecast_better_than_by_its_last_value(tmp_path: Path) -> None:
    source = Path(os.environ["CITYBRAIN_TEST_DATA"]) / "traffic" / "pems_lane1_flow_train.csv.gz"
    if not source.exists():
        pytest.skip(f"there is no {source.name} in CITYBRAIN_TEST_DATA")
    subprocess.run(
        [
            sys.executable, str(ROOT / "benchmarks" / "traffic_split.py"), str(source),
            str(tmp_path), "--time", "5 Minutes", "--time-format", "%d/%m/%Y %H:%M",
            "--columns", "Lane 1 Flow (Veh/5 Minutes)",
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    recipe: Any = RECIPES.get("traffic-flow")
    recipe.context, recipe.horizon = 12, 1
    recipe.train(tmp_path / "train.csv", tmp_path / "out", seed=1, budget=10.0, progress=quiet)
    measured = scores(tmp_path / "out", tmp_path / "test.csv")
    assert measured["rmse"][0] < measured["rmse"][1] and measured["mae"][0] < measured["mae"][1]
