"""`crowd-level`: how full a scenic spot will be in an hour, from gates, weather and calendar.

The data are generated: arrivals follow the hour, the season, holidays and the weather; what
leaves depends on what is inside. The model is a gradient-boosted tree ensemble (scikit-learn's
HistGradientBoostingClassifier) written as ONNX by skl2onnx.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from citybrain.core.shelf import needs
from citybrain.models.datasets.table import read_table
from citybrain.models.package import MANIFEST
from citybrain.models.recipe import RECIPES, Progress, Recipe

LEVELS = ("comfortable", "busy", "crowded", "closed")
THRESHOLDS = (0.35, 0.65, 0.9)  # shares of the capacity where the next level begins
HOURS = range(7, 20)


@RECIPES.add("crowd-level")
class CrowdLevel(Recipe):
    """Tabular, ONNX: the smallest whole example of the platform."""

    task = "tabular-classification"
    summary = "Crowd level of a scenic spot one hour ahead (generated gate counts; trees as ONNX)"
    budget = 20.0

    def generate(self, folder: Path, *, seed: int, part: str) -> Path:
        # Other spots, days and noise in each part: the seed sequence is split, never shared.
        rng = np.random.default_rng([seed, 1 if part == "train" else 2])
        days = 240 if part == "train" else 80
        rows: list[dict[str, Any]] = []
        for spot in range(6):
            capacity = float(rng.integers(2_000, 20_000))
            for _ in range(days):
                rows += _day(rng, spot, capacity)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"crowd-{part}.csv"
        import pandas as pd

        pd.DataFrame(rows).to_csv(path, index=False)
        return path

    def train(
        self, data: Path, out: Path, *, seed: int, budget: float, progress: Progress
    ) -> dict[str, float]:
        with needs():
            from skl2onnx import to_onnx
            from sklearn.ensemble import HistGradientBoostingClassifier
            from sklearn.metrics import f1_score
            from sklearn.model_selection import train_test_split
        progress(0.0, "reading the table")
        table = read_table(data, target="label")
        features = table.matrix(table.columns)
        labels = sorted(set(table.labels), key=_order)
        numbers = np.array([labels.index(label) for label in table.labels])
        train_x, test_x, train_y, test_y = train_test_split(
            features, numbers, test_size=0.2, random_state=seed, shuffle=True
        )
        progress(0.1, "growing trees")
        model = HistGradientBoostingClassifier(
            max_iter=120, learning_rate=0.1, max_leaf_nodes=15, l2_regularization=1.0,
            class_weight="balanced", random_state=seed,
        )  # fmt: skip
        model.fit(train_x, train_y)
        progress(0.8, "writing ONNX")
        graph = to_onnx(model, features[:1], options={"zipmap": False}, target_opset=17)
        for node in graph.graph.output:  # scikit-learn's names are label and probabilities
            if node.name == "label":
                graph.graph.output.remove(node)
                break
        out.mkdir(parents=True, exist_ok=True)
        (out / "model.onnx").write_bytes(graph.SerializeToString())
        manifest = {
            "format": 1,
            "name": "crowd-level",
            "title": {"zh": "景区客流等级", "en": "Scenic spot crowd level"},
            "description": "Crowd level one hour ahead, from gate counts, weather and calendar.",
            "task": self.task,
            "runtime": "onnx",
            "weights": "model.onnx",
            "domain": "tourism",
            "owner": "tourism",
            "licence": "Apache-2.0",
            "max_batch": 1024,
            "options": {
                "features": table.columns,
                "labels": labels,
                "example": {
                    name: float(value)
                    for name, value in zip(table.columns, features[0], strict=True)
                },
            },
        }
        text = yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True)
        (out / MANIFEST).write_text(text, encoding="utf-8")
        progress(1.0, "done")
        guess = model.predict(test_x)
        return {
            "macro-f1": float(f1_score(test_y, guess, average="macro")),
            "accuracy": float((guess == test_y).mean()),
        }


def _order(label: str) -> tuple[int, str]:
    return (LEVELS.index(label) if label in LEVELS else len(LEVELS), label)


def _day(rng: np.random.Generator, spot: int, capacity: float) -> list[dict[str, Any]]:
    """One day at one spot: a row an hour, labelled with the level of the next hour."""
    month = int(rng.integers(1, 13))
    weekend = int(rng.random() < 2 / 7)
    holiday = int(rng.random() < 0.08)
    rain = float(max(0.0, rng.normal(-1.0, 2.5)))
    warmth = float(15 + 12 * np.sin((month - 4) / 12 * 2 * np.pi) + rng.normal(0, 3))
    pull = (0.55 + 0.35 * weekend + 0.9 * holiday) * np.exp(-rain / 6)
    pull *= float(np.exp(-(((warmth - 20) / 18) ** 2))) * rng.lognormal(0, 0.18)
    inside, before, rows = 0.0, 0.0, []
    for hour in HOURS:
        wave = np.exp(-(((hour - 10.0) / 2.2) ** 2)) + 0.7 * np.exp(-(((hour - 14.5) / 2.0) ** 2))
        arrived = capacity * 0.28 * pull * wave * rng.lognormal(0, 0.12)
        left = inside * (0.12 + 0.07 * max(0, hour - 13)) * rng.lognormal(0, 0.1)
        rows.append(
            {
                "hour": hour,
                "month": month,
                "weekend": weekend,
                "holiday": holiday,
                "rain_mm": round(rain, 1),
                "temperature": round(warmth, 1),
                "capacity": capacity,
                "inside_share": round(inside / capacity, 4),
                "arrived_share": round(arrived / capacity, 4),
                "arrived_before_share": round(before / capacity, 4),
                "left_share": round(left / capacity, 4),
                "tag:spot": f"spot-{spot}",
                "tag:day": "holiday" if holiday else "weekend" if weekend else "weekday",
            }
        )
        before = arrived
        inside = max(0.0, inside + arrived - left)
        share = inside / capacity + rng.normal(0, 0.01)
        rows[-1]["label"] = LEVELS[int(np.searchsorted(THRESHOLDS, share))]
    return rows
