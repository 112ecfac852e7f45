"""New keys and their successors: where a secret exists once, outside its holder's hands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from citybrain.core.keys import key_digest, new_key
from citybrain.core.schemas import Actor, IssuedKey, NewKey, NewRotation

if TYPE_CHECKING:
    from citybrain.platform.wiring import Truths


def issue_key(truths: Truths, new: NewKey, actor: Actor) -> IssuedKey:
    """Make a key; the only moment when its secret exists outside its holder's hands."""
    key_id, secret = new_key(_environment(truths))
    key = truths.people.add_key(new, key_id, key_digest(truths.pepper, secret), actor)
    return IssuedKey(**key.model_dump(), secret=secret)


def rotate_key(truths: Truths, key_id: str, new: NewRotation, actor: Actor) -> IssuedKey:
    """Make a key that takes another's place; its secret, too, exists here once."""
    fresh_id, secret = new_key(_environment(truths))
    digest = key_digest(truths.pepper, secret)
    key = truths.people.rotate_key(key_id, fresh_id, digest, new, actor)
    return IssuedKey(**key.model_dump(), secret=secret)


def _environment(truths: Truths) -> str:
    return "prod" if truths.settings.profile == "production" else "emb"
