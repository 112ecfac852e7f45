"""`sklearn`: an estimator or pipeline that skops wrote (`.skops`, no pickle), by skl2onnx."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from citybrain.core.errors import BadPackage
from citybrain.core.shelf import needs
from citybrain.core.tensors import Tensors
from citybrain.models.converter import CONVERTERS, Converter, Draft, Wanted

OWN = re.compile(r"sklearn(\.\w+)+\.[A-Z]\w*")
"""Classes of scikit-learn itself (compiled trees and the like); never functions."""


@CONVERTERS.add("sklearn")
class SklearnToOnnx(Converter):
    """Classifiers with numeric columns become tabular-classification; others the task tensor."""

    takes = (".skops",)

    def convert(self, source: Path, out: Path, wanted: Wanted) -> Draft:
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
