"""Our errors inside texts of others: Ray Serve passes on an exception's text and no more."""

from __future__ import annotations

import contextlib
import json
import re

from citybrain.core.errors import CityBrainError, error_from

MARK = "citybrain-error "


def marked(error: CityBrainError) -> str:
    """An error as one line that `marked_in` finds again in text that others wrap around it."""
    return MARK + json.dumps([error.code, error.message, error.hint])


def marked_in(text: str) -> CityBrainError | None:
    """The last error in a text that `marked` wrote there."""
    for line in reversed(re.findall(rf"{MARK}(\[.*\])", text)):
        with contextlib.suppress(ValueError):
            code, message, hint = json.loads(line)
            return error_from(str(code), str(message), str(hint))
    return None
