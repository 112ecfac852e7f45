"""What the console says, in Chinese and English: one file of texts for each language."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Literal

import yaml

Language = Literal["zh", "en"]
LANGUAGES: tuple[Language, ...] = ("zh", "en")
FOLDER = Path(__file__).parent / "texts"


@cache
def texts(language: Language) -> dict[str, str]:
    """Every text of a language by its key."""
    found: dict[str, str] = yaml.safe_load((FOLDER / f"{language}.yaml").read_text("utf-8"))
    return found


def say(language: Language, key: str, /, **values: object) -> str:
    """A text; `{name}` in it is replaced by the value of that name."""
    text = texts(language)[key]
    return text.format(**values) if values else text


def word(language: Language, kind: str, name: str) -> str:
    """The word for a domain, task, state and the like; a plug-in's own name is shown as it is."""
    return texts(language).get(f"{kind}.{name}", name)


def choose(cookie: str, accepted: str) -> Language:
    """The language that somebody chose, else the one that the browser prefers."""
    for language in LANGUAGES:
        if cookie == language:
            return language
    wishes: list[tuple[float, int, str]] = []
    for place, part in enumerate(accepted.split(",")[:20]):
        name, _, weight = part.partition(";")
        number = re.fullmatch(r"\s*q=([01](?:\.\d{1,3})?)\s*", weight)
        wishes.append((-float(number[1]) if number else -1.0, place, name.strip().lower()))
    for _, _, name in sorted(wishes):
        for language in LANGUAGES:
            if name.split("-")[0] == language:
                return language
    return "en" if accepted.strip() else "zh"


# Gates, alias moves and canaries are written down in English; each of their few phrases has a Chinese one.
PHRASES = (
    (r"^promotion (\w+)", r"晋级 \1"),
    (r"^(晋级 \w+) from (\S+)", r"\1，取自 \2"),
    (r"\(self-approved\)", "（自行批准）"),
    (r"^withdrawn$", "版本已撤回"),
    (r"^retired$", "版本下线标记"),
    (r"^registered$", "注册新版本"),
    (r"^rollback from (\d+)", r"从版本 \1 回退"),
    (r"回退, past (.*)", r"回退，跳过版本 \1"),
    (r" \(withdrawn\)", "（已撤回）"),
    (r" \(retired\)", "（已下线）"),
    (r"^set by plain MLflow$", "由 MLflow 直接设置"),
    (r"^started$", "开始"),
    (r"^stopped by hand$", "人工停止"),
    (r"^promoted; all calls go to it$", "已提升，全部调用由它应答"),
    (r"^version (\d+) does not run any more$", r"版本 \1 已不再运行"),
    (r"^(\d+) of (\d+) calls failed, (\S+) before it$", r"\2 次调用中失败 \1 次，此前失败率为 \3"),
    (r"^median (\S+ ms), (\S+ ms) before it$", r"中位延迟 \1，此前为 \2"),
    (r"^p95 (\S+ ms), (\S+ ms) before it$", r"p95 延迟 \1，此前为 \2"),
    (
        r"^(\d+) calls, (\d+) failed, median (\S+ ms) \((\S+) before it\)$",
        r"\1 次调用，失败 \2 次，中位延迟 \3（此前为 \4）",
    ),
    (r"^(\S+) on (\S+?=\S+) ", r"\2 的 \1 "),
    (r"could not be measured", "无法测得"),
    (r" is (\S+), wanted ", r" 为 \1，要求"),
    (r"better than the baseline's (\S+)", r"优于基线的 \1"),
    (r"better than the champion's (\S+)", r"优于现役版本的 \1"),
    (r" by (\S+)", r" 至少 \1"),
    (r"at least (\S+)", r"不低于 \1"),
    (r"at most (\S+)", r"不高于 \1"),
    (r" and ", "，且"),
)


def verdict(language: Language, sentence: str) -> str:
    """A recorded sentence in the reader's language."""
    if language == "zh":
        for pattern, chinese in PHRASES:
            sentence = re.sub(pattern, chinese, sentence)
    return sentence
