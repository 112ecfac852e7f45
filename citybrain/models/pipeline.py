"""A pipeline as data: steps in sequence, a switch between branches, an ensemble of members.

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
            noise: {algorithm: noise-level, input: {text: $heard.text}}
          otherwise: {value: {none: true}}
    answer: {text: $heard.text, topic: $topic.label, detail: $detail}

`$input` is the caller's item, `$NAME` the answer of an earlier step for that item; dots and numbers go
deeper (`$seen.boxes.0.label`). A text with `$$` in front stands for itself with one `$`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from citybrain.core.errors import BadPackage, InvalidInput
from citybrain.core.names import Name, Ref, parse_ref
from citybrain.models.package import Strict
from citybrain.models.yaml_file import read_yaml

MAX_STEPS = 32
MAX_DEPTH = 4
REFERENCE = re.compile(r"\$([a-z][a-z0-9-]*)((?:\.[A-Za-z0-9_-]+)*)")
INPUT = "$input"
StepName = Name


class Missing(Exception):
    """A reference to what is not there; its text is a sentence's end."""


class Ensemble(Strict):
    """Several answers to the same input, made into one."""

    members: list[Node] = Field(min_length=2, max_length=8)
    combine: Literal["mean", "majority", "list"] = Field(
        description="mean: numbers averaged, and the label that scores best then; majority: the "
        "answer whose label most give; list: all, in the members' order."
    )
    weights: list[float] = Field(default_factory=list, description="One a member; empty: equal.")

    @model_validator(mode="after")
    def _fits(self) -> Ensemble:
        if self.weights and len(self.weights) != len(self.members):
            raise ValueError("there are not as many weights as members")
        if self.weights and (min(self.weights) < 0 or not sum(self.weights)):
            raise ValueError("weights are not negative, and not all are zero")
        if self.weights and self.combine == "list":
            raise ValueError("a list has no weights")
        return self


class Switch(Strict):
    """One branch for each item."""

    by: str = Field(description="A reference; its text chooses the case.")
    cases: dict[str, Node] = Field(min_length=1, max_length=32)
    otherwise: Node | None = Field(default=None, description="Without it, such items get null.")

    @field_validator("by")
    @classmethod
    def _refers(cls, value: str) -> str:
        if not REFERENCE.fullmatch(value):
            raise ValueError("`by` is a reference such as $topic.label")
        return value


class Node(Strict):
    """What answers: an algorithm, a fixed value, a switch, an ensemble, or steps again."""

    algorithm: str = ""
    input: Any = Field(
        default=None, description="Empty: the answer before it, or the caller's item."
    )
    value: Any = None
    switch: Switch | None = None
    ensemble: Ensemble | None = None
    steps: list[Step] = Field(default_factory=list)

    @model_validator(mode="after")
    def _one_kind(self) -> Node:
        kinds = ("algorithm", "value", "switch", "ensemble", "steps")
        given = [kind for kind in kinds if kind in self.model_fields_set]
        if len(given) != 1 or (not getattr(self, given[0], None) and given[0] != "value"):
            raise ValueError(f"exactly one of {', '.join(kinds)} is needed")
        if self.algorithm:
            try:
                parse_ref(self.algorithm)
            except InvalidInput as error:
                raise ValueError(error.message) from error
        elif "input" in self.model_fields_set:
            raise ValueError("`input` belongs to `algorithm`")
        return self

    @property
    def ref(self) -> Ref:
        """The algorithm that answers."""
        return parse_ref(self.algorithm)

    def children(self) -> Iterator[Node]:
        """The nodes right inside this one."""
        if self.switch:
            yield from self.switch.cases.values()
            if self.switch.otherwise:
                yield self.switch.otherwise
        if self.ensemble:
            yield from self.ensemble.members
        yield from self.steps


class Step(Node):
    """A node that later ones may refer to by its name."""

    name: StepName


class Pipeline(Strict):
    """The whole of `pipeline.yaml`."""

    steps: list[Step] = Field(min_length=1, max_length=MAX_STEPS)
    answer: Any = Field(default=None, description="Empty: the last step's answer.")

    @model_validator(mode="after")
    def _holds_together(self) -> Pipeline:
        known = _check_steps(self.steps, {"input"}, 1)
        _check_references(self.answer, known, "answer")
        if sum(1 for _ in self.nodes()) > MAX_STEPS:
            raise ValueError(f"a pipeline has at most {MAX_STEPS} nodes in all")
        return self

    def nodes(self) -> Iterator[Node]:
        """Every node, at any depth."""
        waiting: list[Node] = list(self.steps)
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend(node.children())

    def refs(self) -> list[Ref]:
        """The algorithms that it calls, each once, in order of name."""
        return sorted({node.ref for node in self.nodes() if node.algorithm})


def read_pipeline(path: Path) -> Pipeline:
    """A pipeline's file; BadPackage names the line."""
    return read_yaml(path, Pipeline, BadPackage)


def pipeline_in(data: Any) -> Pipeline:
    """A pipeline from its JSON."""
    try:
        return Pipeline.model_validate(data)
    except ValidationError as error:
        raise BadPackage("The pipeline's plan cannot be read.") from error


def filled(template: Any, scope: dict[str, Any]) -> Any:
    """A template with what its references stand for; Missing names one that leads nowhere."""
    if isinstance(template, str):
        if template.startswith("$$"):
            return template[1:]
        if found := REFERENCE.fullmatch(template):
            return _followed(template, scope.get(found[1], Missing), found[2])
        return template
    if isinstance(template, dict):
        return {key: filled(value, scope) for key, value in template.items()}
    if isinstance(template, list):
        return [filled(value, scope) for value in template]
    return template


def _followed(reference: str, value: Any, path: str) -> Any:
    if value is Missing:
        raise Missing(f"{reference}, which is not there")
    for word in path.split(".")[1:]:
        if isinstance(value, dict) and word in value:
            value = value[word]
        elif isinstance(value, list) and word.isdigit() and int(word) < len(value):
            value = value[int(word)]
        else:
            has = ", ".join(list(value)[:10]) if isinstance(value, dict) else type(value).__name__
            raise Missing(f"{reference}, and at {word!r} there is only: {has}")
    return value


def _check_steps(steps: list[Step], known: set[str], depth: int) -> set[str]:
    """The names known after these steps; ValueError for one that is used before it is made."""
    if depth > MAX_DEPTH:
        raise ValueError(f"steps lie at most {MAX_DEPTH} deep in one another")
    known = set(known)
    for step in steps:
        if step.name in known:
            raise ValueError(f"the name {step.name!r} is taken")
        _check_node(step, known, depth, step.name)
        known.add(step.name)
    return known


def _check_node(node: Node, known: set[str], depth: int, where: str) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"nodes lie at most {MAX_DEPTH} deep in one another")
    _check_references(node.input, known, where)
    _check_references(node.value, known, where)
    if node.switch:
        _check_references(node.switch.by, known, where)
    if node.steps:
        _check_steps(node.steps, known, depth + 1)
    else:
        for child in node.children():
            _check_node(child, known, depth + 1, where)


def _check_references(template: Any, known: set[str], where: str) -> None:
    if isinstance(template, dict | list):
        for value in template.values() if isinstance(template, dict) else template:
            _check_references(value, known, where)
    elif isinstance(template, str) and template.startswith("$") and template[1:2] != "$":
        found = REFERENCE.fullmatch(template)
        if not found:
            raise ValueError(f"{where}: {template[:60]!r} is not a reference ($name.field)")
        if found[1] not in known:
            raise ValueError(f"{where}: {template[:60]!r} refers to no earlier step")


for _model in (Ensemble, Switch, Node, Step, Pipeline):
    _model.model_rebuild()
