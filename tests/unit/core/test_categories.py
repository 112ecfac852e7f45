"""The negative list: nothing registered carries what it names, alone or together."""

import pytest
from feast import FeatureService, FeatureView, Field, FileSource
from feast.types import Int64

from citybrain.core.categories import Ban, check_categories
from citybrain.core.errors import ForbiddenCategory
from citybrain.feature_store.definitions import categories_of, definitions

BANS = [Ban("religion", "", "PIPL art. 28"), Ban("face", "health", "no such purpose")]


def view(name, **categories):
    fields = [Field(name=n, dtype=Int64, tags={"category": c}) for n, c in categories.items()]
    source = FileSource(name=f"{name}_past", path="past", timestamp_field="event_timestamp")
    return FeatureView(name=name, entities=[], source=source, schema=fields)


def test_a_forbidden_category_is_refused_with_its_field_and_reason():
    check_categories("v", {"a": "traffic", "b": "face"}, BANS)
    with pytest.raises(ForbiddenCategory, match=r"v: c is religion.*PIPL"):
        check_categories("v", {"a": "traffic", "c": "religion"}, BANS)


def test_a_pair_is_refused_in_a_view_and_in_a_service_that_joins_two():
    one, other = view("cameras", face_id="face"), view("clinics", visits="health")
    for alone in (one, other):
        check_categories(alone.name, categories_of(alone), BANS)
    joined = FeatureService(name="both", features=[one, other])
    assert set(categories_of(joined).values()) == {"face", "health"}
    with pytest.raises(ForbiddenCategory, match="never joined"):
        check_categories("both", categories_of(joined), BANS)


def test_what_the_platform_ships_is_not_on_any_list():
    for thing in definitions():
        check_categories(thing.name, categories_of(thing), BANS)
