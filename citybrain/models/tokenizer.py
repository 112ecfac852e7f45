"""Tokenizers that lie beside the weights: `tokenizer.json`, or the characters of a `vocab.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from citybrain.core.errors import BadPackage
from citybrain.core.shelf import needs
from citybrain.models.transformers_checks import read_object

TOKENIZER = "tokenizer.json"
SETTINGS = "tokenizer_config.json"
VOCABULARY = "vocab.json"
PADS = ("[PAD]", "<pad>")


def open_tokenizer(folder: Path | None) -> Any:
    """The folder's `tokenizers.Tokenizer`, without padding; BadPackage says what is wrong."""
    with needs():
        from tokenizers import Tokenizer
    if folder is None:
        raise BadPackage("The tokenizer lies in the package folder, which is not here.")
    try:
        text = (folder / TOKENIZER).read_text(encoding="utf-8")
        return Tokenizer.from_str(text)
    except OSError as error:
        raise BadPackage(f"{TOKENIZER} cannot be read: {error.strerror}.") from error
    except Exception as error:  # the library raises bare Exception
        reason = str(error).splitlines()[0][:200] if str(error) else "not its format"
        raise BadPackage(f"{TOKENIZER}: {reason}.") from error


def padding_id(tokenizer: Any) -> int:
    """The id that fills short rows: the tokenizer's own, that of a usual name, or 0."""
    if tokenizer.padding:
        return int(tokenizer.padding["pad_id"])
    found = (tokenizer.token_to_id(name) for name in PADS)
    return next((int(number) for number in found if number is not None), 0)


class Characters:
    """Text to ids for speech synthesis: one id a character, blanks between them if so trained.

    Reads `tokenizer.json` where the folder has one, else `vocab.json` (a token to its id), and
    `tokenizer_config.json`: `add_blank` puts the id 0 before, between and after the others,
    `normalize` makes letters small that are known only so. What the vocabulary lacks is not
    spoken. The same as `VitsTokenizer` of transformers.
    """

    def __init__(self, folder: Path | None) -> None:
        if folder is None:
            raise BadPackage("The vocabulary lies in the package folder, which is not here.")
        path = folder / SETTINGS
        settings = read_object(path) if path.is_file() else {}
        if settings.get("phonemize"):
            raise BadPackage(
                f"{SETTINGS}: phonemize: the model speaks phonemes, and no phonemizer is here.",
                hint="Serve a model that was trained on characters.",
            )
        self._whole: Any = open_tokenizer(folder) if (folder / TOKENIZER).is_file() else None
        # What writes a tokenizer.json describes all of its steps there, blanks included.
        self._blank = bool(settings.get("add_blank", self._whole is None))
        self._lower = bool(settings.get("normalize", self._whole is None))
        self._ids = {} if self._whole else _vocabulary(folder)

    def encode(self, text: str) -> list[int]:
        """The ids of a text; an empty list when nothing of it is known."""
        if self._whole:
            ids = [int(number) for number in self._whole.encode(text).ids]
        else:
            known = "".join(self._known(letter) for letter in text).strip()
            ids = [self._ids[letter] for letter in known]
        if self._blank and ids:
            spread = [0] * (2 * len(ids) + 1)
            spread[1::2] = ids
            return spread
        return ids

    def _known(self, letter: str) -> str:
        if self._lower and letter not in self._ids:
            letter = letter.lower()
        return "".join(part for part in letter if part in self._ids)  # "İ" is two when small


def _vocabulary(folder: Path) -> dict[str, int]:
    found = read_object(folder / VOCABULARY)
    if not found or not all(type(number) is int and number >= 0 for number in found.values()):
        raise BadPackage(f"{VOCABULARY} does not give each token its id.")
    return found
