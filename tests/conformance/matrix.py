"""The door × feature table in docs/doors.md, made of what the cases of a run saw."""

import os
from collections import Counter
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "doors.md"
DOORS = ("REST, JSON", "REST, binary", "gRPC", "gRPC stream")
OURS = ("task API, JSON", "task API, form", "server-sent events", "batch jobs")
NAME = os.environ.get("CITYBRAIN_CONFORMANCE_NAME", "citybrain")
SEEN = pytest.StashKey[dict[tuple[str, str], Counter]]()


def note(config, feature, door, *, passed):
    """One more case of this cell."""
    seen = config.stash.setdefault(SEEN, {})
    seen.setdefault((feature, door), Counter())[passed] += 1


def table(config):
    """Rows in the order in which the features ran; a cell is `passed/cases`."""
    seen = config.stash.get(SEEN, {})
    used = {door for _, door in seen}
    assert used <= {*DOORS, *OURS}
    doors = [*DOORS, *(door for door in OURS if door in used)]
    lines = [f"| feature | {' | '.join(doors)} |", "|---" * (len(doors) + 1) + "|"]
    for feature in dict.fromkeys(feature for feature, _ in seen):
        cells = [_cell(seen.get((feature, door))) for door in doors]
        lines.append(f"| {feature} | {' | '.join(cells)} |")
    passed = sum(count[True] for count in seen.values())
    cases = sum(count.total() for count in seen.values())
    return "\n".join([*lines, "", f"{passed} of {cases} cases passed."])


def _cell(count):
    return "" if count is None else f"{count[True]}/{count.total()}"


def committed():
    """The table of this server as the page has it."""
    return PAGE.read_text(encoding="utf-8").split(_marks()[0])[1].split(_marks()[1])[0].strip()


def write(new):
    """Put a new table into the page."""
    before, rest = PAGE.read_text(encoding="utf-8").split(_marks()[0])
    after = rest.split(_marks()[1])[1]
    PAGE.write_text(f"{before}{_marks()[0]}\n{new}\n{_marks()[1]}{after}", encoding="utf-8")


def _marks():
    return f"<!-- cases of {NAME}: begin -->", f"<!-- cases of {NAME}: end -->"
