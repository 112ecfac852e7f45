"""`torch-export`: a program that torch.export.save wrote (`.pt2`), by torch's ONNX exporter.

The archive holds JSON and raw tensors. Parts of it could be pickles or expressions that sympy
evaluates; such parts are refused before torch sees the file.
"""

from __future__ import annotations

import ast
import json
import re
import zipfile
from pathlib import Path
from typing import Any

from citybrain.core.errors import BadPackage
from citybrain.core.shelf import needs
from citybrain.models.converter import CONVERTERS, Converter, Draft, Wanted
from citybrain.models.torch_onnx import to_onnx
from citybrain.models.zip_file import open_zip

MAX_JSON = 256 << 20
MAX_RECORDS = 50_000
RECORDS = re.compile(
    r"[^/]+/(models/[\w.-]+\.json|data/(weights|constants)/(\w+_config\.json|(weight|tensor)_\d+)|"
    r"data/sample_inputs/[\w.-]+\.pt|archive_format|archive_version|byteorder|version|"
    r"\.data/(version|serialization_id)|\.format_version)"
)
TENSOR = re.compile(r"(weight|tensor)_\d+")
TARGET = re.compile(
    r"torch\.ops\.(aten|prims|higher_order|quantized|quantized_decomposed|torchvision)(\.[a-z]\w*|\._[a-z]\w*|"
    r"\.[A-Z]\w*){1,2}|torch\.sym_\w+|torch\._sym_\w+|math\.(ceil|floor|trunc|sqrt|log2|pow)|"
    r"_operator\.(add|sub|mul|truediv|floordiv|mod|pow|neg|pos|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem|index)"
)
"""What a node may call; torch would look any other name up among everything that it imports."""
CALLS = {
    "Symbol", "Integer", "Rational", "Float", "Add", "Mul", "Pow", "Mod", "Max", "Min", "Abs", "Eq",
    "Ne", "Lt", "Le", "Gt", "Ge", "StrictLessThan", "LessThan", "StrictGreaterThan", "GreaterThan",
    "FloorDiv", "CleanDiv", "CeilDiv", "PythonMod", "ModularIndexing", "IntTrueDiv", "ToFloat",
    "TruncToInt", "CeilToInt", "FloorToInt", "RoundToInt", "Where", "And", "Or", "Not", "Equality",
    "Unequality", "OpaqueUnaryFn_sqrt",
}  # fmt: skip
NODES = (
    ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.keyword, ast.BinOp, ast.UnaryOp,
    ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.unaryop, ast.Compare, ast.cmpop,
)  # fmt: skip


@CONVERTERS.add("torch-export")
class TorchExportToOnnx(Converter):
    """Inputs and outputs keep the program's names; a fixed first axis of 1 means rows one by one."""

    takes = (".pt2",)

    def convert(self, source: Path, out: Path, wanted: Wanted) -> Draft:
        check_archive(source)
        with needs():
            import torch
        try:
            program = torch.export.load(source)
        except Exception as error:
            raise BadPackage(f"{source.name} does not load: {str(error)[:200]}.") from error
        return to_onnx(program, out, {"library": f"torch {torch.__version__}"})


def check_archive(source: Path) -> None:
    """Only raw tensors, JSON and harmless expressions; BadPackage otherwise."""
    try:
        with open_zip(source, MAX_RECORDS) as opened:
            for entry in opened.infolist():
                if entry.compress_type != zipfile.ZIP_STORED:
                    raise BadPackage(
                        f"{source.name} is compressed, which torch.export.save does not do."
                    )
                if not RECORDS.fullmatch(entry.filename):
                    raise BadPackage(f"{source.name} holds {entry.filename[:80]!r}.")
                if entry.filename.endswith(".json"):
                    if entry.file_size > MAX_JSON:
                        raise BadPackage(f"{entry.filename[:80]} is too large.")
                    found = json.loads(opened.read(entry))
                    if "/models/" in entry.filename and "graph_module" not in found:
                        raise BadPackage(f"{entry.filename[:80]} is not a program.")
                    _check_json(entry.filename, found)
    except (zipfile.BadZipFile, OSError, ValueError, RecursionError, NotImplementedError) as error:
        raise BadPackage(f"{source.name} is not what torch.export.save writes.") from error


def _check_json(name: str, root: Any) -> None:
    stack = [root]
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack += node
        if not isinstance(node, dict):
            continue
        stack += node.values()
        if node.get("use_pickle"):
            raise BadPackage(f"{name[:80]} asks to unpickle a record.")
        path = node.get("path_name")
        if path is not None and not (isinstance(path, str) and TENSOR.fullmatch(path)):
            raise BadPackage(f"{name[:80]} names the record {str(path)[:80]!r}.")
        target = node.get("target")
        if (
            "inputs" in node
            and "target" in node
            and not (isinstance(target, str) and TARGET.fullmatch(target))
        ):
            raise BadPackage(f"{name[:80]} calls {str(target)[:80]!r}, which is not an operator.")
        for key, value in node.items():
            if "expr" in key and isinstance(value, str):
                _check_expression(value)


def _name(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _is_small_power(call: ast.Call) -> bool:
    """Whether a power has a small exponent and no power in it: sympy would work it out for years."""
    inner = [n for part in call.args for n in ast.walk(part) if isinstance(n, ast.Call)]
    numbers = [n.value for n in ast.walk(call.args[-1]) if isinstance(n, ast.Constant)]
    return (
        len(call.args) == 2
        and all(_name(n) != "Pow" for n in inner)
        and len(numbers) == 1
        and type(numbers[0]) is int
        and numbers[0] <= 8
    )


def _check_expression(text: str) -> None:
    """Sympy evaluates these strings as Python; only sums of symbols and the like are let through."""
    try:
        if len(text) > 5000:
            raise ValueError("long")
        for node in ast.walk(ast.parse(text, mode="eval")):
            harmless = isinstance(node, NODES)
            if isinstance(node, ast.Call):
                harmless = isinstance(node.func, ast.Name) and node.func.id in CALLS
                harmless = harmless and (_name(node) != "Pow" or _is_small_power(node))
            if isinstance(node, ast.Name) and "__" in node.id:
                harmless = False
            if isinstance(node, ast.Constant) and type(node.value) is int and node.value >> 63:
                harmless = False
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                harmless = re.fullmatch(r"\w{1,40}", node.value) is not None
            if not harmless:
                raise ValueError(type(node).__name__)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BadPackage(f"A size is written as {text[:80]!r}, which is not evaluated.") from error
