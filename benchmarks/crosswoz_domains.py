"""Turn CrossWOZ dialogues into labelled texts: which domain does an utterance speak of?

CrossWOZ (Zhu et al. 2020) is a Chinese dialogue data set about sights, restaurants, hotels, metro
and taxi. This writes `crosswoz-train.csv` and `crosswoz-test.csv` for the task text-classification.

    python benchmarks/crosswoz_domains.py crosswoz_val.jsonl.gz out/
    citybrain train hotline-router --data out/crosswoz-train.csv --budget 120

The input has one JSON object a line: dialog_id, role (usr or sys), text, dialog_act (a list of
[intent, domain, slot, value]). The label is the domain of the first act that names one; acts that
are all general (greetings, thanks) give `General`; utterances without any act are left out. The
last fifth of the dialogues, in the order of the file, is the test part.

With --baseline, TF-IDF of character 1- to 3-grams with logistic regression is fitted and scored
on the same two parts.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
from pathlib import Path
from typing import Any

TEST_SHARE = 0.2
GENERAL = "General"
Row = tuple[str, str, str]


def label_of(acts: list[list[str]]) -> str | None:
    """The domain that these dialogue acts are about."""
    for intent, domain, *_ in acts:
        if intent != GENERAL and domain not in ("", "none"):
            return domain
    return GENERAL if acts else None


def split(utterances: list[dict[str, Any]]) -> tuple[list[Row], list[Row]]:
    """Rows of text, label and role for train and test; no dialogue lies in both."""
    dialogues = list(dict.fromkeys(item["dialog_id"] for item in utterances))
    test = set(dialogues[int(len(dialogues) * (1 - TEST_SHARE)) :])
    parts: tuple[list[Row], list[Row]] = ([], [])
    for item in utterances:
        label, text = label_of(item["dialog_act"]), item["text"].strip()
        if label and text:
            parts[item["dialog_id"] in test].append((text, label, item["role"]))
    return parts


def write(path: Path, rows: list[Row]) -> None:
    """One part as CSV."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["text", "label", "tag:role"])
        writer.writerows(rows)
    print(f"{path}: {len(rows)} utterances")


def baseline(train: list[Row], test: list[Row]) -> None:
    """Print accuracy and macro-F1 of the n-gram baseline."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score, f1_score
    from sklearn.pipeline import make_pipeline

    truth = [label for _, label, _ in test]
    for strength in (1.0, 4.0, 10.0):
        model = make_pipeline(
            TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True),
            LogisticRegression(C=strength, max_iter=1000),
        )
        model.fit([row[0] for row in train], [row[1] for row in train])
        guess = model.predict([row[0] for row in test])
        print(
            f"TF-IDF + logistic regression, C={strength:g}: "
            f"accuracy {accuracy_score(truth, guess):.4f}, "
            f"macro-F1 {f1_score(truth, guess, average='macro'):.4f}"
        )


def main() -> None:
    """Read the arguments and write the two files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="the dialogues, .jsonl or .jsonl.gz")
    parser.add_argument("out", type=Path, help="the folder to write the two CSV files to")
    parser.add_argument("--baseline", action="store_true", help="also score the n-gram baseline")
    arguments = parser.parse_args()
    opener: Any = gzip.open if arguments.source.suffix == ".gz" else open
    with opener(arguments.source, "rt", encoding="utf-8") as file:
        utterances = [json.loads(line) for line in file if line.strip()]
    train, test = split(utterances)
    arguments.out.mkdir(parents=True, exist_ok=True)
    write(arguments.out / "crosswoz-train.csv", train)
    write(arguments.out / "crosswoz-test.csv", test)
    if arguments.baseline:
        baseline(train, test)


if __name__ == "__main__":
    main()
