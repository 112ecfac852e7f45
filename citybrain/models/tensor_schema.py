"""A tensor as people and packages write it down: name, datatype, shape."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from citybrain.core.tensors import DTYPES, Array, TensorSpec
from citybrain.models.package import Strict


class Tensor(Strict):
    """One tensor of a model; the batch axis comes first, and is -1 where any size will do."""

    name: str = Field(min_length=1, max_length=200)
    dtype: Literal[
        "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
        "FP16", "BF16", "FP32", "FP64", "BYTES",
    ]  # fmt: skip
    shape: tuple[int, ...] = Field(min_length=1, max_length=8)
    optional: bool = False
    """The model gets zeros (empty texts) where a caller leaves this input out."""

    def spec(self) -> TensorSpec:
        """The same for checking arrays."""
        return TensorSpec(self.name, self.dtype, self.shape, self.optional)

    def blank(self, rows: int) -> Array:
        """Zeros or empty texts; a free size is 1."""
        shape = (rows, *(1 if size < 0 else size for size in self.shape[1:]))
        found = np.zeros(shape, DTYPES[self.dtype])
        if self.dtype == "BYTES":
            found.fill(b"")
        return found
