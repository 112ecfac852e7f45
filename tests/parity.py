"""The table of conversions in docs/admission.md, written by the tests that compare them at full counts."""

import os
import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "admission.md"
HEAD = "| source | output | relative deviation | before → after, ms | before → after, kB |\n|---|---|---|---|---|\n"


class ParityTable:
    """Rows of one test module; `write` puts them between the page's marks for it."""

    def __init__(self):
        self.rows = []

    def add(self, source, report):
        """What a report says of a conversion."""
        outputs = ", ".join(report["parity"])
        gaps = ", ".join(f"{gap['relative']:.1g}" for gap in report["parity"].values())
        speed = " → ".join(f"{took:.3g}" for took in report["speed"])
        size = " → ".join(f"{size / 1000:,.0f}" for size in report["bytes"])
        self.rows.append(f"| {source} | {outputs} | {gaps} | {speed} | {size} |\n")

    def write(self, name):
        if "TRUST_FULL" not in os.environ or not self.rows:
            return
        begin, end = (f"<!-- {name}: {mark} -->" for mark in ("begin", "end"))
        text = PAGE.read_text(encoding="utf-8")
        assert begin in text
        between = text.partition(begin)[2].partition(end)[0].splitlines(keepends=True)
        # Of sources that were not asked this time (`-k`), the row from before stays.
        rows = {row.split("|")[1]: row for row in [*between, *self.rows] if row.startswith("| ")}
        rows.pop(HEAD.split("|")[1], None)
        table = f"{begin}\n{HEAD}{''.join(rows[source] for source in sorted(rows))}{end}"
        pattern = re.escape(begin) + r".*?" + re.escape(end)
        PAGE.write_text(re.sub(pattern, lambda _: table, text, flags=re.DOTALL), encoding="utf-8")
