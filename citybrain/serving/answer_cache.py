"""Answers that stand for a while: the same input again is answered without the model.

Behind every door alike, because what counts are the task's tensors: one picture over gRPC and as a
form is one input. A call is metered, limited and logged as any other; only the model is spared.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence

import numpy as np
from cachetools import TTLCache

from citybrain.core.errors import CityBrainError
from citybrain.core.tensors import Tensors
from citybrain.models.predictor import Answer, Predictor
from citybrain.models.runtime import Stop

MOST_BYTES = 32 << 20
"""Of kept answers, in each replica; the oldest go first."""


class AnswerCache:
    """In front of one predictor, for algorithms whose `algorithm.yaml` says `answer_seconds`."""

    def __init__(self, predictor: Predictor, seconds: float, most: int = MOST_BYTES) -> None:
        self._predictor = predictor
        self._kept: TTLCache[bytes, Tensors] = TTLCache(most, seconds, getsizeof=_size)
        self._lock = threading.Lock()

    def infer(self, requests: Sequence[Tensors], stop: Stop | None = None) -> list[Answer]:
        """As `Predictor.infer`; equal requests of one frame share one place in the batch, too."""
        keys = [digest(request) for request in requests]
        with self._lock:
            found: dict[bytes, Answer] = {key: self._kept[key] for key in keys if key in self._kept}
        missing = {
            key: request for key, request in zip(keys, requests, strict=True) if key not in found
        }
        answers = self._predictor.infer(list(missing.values()), stop) if missing else []
        for key, answer in zip(missing, answers, strict=True):
            found[key] = answer
            if not isinstance(answer, CityBrainError):
                self._keep(key, answer)
        return [found[key] for key in keys]

    def _keep(self, key: bytes, answer: Tensors) -> None:
        if _size(answer) <= self._kept.maxsize // 8:  # one answer does not empty the whole cache
            # Copies: an answer is a view of its batch, which would stay in memory with it.
            own = {name: array.copy() for name, array in answer.items()}
            with self._lock:
                self._kept[key] = own


def digest(tensors: Tensors) -> bytes:
    """What tells one input from another: names, datatypes, shapes and every value."""
    found = hashlib.blake2b(digest_size=16)
    for name, array in sorted(tensors.items()):
        found.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        if array.dtype == np.object_:
            for value in array.ravel().tolist():
                found.update(len(value).to_bytes(8, "little") + value)
        else:
            found.update(np.ascontiguousarray(array).data)
    return found.digest()


def _size(tensors: Tensors) -> int:
    """Bytes that an answer takes, about."""
    return 200 + sum(
        sum(len(value) + 60 for value in array.ravel().tolist())
        if array.dtype == np.object_ else array.nbytes
        for array in tensors.values()
    )  # fmt: skip
