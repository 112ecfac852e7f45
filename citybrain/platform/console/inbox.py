"""What a department is told, in the reader's language."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime
from typing import Annotated

from fastapi import Request, Response

from citybrain.core.schemas import Key
from citybrain.core.schemas.grants import Notice
from citybrain.platform.api.access import Plane, may_key
from citybrain.platform.console.door import language_of, pages, show
from citybrain.platform.console.texts import Language, say, texts, word

router = pages()
MOMENTS = ("until", "sunset")
"""Details that are moments, written as text."""


@router.get("/notices")
def notices(
    request: Request, plane: Plane, key: Annotated[Key, may_key("notice.read")]
) -> Response:
    """Newest first; those that nobody has read stand out."""
    zone, language = plane.truths.settings.zone, language_of(request)

    titles = {
        one.name: one.title_zh if language == "zh" else one.title_en
        for one in plane.truths.people.departments()
    }

    def readable(notice: Notice) -> Notice:
        detail = dict(notice.detail)
        for name in MOMENTS:
            if detail.get(name):
                at = datetime.fromisoformat(detail[name]).astimezone(zone)
                detail[name] = f"{at:%Y-%m-%d %H:%M}"
        if asker := detail.get("department"):
            detail["department"] = titles.get(asker, asker)
        return notice.model_copy(update={"detail": detail})

    found = [readable(one) for one in plane.notices.find(key.department)]
    return show(
        request, "notices.html", key=key,
        notices=[(notice, sentence(language, notice)) for notice in found],
        algorithms={one.name: one for one in plane.catalogue.algorithms()},
    )  # fmt: skip


def sentence(language: Language, notice: Notice) -> str:
    """What a notice says; a kind that has no words of its own is shown with its details."""
    key, detail = f"notice.{notice.kind}", notice.detail
    if key not in texts(language):
        return f"{notice.kind} {', '.join(f'{k}={v}' for k, v in detail.items())}"
    shown = {**detail, "previous": detail.get("previous") or "–"}
    if kind := detail.get("kind"):
        shown["kind"] = word(language, "stoppable", kind)
    said = texts(language)[key].format_map(defaultdict(str, shown))
    for more in ("answer", "reason", "replacement", "pinned"):
        if detail.get(more):
            said += say(language, f"notice.with_{more}", value=detail[more])
    return said
