"""Read a YAML file into a schema, with errors that name the line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from citybrain.core.errors import InvalidInput

Schema = TypeVar("Schema", bound=BaseModel)
MAX_BYTES = 250_000


def read_yaml(path: Path, schema: type[Schema], error: type[InvalidInput]) -> Schema:
    """The file as the schema; every problem as `file:line: field: reason`."""
    try:
        raw = path.read_bytes()
    except OSError as reason:
        raise error(f"{path.name} cannot be read: {reason.strerror}.") from reason
    return parse_yaml(raw, path.name, schema, error)


def parse_yaml(raw: bytes, name: str, schema: type[Schema], error: type[InvalidInput]) -> Schema:
    """Like `read_yaml`, for text that is not in a file of its own."""
    if len(raw) > MAX_BYTES:
        raise error(f"{name} is larger than {MAX_BYTES} bytes.")
    try:
        loader = _Plain(raw.decode())
        node = loader.get_single_node()
        data = loader.construct_document(node) if node else None
    except UnicodeDecodeError as reason:
        raise error(f"{name} is not UTF-8 text.") from reason
    except yaml.MarkedYAMLError as reason:
        line = reason.problem_mark.line + 1 if reason.problem_mark else 1
        raise error(f"{name}:{line}: {reason.problem or 'not YAML'}.") from reason
    except (yaml.YAMLError, ValueError, RecursionError) as reason:
        raise error(f"{name} is not YAML: {type(reason).__name__}.") from reason
    if not isinstance(data, dict):
        raise error(f"{name}:1: a mapping of fields was expected.")
    try:
        return schema.model_validate(data)
    except ValidationError as reason:
        found = "; ".join(
            f"{name}:{_line(node, item['loc'])}: {'.'.join(map(str, item['loc']))}: {item['msg']}"
            for item in reason.errors(include_input=False, include_url=False)[:5]
        )
        raise error(f"{found}.") from reason


class _Plain(yaml.SafeLoader):
    """Plain data without aliases, read once: node first, for the lines, then the data."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        # Anchors let a few lines stand for gigabytes, and nothing here needs them.
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(
                problem="aliases (*name) are not accepted", problem_mark=mark
            )
        return super().compose_node(parent, index)


def _line(node: yaml.Node | None, location: Sequence[int | str]) -> int:
    """The line of the innermost node on the way to a field that exists in the file."""
    line = 1
    for step in location:
        if isinstance(node, yaml.MappingNode):
            pairs = {key.value: (key, value) for key, value in node.value}
            if step not in pairs:
                break
            key, node = pairs[str(step)]
            line = key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            if step >= len(node.value):
                break
            node = node.value[step]
            line = node.start_mark.line + 1
    return line
