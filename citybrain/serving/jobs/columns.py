"""A task's answers as columns: Arrow types from the types of its `Output`."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import inspect

from citybrain.models.task import Item


def arrow_type(kind: inspect.Type) -> Any:
    """The column type of a field; what has no fixed shape is a text of JSON."""
    import pyarrow as pa

    match kind:
        case inspect.BoolType():
            return pa.bool_()
        case inspect.IntType():
            return pa.int64()
        case inspect.FloatType():
            return pa.float64()
        case inspect.StrType():
            return pa.string()
        case inspect.BytesType():
            return pa.binary()
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            return pa.list_(arrow_type(item))
        case inspect.TupleType(item_types=items) if len(set(map(type, items))) == 1:
            return pa.list_(arrow_type(items[0]))
        case inspect.DictType(key_type=inspect.StrType(), value_type=value) if not isinstance(
            value, inspect.AnyType
        ):
            return pa.map_(pa.string(), arrow_type(value))
        case inspect.StructType(cls=cls):
            return pa.struct([(f.name, arrow_type(f.type)) for f in _fields(cls)])
        case inspect.UnionType(types=types) if len(some := _some(types)) == 1:
            return arrow_type(some[0])
    return pa.string()


def schema(output: type[Item]) -> Any:
    """`row`, `name`, `version`, the fields of an answer, `error_code` and `error`."""
    import pyarrow as pa

    before = [("row", pa.int64()), ("name", pa.string()), ("version", pa.int64())]
    after = [("error_code", pa.string()), ("error", pa.string())]
    fields = [(name_of(f.name), arrow_type(f.type)) for f in _fields(output)]
    return pa.schema([*before, *fields, *after])


def name_of(field: str) -> str:
    """A field's column; `output_` before those that a column of ours has."""
    return (
        f"output_{field}" if field in ("row", "name", "version", "error_code", "error") else field
    )


def record(line: dict[str, Any], output: type[Item], columns: Any) -> dict[str, Any]:
    """One line of a JSONL result as a row of that schema."""
    import pyarrow as pa

    row: dict[str, Any] = {name: line.get(name) for name in ("row", "name", "version")}
    if error := line.get("error"):
        return row | {"error_code": error["code"], "error": error["message"]}
    answer = msgspec.convert(line["output"], output)
    for field in msgspec.structs.fields(output):
        name = name_of(field.name)
        value = msgspec.to_builtins(getattr(answer, field.name), builtin_types=(bytes,))
        if pa.types.is_string(columns.field(name).type) and not isinstance(value, str | None):
            value = msgspec.json.encode(value).decode()
        row[name] = value
    return row


def _fields(struct: type[msgspec.Struct]) -> list[Any]:
    found: Any = inspect.type_info(struct)
    return list(found.fields) if hasattr(found, "fields") else []


def _some(types: tuple[inspect.Type, ...]) -> list[inspect.Type]:
    return [kind for kind in types if not isinstance(kind, inspect.NoneType)]
