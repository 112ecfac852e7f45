"""The weights that the project ships open with the code beside them, and are small."""

from pathlib import Path

import pytest

import citybrain
from citybrain.models.predictor import Predictor
from citybrain.models.recipe import RECIPES
from citybrain.models.starters import shipped

ZOO = Path(citybrain.__file__).parent / "models" / "zoo"


@pytest.mark.parametrize("name", sorted(path.name for path in ZOO.iterdir()))
def test_a_shipped_starter_answers_and_says_how_it_was_trained(name):
    starter = shipped(name)
    predictor = Predictor.open(starter.folder)
    predictor.warm_up()
    manifest = predictor.package.manifest
    assert manifest.lineage.recipe == manifest.name == name
    assert manifest.licence == "Apache-2.0"
    assert starter.metrics
    assert name in RECIPES.names()


def test_all_shipped_weights_together_are_at_most_twelve_megabytes():
    assert sum(path.stat().st_size for path in ZOO.rglob("*") if path.is_file()) <= 12_000_000


def test_a_recipe_without_shipped_weights_is_trained_at_the_demo():
    assert shipped("vehicle-detector") is None
