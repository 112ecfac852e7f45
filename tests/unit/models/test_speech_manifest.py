"""Speech data sets are read from folders and zips, and the first bad line is named."""

from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from citybrain.core.errors import BadData
from citybrain.models.audio import encode_wav
from citybrain.models.datasets.speech_manifest import normalise, read_speech
from citybrain.models.package import Manifest
from citybrain.models.task import Task, open_task


def data_set(folder: Path, rows: list[tuple[str, ...]], header: str = "file,text,speaker") -> Path:
    folder.mkdir(exist_ok=True)
    with (folder / "manifest.csv").open("w", newline="") as file:
        file.write(header + "\n")
        csv.writer(file, lineterminator="\n").writerows(rows)
    (folder / "a.wav").write_bytes(encode_wav(np.full(900, 0.1, np.float32), 8_000))
    return folder


def task_of() -> Task:
    manifest = {
        "name": "spoken-digits", "title": {"zh": "数字", "en": "Digits"}, "domain": "safety",
        "task": "transcription", "runtime": "torch", "weights": "model.safetensors",
        "owner": "safety", "licence": "Apache-2.0", "options": {"tokens": list("_0123456789")},
    }  # fmt: skip
    return open_task(Manifest.model_validate(manifest))


def test_numbers_are_written_as_digits() -> None:
    assert normalise(" 3 0  7 ") == "307"
    assert normalise("３０７") == "307"
    assert normalise("Hello  WORLD 3") == "hello world 3"


def test_samples_come_from_a_folder_or_a_zip_with_their_tags(tmp_path: Path) -> None:
    rows = [("a.wav", "3 0", "ann", "phone"), ("a.wav", "7", "", "hall")]
    folder = data_set(tmp_path / "d", rows, "file,text,speaker,tag:line")
    packed = tmp_path / "d.zip"
    with zipfile.ZipFile(packed, "w") as made:
        for name in ("manifest.csv", "a.wav"):
            made.write(folder / name, f"inside/{name}")
    for path in (folder, packed):
        first, second = task_of().samples(path)
        assert first.truth.text == "30"
        assert first.tags == {"speaker": "ann", "line": "phone"}
        assert second.tags == {"line": "hall"}
        assert task_of().signature().check_inputs(first.inputs) == 1


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (("missing.wav", "1", ""), r"manifest.csv:3: there is no file"),
        (("../secret.wav", "1", ""), r"manifest.csv:3: .* not a path inside"),
        (("/etc/passwd", "1", ""), r"manifest.csv:3: .* not a path inside"),
        (("a.wav", " ", ""), r"manifest.csv:3: the text"),
        (("a.wav", "1"), r"manifest.csv:3: 2 values"),
        (("manifest.csv", "1", ""), r"manifest.csv:3: manifest.csv: not a WAV"),
        (("link.wav", "1", ""), r"manifest.csv:3: there is no file"),
    ],
)
def test_the_first_bad_line_is_named(tmp_path: Path, row: tuple[str, ...], reason: str) -> None:
    outside = tmp_path / "outside.wav"
    outside.write_bytes(encode_wav(np.ones(900, np.float32), 8_000))
    folder = data_set(tmp_path / "d", [("a.wav", "1", ""), row])
    (folder / "link.wav").symlink_to(outside)
    with pytest.raises(BadData, match=reason) as caught:
        task_of().samples(folder)
    assert str(tmp_path) not in str(caught.value)


def test_a_bad_zip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.zip"
    path.write_bytes(b"PK not a zip")
    with pytest.raises(BadData, match="not a zip"):
        list(read_speech(path))
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("deep/er/manifest.csv", "file,text\n")
    with pytest.raises(BadData, match=r"no manifest.csv at its top"):
        list(read_speech(path))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("manifest.csv", "file,text\nbomb.wav,1\n")
        made.writestr("bomb.wav", bytes(30_000_000))
    assert path.stat().st_size < 100_000
    with pytest.raises(BadData, match=r"manifest.csv:2: bomb.wav is larger than 20 MB"):
        list(read_speech(path))


def test_a_damaged_member_is_named(tmp_path: Path) -> None:
    sound = encode_wav(np.random.default_rng(0).normal(0, 0.1, 4_000).astype(np.float32), 8_000)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("a.wav", sound)
        made.writestr("manifest.csv", "file,text\na.wav,1\n")
    raw = bytearray(packed.getvalue())
    raw[200] ^= 0xFF
    (tmp_path / "d.zip").write_bytes(raw)
    with pytest.raises(BadData, match=r"manifest.csv:2: a.wav is damaged"):
        list(read_speech(tmp_path / "d.zip"))
