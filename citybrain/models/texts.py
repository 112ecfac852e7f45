"""Texts: strings of items to BYTES tensors and back, with the limits of every task of text."""

from __future__ import annotations

import re
from typing import Any

from citybrain.core.errors import BadJson, BadTensor
from citybrain.core.tensors import Array, bytes_array

SHORTEST = 6
FIRST_WIDE = "\u2e80"
"""From here on come Chinese, Japanese and Korean characters and their punctuation."""
_SENTENCE = re.compile(r"[^\n]+?(?:[。！？；…]+|[.!?;]+(?=\s|$)|$)\s*", re.MULTILINE)


def encode_texts(texts: list[str], limit: int) -> Array:
    """BYTES[n] of texts without the blanks at their ends; BadJson names the item."""
    rows = []
    for index, raw in enumerate(texts):
        text = raw.strip()
        if not 1 <= len(text) <= limit:
            raise BadJson(f"Item {index}: text must have 1 to {limit} characters.")
        try:
            rows.append(text.encode())
        except UnicodeEncodeError as error:
            raise BadJson(
                f"Item {index}: text holds half a surrogate pair at character {error.start}."
            ) from error
    return bytes_array(rows)


def decode_texts(tensor: Array, limit: int) -> list[str]:
    """The texts of BYTES[n]; BadTensor names the row."""
    return [_decoded(value, row, limit) for row, value in enumerate(tensor.tolist())]


def sentences(text: str) -> list[str]:
    """A text cut behind its sentences; none is shorter than a word or two, as a mere "Dr." is."""
    found: list[str] = []
    for match in _SENTENCE.finditer(text):
        if found and len(found[-1].strip()) < SHORTEST:
            found[-1] += match.group()
        else:
            found.append(match.group())
    if len(found) > 1 and len(found[-1].strip()) < SHORTEST:
        last = found.pop()
        found[-1] += last
    return [sentence.strip() for sentence in found]


def between(one: str, other: str) -> str:
    """What stands between two texts that follow one another: nothing in scripts without spaces."""
    wide = one[-1:] >= FIRST_WIDE or other[:1] >= FIRST_WIDE
    return " " if one and other and not wide else ""


def _decoded(value: Any, row: int, limit: int) -> str:
    try:
        text = bytes(value).decode().strip() if isinstance(value, bytes) else ""
    except UnicodeDecodeError as error:
        raise BadTensor(f"Row {row} of 'text' is not UTF-8 from byte {error.start} on.") from error
    if not 1 <= len(text) <= limit:
        raise BadTensor(f"Row {row} of 'text' must have 1 to {limit} characters.")
    return text
