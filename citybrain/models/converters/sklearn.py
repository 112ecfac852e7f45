"""`sklearn`: an estimator or pipeline that skops wrote (`.skops`, no pickle), by skl2onnx."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from citybrain.core.errors import BadPackage
from citybrain.core.shelf import needs
from citybrain.core.tensors import Tensors
from citybrain.models.converter import CONVERTERS, Converter, Draft, Wanted
from citybrain.models.zip_file import open_zip

OWN = re.compile(r"sklearn(\.\w+)+\._?[A-Z]\w*")
"""Classes of scikit-learn itself (compiled trees and the like); never functions."""
LIBRARIES = re.compile(
    r"builtins\.(str|int|float|bool|list|tuple|dict|set|bytes|bytearray|slice|NoneType|complex|type)|"
    r"numpy\.(ndarray|matrix|dtype|bool_?|[a-z]+\d+|dtypes\.\w+|ma\.MaskedArray|ma\.core\.MaskedArray)|"
    r"numpy\.random\.(_generator\.Generator|mtrand\.RandomState|_[a-z0-9]+\.[A-Z]\w+)|"
    r"scipy\.sparse(\.\w+)*\.[a-z]{3}_(matrix|array)|collections\.(OrderedDict|defaultdict)"
)
REFUSED = {"OperatorFuncNode", "MethodNode", "PartialNode", "FunctionNode", "QuantileForestNode"}
"""Kinds of node that stand for something to call."""
MAX_ENTRIES = 20_000
MAX_SCHEMA = 64 << 20
MAX_RATIO = 100
MAX_PROTOCOL = 16
SMALL = 1 << 20


@CONVERTERS.add("sklearn")
class SklearnToOnnx(Converter):
    """Classifiers with numeric columns become tabular-classification; others the task tensor."""

    takes = (".skops",)

    def convert(self, source: Path, out: Path, wanted: Wanted) -> Draft:
        check_schema(source)  # before libraries that take seconds to import
        with needs():
            import sklearn
            from skl2onnx import convert_sklearn
            from skl2onnx.common.data_types import FloatTensorType
        model = _load(source)
        width = getattr(model, "n_features_in_", None)
        if not isinstance(width, int):
            raise BadPackage(f"{source.name} holds {type(model).__name__}, which is not fitted.")
        classifies = hasattr(model, "predict_proba")
        try:
            converted = convert_sklearn(
                model, wanted.name, [("features", FloatTensorType([None, width]))],
                options={id(model): {"zipmap": False}} if classifies else None,
            )  # fmt: skip
        except Exception as error:
            reason = str(error).splitlines()[0][:200]
            raise BadPackage(f"skl2onnx cannot convert {type(model).__name__}: {reason}") from error
        names = [item.name for item in converted.graph.output]
        if classifies:  # the class is that of the largest probability; one output is enough
            kept = next(item for item in converted.graph.output if "prob" in item.name)
            del converted.graph.output[:]
            converted.graph.output.append(kept)
            names = [kept.name]
        (out / "model.onnx").write_bytes(converted.SerializeToString())

        def reference(inputs: Tensors) -> Tensors:
            rows = inputs["features"]
            if classifies:
                return {names[0]: np.asarray(model.predict_proba(rows), np.float32)}
            found = np.asarray(model.predict(rows), np.float32)
            return {names[0]: found.reshape(len(rows), -1)}

        draft = Draft("model.onnx", reference=reference, facts={
            "library": f"scikit-learn {sklearn.__version__}", "estimator": _told(model),
        })  # fmt: skip
        columns = getattr(model, "feature_names_in_", None)
        if classifies:
            draft.task = "tabular-classification"
            draft.options = {
                "features": [str(c) for c in columns] if columns is not None
                else [f"x{i}" for i in range(width)],
                "labels": [str(label) for label in model.classes_],
            }  # fmt: skip
        return draft


def check_schema(source: Path) -> None:
    """The classes that a file names, read as JSON; BadPackage unless they are data and estimators."""
    try:
        with open_zip(source, MAX_ENTRIES) as opened:
            whole = sum(entry.file_size for entry in opened.infolist())
            if whole > max(source.stat().st_size * MAX_RATIO, SMALL):
                raise BadPackage(f"{source.name} unpacks to more than {MAX_RATIO} times its size.")
            schema = opened.getinfo("schema.json")
            if schema.file_size > MAX_SCHEMA:
                raise BadPackage(
                    f"{source.name}: schema.json is larger than {MAX_SCHEMA >> 20} MB."
                )
            names = set(opened.namelist())
            stack = [json.loads(opened.read(schema))]
    except (
        zipfile.BadZipFile,
        KeyError,
        OSError,
        ValueError,
        RecursionError,
        RuntimeError,
    ) as error:
        raise BadPackage(f"{source.name} is not what skops.io.dump writes.") from error
    if not (isinstance(stack[0], dict) and "__loader__" in stack[0]):
        raise BadPackage(f"{source.name} is not what skops.io.dump writes.")
    if stack[0].get("protocol") not in range(MAX_PROTOCOL + 1):
        raise BadPackage(f"{source.name} is of a later protocol than this platform's skops.")
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack += node
        elif isinstance(node, dict):
            stack += node.values()
            _check_node(source.name, node, names)


def _check_node(name: str, node: dict[str, Any], files: set[str]) -> None:
    if "__loader__" in node:
        named = f"{node.get('__module__')}.{node.get('__class__')}"
        if node["__loader__"] in REFUSED or not (
            OWN.fullmatch(named) or LIBRARIES.fullmatch(named)
        ):
            raise BadPackage(
                f"{name} asks for {named[:120]}.",
                hint="Only estimators of scikit-learn itself, numpy and scipy are taken.",
            )
        if isinstance(node.get("file"), str) and node["file"] not in files:
            raise BadPackage(f"{name} names {node['file'][:80]!r}, which is not in it.")


def _load(source: Path) -> Any:
    with needs():
        import skops.io
    try:
        asked = skops.io.get_untrusted_types(file=source)
        strange = [name for name in asked if not OWN.fullmatch(name)]
        if strange:
            raise BadPackage(
                f"{source.name} asks for {', '.join(strange[:5])[:300]}.",
                hint="Only estimators of scikit-learn itself, numpy and scipy are taken.",
            )
        return skops.io.load(source, trusted=asked)
    except BadPackage:
        raise
    except Exception as error:
        raise BadPackage(f"{source.name} cannot be read by skops: {str(error)[:200]}.") from error


def _told(model: Any) -> str:
    steps = getattr(model, "steps", None)
    names = [type(step).__name__ for _, step in steps] if steps else [type(model).__name__]
    return " → ".join(names)[:200]
