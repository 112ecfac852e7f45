"""Transcription: recordings in, text out, whoever else is in the batch."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from citybrain.core.errors import BadData, BadMedia, BadPackage, BadTensor, TooLarge
from citybrain.models.audio import encode_wav, resample
from citybrain.models.ctc import greedy_ctc
from citybrain.models.datasets.speech_manifest import read_speech
from citybrain.models.digit_voices import draw_voice, speak
from citybrain.models.package import Manifest
from citybrain.models.predictor import Predictor
from citybrain.models.recipe import quiet
from citybrain.models.recipes import spoken_digits
from citybrain.models.recipes.spoken_digits import SpokenDigits
from citybrain.models.task import Task, open_task

TOKENS = list("_0123456789")
MANIFEST: dict[str, Any] = {
    "name": "spoken-digits", "title": {"zh": "数字", "en": "Digits"}, "task": "transcription",
    "runtime": "torch", "weights": "model.safetensors", "domain": "safety", "owner": "safety",
    "licence": "Apache-2.0", "options": {"tokens": TOKENS}, "lineage": {"recipe": "spoken-digits"},
}  # fmt: skip


@pytest.fixture(scope="module")
def voice_files() -> list[bytes]:
    rng = np.random.default_rng(2)
    voices = [draw_voice(rng) for _ in range(5)]
    texts = ["3", "4071", "92", "118", "650342"]
    return [
        encode_wav(speak(text, voice, rng), voice.rate)
        for text, voice in zip(texts, voices, strict=True)
    ]


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """A network of random weights, loud enough to say different things of different sounds."""
    folder = tmp_path_factory.mktemp("package")
    (folder / "algorithm.yaml").write_text(yaml.safe_dump(MANIFEST))
    torch.manual_seed(1)
    state = SpokenDigits().network({"n_mels": 40, "tokens": TOKENS}).state_dict()
    save_file(
        {k: 3 * v if v.ndim > 1 else v for k, v in state.items()}, folder / "model.safetensors"
    )
    return Predictor.open(folder)


def task_of(**options: Any) -> Task:
    return open_task(Manifest.model_validate(MANIFEST | {"options": {"tokens": TOKENS} | options}))


def test_an_answer_does_not_depend_on_who_else_is_in_the_request(
    predictor: Predictor, voice_files: list[bytes]
) -> None:
    alone = [predictor.infer([predictor.task.read_media([raw])])[0] for raw in voice_files]
    together = predictor.infer([predictor.task.read_media(voice_files)])[0]
    apart = predictor.infer([predictor.task.read_media([raw]) for raw in voice_files])
    texts = [answer["text"][0] for answer in alone]
    assert len(set(texts)) > 2
    assert together["text"].tolist() == texts
    assert [answer["text"][0] for answer in apart] == texts
    sure = [answer["confidence"][0] for answer in alone]
    assert np.allclose(together["confidence"], sure, atol=1e-4)


def test_an_answer_does_not_depend_on_padding(
    predictor: Predictor, voice_files: list[bytes]
) -> None:
    plain = predictor.task.prepare(predictor.task.read_media(voice_files))
    more = dict(plain, features=np.pad(plain["features"], ((0, 0), (0, 50), (0, 0)), "edge"))
    short, long = predictor.runtime.infer(plain), predictor.runtime.infer(more)
    assert short["frames"].tolist() == long["frames"].tolist()
    for index, length in enumerate(short["frames"]):
        assert np.allclose(
            short["logits"][index, :length], long["logits"][index, :length], atol=1e-3
        )


def test_calls_of_nearly_equal_length_share_a_batch(predictor: Predictor) -> None:
    sizes = [
        predictor.task.prepare({
            "audio": np.ones((1, samples), np.float32), "sample_rate": np.array([8_000], np.int32),
        })["features"].shape
        for samples in (6_700, 7_500, 8_300)
    ]  # fmt: skip
    assert set(sizes) == {(1, 125, 40)}


def test_what_lies_beyond_the_length_is_not_heard(predictor: Predictor) -> None:
    rng = np.random.default_rng(0)
    audio = rng.normal(0, 0.1, (1, 9_000)).astype(np.float32)
    rate = np.array([8_000], np.int32)
    cut = {"audio": audio[:, :6_000], "sample_rate": rate}
    told = {"audio": audio, "sample_rate": rate, "length": np.array([6_000], np.int32)}
    first, second = predictor.infer([cut, told])
    assert first["text"].tolist() == second["text"].tolist()
    assert np.allclose(first["confidence"], second["confidence"], atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"sample_rate": np.array([10], np.int32)}, BadTensor),
        ({"length": np.array([0], np.int32)}, BadTensor),
        ({"length": np.array([101], np.int32)}, BadTensor),
        ({"audio": np.full((1, 100), np.nan, np.float32)}, BadTensor),
        ({"audio": np.zeros((1, 2_400_001), np.float32)}, BadMedia),
    ],
)
def test_bad_tensors_get_an_error_of_their_own(
    predictor: Predictor, changes: dict[str, Any], error: type[Exception]
) -> None:
    good = {"audio": np.ones((1, 100), np.float32), "sample_rate": np.array([4_000], np.int32)}
    answer, other = predictor.infer([good | changes, good])
    assert isinstance(answer, error)
    assert "text" in other


def test_a_call_of_too_much_sound_is_refused_before_it_is_padded(
    monkeypatch: pytest.MonkeyPatch, voice_files: list[bytes]
) -> None:
    monkeypatch.setattr("citybrain.models.tasks.transcription.MAX_SAMPLES", 40_000)
    with pytest.raises(TooLarge, match="too much for one call"):
        task_of().read_media(voice_files)


def test_an_item_is_base64_in_json_and_a_bad_one_is_named(voice_files: list[bytes]) -> None:
    task = task_of()
    body = f'[{{"audio": "{base64.b64encode(voice_files[0]).decode()}"}}, {{"audio": "aGVsbG8="}}]'
    items = msgspec.json.decode(body, type=list[task.Input])  # type: ignore[name-defined]
    assert task.signature().check_inputs(task.read(items[:1])) == 1
    with pytest.raises(BadMedia, match="Item 1"):
        task.read(items)


def test_the_example_is_answered(predictor: Predictor) -> None:
    (answer,) = predictor.predict(predictor.task.example())
    assert 0 <= answer.confidence <= 1


def test_repeats_collapse_and_the_blank_parts_them() -> None:
    path = [0, 4, 4, 0, 4, 8, 8, 0, 0]
    logits = np.eye(11, dtype=np.float32)[path] * 9
    text, sure = greedy_ctc(logits, TOKENS, " ")
    assert text == "3 3 7"
    assert 0.99 < sure < 1
    assert greedy_ctc(logits[:1], TOKENS, "") == ("", pytest.approx(sure, abs=0.01))
    assert greedy_ctc(logits[:0], TOKENS, "") == ("", 0.0)


def test_tokens_must_fit_the_model_and_one_another() -> None:
    with pytest.raises(BadPackage, match="differ"):
        task_of(tokens=["_", "1", "1"])
    with pytest.raises(BadTensor, match="3 outputs for 11 tokens"):
        task_of().finish({"logits": np.zeros((1, 4, 3), np.float32)}, {})


def test_generated_parts_repeat_themselves_and_share_no_speaker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spoken_digits, "VOICES", {"train": 3, "test": 2})
    monkeypatch.setattr(spoken_digits, "STRINGS", {"train": 2, "test": 2})
    recipe = SpokenDigits()
    once, again, other = (
        recipe.generate(tmp_path / name, seed=5, part=part)
        for name, part in (("a", "train"), ("b", "train"), ("a", "test"))
    )
    files = sorted(path.name for path in once.iterdir())
    assert len(files) == 7
    assert all((once / name).read_bytes() == (again / name).read_bytes() for name in files)
    speakers = [{one.speaker for one in read_speech(path)} for path in (once, other)]
    assert not speakers[0] & speakers[1]
    assert all(set(one.text) <= set("0123456789") for one in read_speech(other))


def test_a_recipe_trained_on_words_answers_in_their_letters(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    folder = tmp_path / "d"
    folder.mkdir()
    rows = ["file,text,speaker"]
    for number in range(12):
        hertz = 300 if number % 2 else 1_500
        sound = 0.3 * np.sin(2 * np.pi * hertz * np.arange(4_000) / 8_000)
        sound = resample((sound + rng.normal(0, 0.01, 4_000)).astype(np.float32), 8_000, 16_000)
        (folder / f"{number}.wav").write_bytes(encode_wav(sound, 16_000))
        rows.append(f"{number}.wav,{'no' if number % 2 else 'Yes'},{number % 3}")
    (folder / "manifest.csv").write_text("\n".join(rows))
    shares: list[float] = []
    recipe = SpokenDigits()
    metrics = recipe.train(
        folder, tmp_path / "p", seed=0, budget=4.0, progress=lambda share, _: shares.append(share)
    )
    assert metrics.keys() == {"cer", "exact-match"}
    assert shares == sorted(shares) and shares[-1] == 1.0
    predictor = Predictor.open(tmp_path / "p")
    assert predictor.task.options.tokens == ["_", "e", "n", "o", "s", "y"]
    (answer,) = predictor.predict([predictor.task.Input((folder / "0.wav").read_bytes())])
    assert set(answer.text) <= set("enosy")


def test_one_recording_is_not_enough_to_train(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("file,text\na.wav,1\n")
    (tmp_path / "a.wav").write_bytes(encode_wav(np.full(900, 0.1, np.float32), 8_000))
    with pytest.raises(BadData, match="One recording"):
        SpokenDigits().train(tmp_path, tmp_path / "p", seed=0, budget=2.0, progress=quiet)
