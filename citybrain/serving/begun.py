"""Answers that come in parts, on the replica's side: what was asked, and what is answered of it.

A replica works on a part only when somebody asks for it, in a frame like any other. So other calls
go between two parts, a reader who is slow or gone costs no more than the part that was under way, and
what an answer holds meanwhile is bounded here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from citybrain.core.errors import NotReady
from citybrain.core.tensors import Tensors
from citybrain.models.task import Piece
from citybrain.serving.wire import Call

MOST = 32
"""Answers that have begun and not ended; another is given whole."""
MOST_BYTES = 256 << 20
"""Bytes of all their inputs and outputs, at which the next is given whole."""
IDLE_SECONDS = 60.0
"""After which nobody is believed to ask for the next part."""


class Begun:
    """One call that is answered in parts."""

    def __init__(
        self, call: Call, request: Any, rows: int, amount: float, pieces: list[Piece]
    ) -> None:
        self.call = call._replace(body=b"")
        self.request = request
        self.rows = rows
        """Of the whole call, as is the amount."""
        self.amount = amount
        self.pieces = pieces
        self.answers: list[Tensors] = []
        self.size = sum(size_of(piece.inputs) for piece in pieces)
        self.touched = 0.0

    @property
    def next(self) -> Piece | None:
        """What is answered next; None: all of it was."""
        return self.pieces[len(self.answers)] if len(self.answers) < len(self.pieces) else None

    def take(self, answer: Tensors) -> dict[str, float]:
        """Keep the answer to the next piece; what that part says of itself."""
        number, piece = len(self.answers), self.pieces[len(self.answers)]
        self.answers.append(answer)
        self.size += size_of(answer)
        return {"part": number, "row": piece.row, **piece.told}


class BegunAnswers:
    """Those of one replica, by request id."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun: dict[str, Begun] = {}

    def __len__(self) -> int:
        return len(self._begun)

    def keep(self, request_id: str, begun: Begun) -> bool:
        """Keep one for whoever asks on; False where there is no room."""
        since = self._clock() - IDLE_SECONDS
        for idle in [key for key, one in self._begun.items() if one.touched < since]:
            del self._begun[idle]
        held = begun.size + sum(one.size for one in self._begun.values())
        if len(self._begun) >= MOST or held > MOST_BYTES:
            return False
        begun.touched = self._clock()
        self._begun[request_id] = begun
        return True

    def find(self, request_id: str) -> Begun:
        """One that was kept; NotReady where it is here no more."""
        begun = self._begun.get(request_id)
        if begun is None:
            raise NotReady("The rest of this answer is here no more.", hint="Repeat the call.")
        begun.touched = self._clock()
        return begun

    def drop(self, request_id: str) -> None:
        """Nobody asks for it any more."""
        self._begun.pop(request_id, None)


def size_of(tensors: Tensors) -> int:
    """About how many bytes they take."""
    return sum(
        sum(map(len, array.ravel().tolist())) if array.dtype == object else array.nbytes
        for array in tensors.values()
    )
