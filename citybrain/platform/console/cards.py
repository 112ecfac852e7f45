"""The algorithm card as Markdown, in the form of a Hugging Face model card."""

from __future__ import annotations

from typing import Any

import yaml

from citybrain.core.schemas import Card
from citybrain.core.schemas.cards import CardFigures
from citybrain.platform.console.texts import Language, say, word

PIPELINES = {
    "transcription": "automatic-speech-recognition",
    "forecasting": "time-series-forecasting",
}
"""Tasks that are called otherwise there."""


def as_markdown(card: Card, language: Language) -> str:
    """YAML front matter for machines, then sections for people."""

    def t(key: str) -> str:
        return say(language, key)

    title = card.title_zh if language == "zh" else card.title_en
    front = yaml.safe_dump(_front(card, language), sort_keys=False, allow_unicode=True)
    facts = [
        (t("version"), f"{card.version} ({', '.join(card.aliases) or '–'})"),
        (t("owner"), card.owner),
        (t("card.contact"), card.contact or "–"),
        (t("licence"), card.licence),
        (t("card.level"), word(language, "level", card.level)),
        (t("domain"), word(language, "domain", card.domain)),
        (t("task"), word(language, "task", card.task)),
        (t("runtime"), card.runtime),
        (t("created"), f"{card.registered_at:%Y-%m-%d %H:%M} UTC"),
        (t("digest"), f"`{card.digest}`"),
    ]
    if card.remote:
        facts.append((t("card.remote"), f"`{card.remote}` ({t('card.remote.digest')})"))
    lines = ["---", front.rstrip(), "---", "", f"# {title}", ""]
    if card.description:
        lines += [card.description, ""]
    if card.withdrawn:
        lines += [f"> {t('version.withdrawn')}: {card.withdrawn}", ""]
    if card.retirement:
        sunset = f"{card.retirement.sunset:%Y-%m-%d %H:%M} UTC"
        lines += [f"> {say(language, 'retired.sunset', date=sunset)}", ""]
    lines += [f"- **{name}**: {value}" for name, value in facts]
    lines += ["", f"## {t('card.purposes')}", ""]
    lines += [f"- {purpose}" for purpose in card.purposes] or [t("card.any_purpose")]
    lines += ["", f"## {t('card.limits')}", ""]
    lines += [f"- {limit}" for limit in card.limits] or [t("card.none_said")]
    lines += ["", f"## {t('card.training_data')}", "", card.training_data or t("card.none_said")]
    if card.data:
        lines += [
            "",
            f"`{card.data}`" + (f" (sha256 {card.data_digest})" if card.data_digest else ""),
        ]
    lines += ["", f"## {t('evaluations')}", ""]
    for found in card.evaluations:
        lines += [*_table(found, language), ""]
    if not card.evaluations:
        lines += [t("overview.no_evaluations"), ""]
    return "\n".join(lines)


def _table(found: CardFigures, language: Language) -> list[str]:
    passed = say(language, "gate.passed" if found.passed else "gate.failed")
    head = f"{found.scenario}, {found.at:%Y-%m-%d}, "
    head += say(language, "evaluation.items", count=found.items)
    columns = [say(language, key) for key in ("metric", "value", "evaluation.interval")]
    return [
        f"### {head} ({passed})", "",
        f"| {' | '.join(columns)} |", "|---|---|---|",
        *(
            f"| {name} | {one['value']:.4g} | {one['low']:.4g} – {one['high']:.4g} |"
            for name, one in found.metrics.items()
        ),
    ]  # fmt: skip


def _front(card: Card, language: Language) -> dict[str, Any]:
    pipeline = PIPELINES.get(card.task, card.task)
    results = [
        {
            "task": {"type": pipeline},
            "dataset": {"type": found.scenario, "name": found.scenario},
            "metrics": [{"type": n, "value": m["value"]} for n, m in found.metrics.items()],
        }
        for found in card.evaluations
    ]
    return {
        "language": language,
        "license": card.licence.lower(),
        "pipeline_tag": pipeline,
        "tags": [card.domain, card.level.value, *card.purposes],
        "model_name": f"{card.algorithm}@{card.version}",
        "model-index": [{"name": card.algorithm, "results": results}],
    }
