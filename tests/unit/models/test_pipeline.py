"""Plans: what holds together is taken, what does not is refused with its line."""

import pytest

from citybrain.core.errors import BadPackage
from citybrain.models.pipeline import Missing, Pipeline, filled, pipeline_in, read_pipeline

PLAN = """
steps:
  - name: heard
    algorithm: spoken-digits
  - name: topic
    algorithm: hotline-router@champion
    input: {text: $heard.text}
  - name: detail
    switch:
      by: $topic.label
      cases:
        noise:
          steps:
            - name: level
              algorithm: noise-level@3
              input: {text: $heard.text, near: $input.place}
      otherwise: {value: {none: true}}
  - name: vote
    ensemble:
      combine: mean
      members: [{algorithm: flow-a, input: $input}, {algorithm: flow-b, input: $input}]
      weights: [2, 1]
answer: {text: $heard.text, topic: $topic.label, all: [$detail, $vote], price: $$5}
"""


def read(tmp_path, text):
    (tmp_path / "pipeline.yaml").write_text(text)
    return read_pipeline(tmp_path / "pipeline.yaml")


def test_a_plan_is_read_and_survives_being_written_as_json(tmp_path):
    plan = read(tmp_path, PLAN)
    assert list(map(str, plan.refs())) == [
        "flow-a", "flow-b", "hotline-router@champion", "noise-level@3", "spoken-digits",
    ]  # fmt: skip
    assert pipeline_in(plan.model_dump(mode="json", exclude_unset=True)) == plan


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("$heard.text}", "$herd.text}"), "refers to no earlier step"),
        (("$heard.text}", "$topic.text}"), "refers to no earlier step"),
        (("near: $input.place", "near: $in put"), "not a reference"),
        (("name: topic", "name: heard"), "is taken"),
        (("name: level", "name: topic"), "is taken"),
        (("algorithm: spoken-digits", "algorithm: Spoken Digits"), "pipeline.yaml:3.*not a valid"),
        (("algorithm: spoken-digits", "colour: red"), "pipeline.yaml:4"),
        (("weights: [2, 1]", "weights: [2]"), "as many weights"),
        (("weights: [2, 1]", "weights: [0, 0]"), "not all are zero"),
        (("combine: mean", "combine: list"), "no weights"),
        (("combine: mean", "combine: guess"), "combine"),
        (("by: $topic.label", "by: topic"), "`by` is a reference"),
        (("{none: true}", "{none: $level}"), "refers to no earlier step"),
        (("otherwise: {value", "otherwise: {input: $input, value"), "belongs to `algorithm`"),
        (("algorithm: spoken-digits", "algorithm: spoken-digits\n    value: 1"), "exactly one of"),
        (("price: $$5", "price: $5"), "not a reference"),
    ],
)
def test_what_does_not_hold_together_is_refused_with_the_reason(tmp_path, change, reason):
    with pytest.raises(BadPackage, match=reason):
        read(tmp_path, PLAN.replace(*change, 1))


def test_depth_and_size_are_bounded(tmp_path):
    node = {"algorithm": "a-b"}
    for number in range(6):
        node = {"steps": [node | {"name": f"s-{number}"}]}
    with pytest.raises(BadPackage):
        pipeline_in({"steps": [node | {"name": "top"}]})
    wide = {"ensemble": {"combine": "list", "members": [{"algorithm": "a-b"}] * 8}, "name": "w"}
    with pytest.raises(BadPackage):
        pipeline_in({"steps": [wide | {"name": f"w-{number}"} for number in range(4)]})


def test_references_are_followed_into_objects_and_lists():
    scope = {"input": {"id": 7}, "seen": {"boxes": [{"label": "car"}, {"label": "bus"}]}}
    template = {
        "id": "$input.id",
        "second": ["$seen.boxes.1.label", "plain", "$$5", 3],
        "all": "$seen",
    }
    assert filled(template, scope) == {
        "id": 7, "second": ["bus", "plain", "$5", 3], "all": scope["seen"],
    }  # fmt: skip
    for reference in ("$seen.boxes.2.label", "$seen.colour", "$input.id.more", "$later"):
        with pytest.raises(Missing, match=r"\$"):
            filled(reference, scope)


def test_a_plan_needs_a_step():
    with pytest.raises(BadPackage):
        pipeline_in({"steps": []})
    assert Pipeline.model_validate({"steps": [{"name": "only", "value": 1}]}).refs() == []
