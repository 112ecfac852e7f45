"""Turn the Free Spoken Digit Dataset into two manifest zips: all speakers but one, and that one.

The recordings (https://github.com/Jakobovski/free-spoken-digit-dataset, CC BY-SA 4.0) are not
part of this project; the zips that this writes are for measuring on your own machine.

    python benchmarks/fsdd_manifest.py fsdd.zip --leave-out theo --out /tmp/fsdd
    citybrain train spoken-digits --data /tmp/fsdd/without-theo.zip --budget 90
    citybrain evaluate emergency-number --algorithm spoken-digits --data /tmp/fsdd/only-theo.zip
"""

from __future__ import annotations

import argparse
import csv
import io
import re
import sys
import zipfile
from pathlib import Path, PurePosixPath

NAME = re.compile(r"(?P<digit>\d)_(?P<speaker>[a-z]+)_(?P<index>\d+)\.wav")


def recordings(source: zipfile.ZipFile) -> dict[str, tuple[str, str]]:
    """The digit and the speaker of each recording, by its name in the zip."""
    found = {}
    for entry in sorted(source.namelist()):
        if match := NAME.fullmatch(PurePosixPath(entry).name):
            found[entry] = (match["digit"], match["speaker"])
    return found


def write(source: zipfile.ZipFile, chosen: dict[str, tuple[str, str]], path: Path) -> None:
    """A zip of these recordings with their manifest."""
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(("file", "text", "speaker"))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for entry, (digit, speaker) in chosen.items():
            name = PurePosixPath(entry).name
            made.writestr(name, source.read(entry))
            rows.writerow((name, digit, speaker))
        made.writestr("manifest.csv", table.getvalue())


def main() -> int:
    """Read the arguments, write the two zips, print their paths."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="zip of files named digit_speaker_index.wav")
    parser.add_argument("--leave-out", required=True, metavar="SPEAKER", help="the test speaker")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the two zips")
    asked = parser.parse_args()
    with zipfile.ZipFile(asked.source) as source:
        every = recordings(source)
        speakers = sorted({speaker for _, speaker in every.values()})
        if asked.leave_out not in speakers or len(speakers) < 2:
            print(f"No recordings to leave out; speakers: {', '.join(speakers)}", file=sys.stderr)
            return 1
        asked.out.mkdir(parents=True, exist_ok=True)
        parts = {
            f"without-{asked.leave_out}.zip": {
                entry: what for entry, what in every.items() if what[1] != asked.leave_out
            },
            f"only-{asked.leave_out}.zip": {
                entry: what for entry, what in every.items() if what[1] == asked.leave_out
            },
        }
        for name, chosen in parts.items():
            write(source, chosen, asked.out / name)
            print(f"{asked.out / name}: {len(chosen)} recordings")
    return 0


if __name__ == "__main__":
    sys.exit(main())
