"""All cases: importing this module gathers them."""

from hostile import archives, bombs, graphs, mlflow_folders, packages, pickles, programs, tensors
from hostile.case import CASES

__all__ = [
    "CASES", "archives", "bombs", "graphs", "mlflow_folders", "packages", "pickles", "programs", "tensors",
]  # fmt: skip
