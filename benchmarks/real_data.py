"""Train and examine the recipes on real public data, by the product's own commands.

    CITYBRAIN_TEST_DATA=/data python benchmarks/real_data.py [traffic|speech|text|vision ...]

Needs a running platform (`citybrain up --detach`) and the folder of public data sets that
docs/real-data.md describes. The last 20 % (of rows, dialogues or files), or the left-out speaker,
is the test part; it is looked at once. Prints a Markdown table; `--out` keeps the reports as JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from citybrain.core.settings import Settings
from citybrain.platform.cli.output import client

HERE = Path(__file__).parent
TEST_SHARE = 0.2
SPEAKERS = ("george", "jackson", "nicolas", "theo")


def run(*words: str) -> str:
    """One command; its output."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}\n{done.stdout}{done.stderr}")
    return done.stdout


def measure(recipe: str, scenario: str, train: Path, test: Path, *options: str) -> dict:
    """`citybrain train --data`, then `citybrain evaluate --data`; the report."""
    words = [sys.executable, "-m", "citybrain.platform.cli.main", "train", recipe]
    trained = json.loads(run(*words, "--data", str(train), "--json", *options))
    with client() as city:
        found = city.evaluate(scenario, recipe, str(trained["version"]), str(test))
    return found.report


def traffic(data: Path, work: Path) -> dict[str, dict]:
    """Los-loop speeds (3 steps ahead) and PeMS lane flow (one step ahead)."""
    split = [sys.executable, str(HERE / "traffic_split.py")]
    run(*split, str(data / "traffic/losloop_speed_train80.csv.gz"), str(work / "los"),
        "--start", "2012-03-01T00:00")  # fmt: skip
    run(*split, str(data / "traffic/pems_lane1_flow_train.csv.gz"), str(work / "pems"),
        "--time", "5 Minutes", "--time-format", "%d/%m/%Y %H:%M",
        "--columns", "Lane 1 Flow (Veh/5 Minutes)")  # fmt: skip
    return {
        f"traffic-flow, {name}": measure(
            "traffic-flow", "evening-peak", work / folder / "train.csv", work / folder / "test.csv",
            "--set", "context=12", "--set", f"horizon={horizon}", "--budget", budget,
        )
        for name, folder, horizon, budget in (
            ("Los-loop speed, 15 minutes ahead", "los", 3, "90"),
            ("PeMS lane flow, 5 minutes ahead", "pems", 1, "60"),
        )
    }  # fmt: skip


def speech(data: Path, work: Path) -> dict[str, dict]:
    """Each real speaker left out in turn."""
    found = {}
    for speaker in SPEAKERS:
        run(sys.executable, str(HERE / "fsdd_manifest.py"),
            str(data / "speech/fsdd_4speakers.zip"), "--leave-out", speaker,
            "--out", str(work))  # fmt: skip
        found[f"spoken-digits, without {speaker}"] = measure(
            "spoken-digits", "emergency-number", work / f"without-{speaker}.zip",
            work / f"only-{speaker}.zip", "--budget", "90",
        )  # fmt: skip
    return found


def text(data: Path, work: Path) -> dict[str, dict]:
    """CrossWOZ utterances to domains, beside TF-IDF with logistic regression."""
    said = run(sys.executable, str(HERE / "crosswoz_domains.py"),
               str(data / "text/crosswoz_val.jsonl.gz"), str(work), "--baseline")  # fmt: skip
    print(said, file=sys.stderr)
    report = measure(
        "hotline-router", "hotline-routing", work / "crosswoz-train.csv",
        work / "crosswoz-test.csv", "--budget", "120",
    )  # fmt: skip
    return {"hotline-router, CrossWOZ domains": report}


def vision(data: Path, work: Path) -> dict[str, dict]:
    """Real top-view images: the first 80 % of the files to train, the rest to test."""
    source = data / "vision/vehicles_topview"
    images = sorted((source / "images").iterdir())
    first = int(len(images) * (1 - TEST_SHARE))
    for part, files in (("train", images[:first]), ("test", images[first:])):
        for kind in ("images", "labels"):
            (work / part / kind).mkdir(parents=True)
        for image in files:
            shutil.copy(image, work / part / "images")
            label = source / "labels" / f"{image.stem}.txt"
            shutil.copy(label, work / part / "labels")
    report = measure(
        "vehicle-detector", "road-vehicles", work / "train", work / "test", "--budget", "240"
    )
    return {"vehicle-detector, top-view images": report}


PARTS = {"traffic": traffic, "speech": speech, "text": text, "vision": vision}


def main() -> None:
    """Measure the chosen parts and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="nothing: all")
    parser.add_argument("--out", type=Path, help="keep the reports here, as JSON")
    options = parser.parse_args()
    folder = Settings().test_data
    if not folder:
        raise SystemExit("Set CITYBRAIN_TEST_DATA to the folder of public data.")
    reports: dict[str, dict] = {}
    for part in options.parts or PARTS:
        with tempfile.TemporaryDirectory() as work:
            reports |= PARTS[part](Path(folder), Path(work))
    if options.out:
        options.out.write_text(json.dumps(reports, indent=1, ensure_ascii=False))
    print("| algorithm, data | items | metric | value | 95 % interval | baseline |")
    print("|---|---|---|---|---|---|")
    for name, report in reports.items():
        for metric, value in report["metrics"].items():
            baseline = report["baseline"]
            print(
                f"| {name} | {report['items']} | {metric} | {value['value']:.4f} "
                f"| {value['low']:.4f} to {value['high']:.4f} "
                f"| {baseline['name']} {baseline['metrics'][metric]:.4f} |"
            )


if __name__ == "__main__":
    main()
