"""Personal things in texts, replaced by what they are: phones, e-mails, cards, plates.

Patterns, not understanding: names, addresses and what is spelled in words stay. That is why nothing of a
sensitive algorithm is kept at all (contents.py), whatever these find.
"""

from __future__ import annotations

import re

_PROVINCES = "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼使领"
_ASCII = {0xFF10 + n: 0x30 + n for n in range(10)}  # what Chinese keyboards type wide
_ASCII |= {0xFF21 + n: 0x41 + n for n in range(26)} | {0xFF41 + n: 0x61 + n for n in range(26)}
_ASCII |= {0xFF20: 0x40, 0xFF0E: 0x2E, 0xFF0D: 0x2D, 0xFF0B: 0x2B}

PATTERNS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (f"<{name}>", re.compile(pattern, re.ASCII | re.IGNORECASE))
    for name, pattern in (
        ("email", r"[\w.+%-]{1,64}@[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63}){1,8}"),
        (
            "plate",
            rf"[{_PROVINCES}][A-HJ-NP-Z][ ·•.-]?[A-HJ-NP-Z0-9]{{4,5}}[A-HJ-NP-Z0-9挂学警港澳]",
        ),
        (
            "id-card",
            r"(?<!\d)[1-9]\d{5}[ -]?(?:18|19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])"
            r"[ -]?\d{3}[\dx](?![\da-z])",
        ),
        ("phone", r"(?<!\d)(?:\+?86[ -]?)?1[3-9]\d[ -]?\d{4}[ -]?\d{4}(?!\d)"),
        ("bank-card", r"(?<!\d)[1-9]\d{3}(?:[ -]?\d{4}){2,3}(?:[ -]?\d{1,3})?(?!\d)"),
        ("phone", r"(?<!\d)(?:\+86[ -]?)?\(?0\d{2,3}\)?[ -]?\d{3,4}[ -]?\d{4}(?!\d)"),
        ("phone", r"\+\d{1,3}(?:[ -]?\d{2,4}){2,5}(?!\d)"),
        ("number", r"\d{7,}"),
        ("number", r"[〇零一二三四五六七八九幺两]{7,}"),
    )
)


def masked(text: str) -> str:
    """The text with placeholders; wide digits and letters come out narrow where it has any."""
    text = text.translate(_ASCII)
    for placeholder, pattern in PATTERNS:
        text = pattern.sub(placeholder, text)
    return text
