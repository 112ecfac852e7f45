"""Families of the transformers library answer behind our tasks as they do in the library."""

import io
import json

import numpy as np
import pytest
import soundfile
import support_models as tiny
import tokenizers
import torch
import transformers
from PIL import Image
from scipy.stats import norm, t
from support_models import BUILDERS, manifest_of, write_package

from citybrain.core.errors import (
    BadJson,
    BadMedia,
    BadPackage,
    BadTensor,
    CityBrainError,
    ModelFailed,
)
from citybrain.core.tensors import bytes_array
from citybrain.models.audio import encode_wav
from citybrain.models.hearing import waveforms, whisper_features
from citybrain.models.package import Manifest
from citybrain.models.predictor import Predictor
from citybrain.models.task import open_task
from citybrain.models.tokenizer import Characters

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A predictor of a tiny model, built once for the whole file."""
    known = {}

    def make(family, build=(), **options):
        key = (family, build, repr(options))
        if key not in known:
            folder = tmp_path_factory.mktemp(family)
            write_package(family, folder, build=dict(build), **options)
            known[key] = Predictor.open(folder)
        return known[key]

    return make


def folder_of(predictor):
    return predictor.package.folder


def sounds():
    rng = np.random.default_rng(0)
    return [
        (rng.normal(size=16_000) * 0.1).astype(np.float32),
        (np.sin(np.arange(30_000) * 0.1) * 0.5).astype(np.float32),
        (np.sin(np.arange(8_000) ** 1.5 * 0.01) * 0.3).astype(np.float32),
    ]


def heard(rows):
    """Recordings as task tensors of one request."""
    audio = np.zeros((len(rows), max(map(len, rows))), np.float32)
    for index, row in enumerate(rows):
        audio[index, : len(row)] = row
    return {
        "audio": audio,
        "sample_rate": np.full(len(rows), 16_000, np.int32),
        "length": np.array([len(row) for row in rows], np.int32),
    }


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("family", BUILDERS)
def test_a_folder_is_opened_warmed_up_and_described(family, opened):
    predictor = opened(family)
    predictor.warm_up()
    assert int(predictor.runtime.describe()["parameters"]) > 1_000
    (answer,) = predictor.infer([predictor.task.read(predictor.task.example())])
    for spec in predictor.signature.outputs:
        spec.check(answer[spec.name])


@pytest.mark.parametrize("family", BUILDERS)
def test_code_pickles_and_missing_weights_are_refused(family, tmp_path):
    folder = write_package(family, tmp_path)
    config = (folder / "config.json").read_text()
    edit(folder / "config.json", auto_map={"AutoModel": "evil.Model"})
    with pytest.raises(BadPackage, match="auto_map"):
        Predictor.open(folder)
    (folder / "config.json").write_text(config)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04N.")
    with pytest.raises(BadPackage, match="pickle"):
        Predictor.open(folder)
    (folder / "pytorch_model.bin").unlink()
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    state.pop(min(name for name in state if "weight" in name))
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadPackage, match="missing weights"):
        Predictor.open(folder)


def test_bert_reads_texts_with_the_folders_own_tokenizer(opened):
    predictor = opened("bert")
    folder = folder_of(predictor)
    model = transformers.BertForSequenceClassification.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = ["A tree fell on the road", "The lamp is broken", "water " * 60]
    items = [predictor.task.Input(text) for text in texts]
    together = predictor.predict(items)
    for text, item, found in zip(texts, items, together, strict=True):
        ids = tokenizer(text, truncation=True, max_length=32, return_tensors="pt")
        with torch.inference_mode():
            truth = model(**ids).logits.softmax(-1)[0].numpy()
        assert list(found.probabilities.values()) == pytest.approx(truth.tolist(), rel=1e-4)
        (alone,) = predictor.predict([item])
        assert alone.label == found.label
        assert alone.probabilities == pytest.approx(found.probabilities, rel=1e-4)
    assert len({tuple(one.probabilities.values()) for one in together}) == 3


def test_vit_sees_what_the_librarys_own_processor_shows_it(opened):
    predictor = opened("vit")
    folder = folder_of(predictor)
    model = transformers.ViTForImageClassification.from_pretrained(folder)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    rng = np.random.default_rng(4)
    for size, close in (((32, 32), 1e-4), ((90, 60), 0.02)):  # scaling differs by one level
        image = Image.fromarray(rng.integers(0, 255, (*size, 3), np.uint8))
        file = io.BytesIO()
        image.save(file, "PNG")
        with torch.inference_mode():
            pixels = processor(image, return_tensors="pt")["pixel_values"]
            truth = model(pixels).logits.softmax(-1)[0].tolist()
        other = predictor.task.Input(b"BM nothing")
        (found,) = predictor.predict([predictor.task.Input(file.getvalue())])
        assert list(found.probabilities.values()) == pytest.approx(truth, rel=close)
        with pytest.raises(BadMedia, match="Item 0"):
            predictor.predict([other])


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_wav2vec2_hears_normalised_waveforms(norm, opened):
    predictor = opened("wav2vec2", build=(("norm", norm),))
    folder = folder_of(predictor)
    model = transformers.Wav2Vec2ForCTC.from_pretrained(folder)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    decoder = transformers.Wav2Vec2CTCTokenizer.from_pretrained(folder)
    rows = sounds()
    prepared = predictor.task.prepare(heard(rows))
    logits = predictor.runtime.infer(prepared)
    texts = [one.text for one in predictor.task.write(predictor.infer([heard(rows)])[0])]
    assert len(set(texts)) == 3
    for index, row in enumerate(rows):
        values = extractor(row, sampling_rate=16_000, return_tensors="pt").input_values
        assert np.allclose(prepared["features"][index, : len(row)], values[0], atol=1e-5)
        with torch.inference_mode():
            truth = model(values).logits[0].numpy()
        length = int(logits["frames"][index])
        assert length == len(truth)
        assert np.allclose(logits["logits"][index, :length], truth, rtol=1e-4, atol=1e-3)
        said = decoder.decode(truth.argmax(-1))
        for special in ("<s>", "</s>", "<unk>"):
            said = said.replace(special, "")
        assert texts[index] == " ".join(said.split())
        (alone,) = predictor.infer([heard([row])])
        assert alone["text"][0].decode() == texts[index]


def test_waveforms_are_left_as_they_are_where_the_folder_says_so(tmp_path):
    folder = write_package("wav2vec2", tmp_path)
    edit(folder / "preprocessor_config.json", do_normalize=False)
    task = Predictor.open(folder).task
    (row, *_) = sounds()
    assert np.array_equal(task.prepare(heard([row]))["features"][0], row)
    edit(folder / "preprocessor_config.json", sampling_rate=8_000)
    with pytest.raises(BadPackage, match="sampling_rate 8000"):
        Predictor.open(folder)


def test_a_sound_of_a_few_samples_is_answered(opened):
    for build in ((), (("norm", "group"),)):
        (answer,) = opened("wav2vec2", build=build).infer([heard([np.ones(3, np.float32)])])
        assert not isinstance(answer, CityBrainError)
    found = waveforms([np.ones(3, np.float32)], 16_000, normalise=True)
    assert found["lengths"].tolist() == [1_600]


def test_the_blank_may_be_any_token(tmp_path):
    manifest = manifest_of("wav2vec2", tokens=["a", "b", "[PAD]", "|"], blank=2, unwritten=["b"])
    task = open_task(Manifest.model_validate(manifest))
    logits = 9 * np.eye(4, dtype=np.float32)[None, [2, 0, 0, 3, 1, 2, 0, 2, 3]]
    assert task.finish({"logits": logits}, {})["text"].tolist() == [b"a a"]
    for wrong in ({"blank": 31}, {"tokens": ["a"]}, {"tokens": []}):
        with pytest.raises(BadPackage, match="options"):
            open_task(Manifest.model_validate(manifest_of("wav2vec2", **wrong)))


def test_whisper_writes_what_the_library_generates(opened):
    predictor = opened("whisper")
    folder = folder_of(predictor)
    model = transformers.WhisperForConditionalGeneration.from_pretrained(folder)
    processor = transformers.WhisperFeatureExtractor.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    end = model.generation_config.eos_token_id
    rows = sounds()
    answers = predictor.task.write(predictor.infer([heard(rows)])[0])
    assert len({one.text for one in answers}) == 3
    counts = []
    for row, found in zip(rows, answers, strict=True):
        features = processor(row, sampling_rate=16_000, return_tensors="pt").input_features
        assert np.allclose(whisper_features([row], 80)["features"][0], features[0], **CLOSE)
        truth = model.generate(
            features, max_new_tokens=12, do_sample=False, language="en", task="transcribe",
            return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip
        written = truth.sequences[0, -len(truth.scores) :]
        assert found.text == tokenizer.decode(written, skip_special_tokens=True).strip()
        logs = [
            score[0].log_softmax(-1)[token].item()
            for score, token in zip(truth.scores, written, strict=True)
        ]
        assert found.confidence == pytest.approx(np.exp(np.mean(logs)), abs=1e-4)
        (alone,) = predictor.infer([heard([row])])
        assert alone["text"][0].decode() == found.text
        assert alone["confidence"][0] == pytest.approx(found.confidence, rel=1e-3)
        counts.append((len(written), end in written.tolist()))
    assert (12, False) in counts
    assert any(ended for _, ended in counts)


def test_whisper_hears_thirty_seconds_and_says_so(opened):
    predictor = opened("whisper")
    long = heard([np.ones(480_001, np.float32)])
    answer, other = predictor.infer([long, heard(sounds()[:1])])
    assert isinstance(answer, BadMedia)
    assert "30 s" in str(answer)
    assert "text" in other


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"language": "fr"}, "knows no 'fr'"),
        ({"n_mels": 128}, "feature_size 80"),
        ({"sample_rate": 8_000}, "sample_rate must be 16000"),
        ({"features": "waveform", "tokens": ["a", "b"]}, "must be 'whisper'"),
    ],
)
def test_whisper_options_that_do_not_fit_the_folder_are_refused(options, reason, tmp_path):
    with pytest.raises(BadPackage, match=reason):
        Predictor.open(write_package("whisper", tmp_path, **options))


def test_whisper_finds_out_the_language_or_has_only_one(tmp_path, opened):
    usual = opened("whisper").infer([heard(sounds())])[0]
    folder = write_package("whisper", tmp_path, language="")
    (together,) = Predictor.open(folder).infer([heard(sounds())])
    apart = Predictor.open(folder).infer([heard([row]) for row in sounds()])
    assert [one["text"][0] for one in apart] == together["text"].tolist()
    edit(folder / "generation_config.json", is_multilingual=False, lang_to_id=None)
    (english,) = Predictor.open(folder).infer([heard(sounds())])
    assert len({*english["text"].tolist(), *usual["text"].tolist()}) > 3


def test_whisper_may_hear_nothing(tmp_path):
    folder = write_package("whisper", tmp_path)
    config = json.loads((folder / "generation_config.json").read_text())
    others = [number for number in range(46) if number != config["eos_token_id"]]
    edit(folder / "generation_config.json", suppress_tokens=others, begin_suppress_tokens=None)
    (found,) = Predictor.open(folder).infer([heard(sounds())])
    assert found["text"].tolist() == [b""] * 3
    assert found["confidence"].tolist() == [1.0] * 3


def test_how_whisper_searches_is_not_the_folders_choice(tmp_path, opened):
    folder = write_package("whisper", tmp_path)
    edit(folder / "generation_config.json", do_sample=True, temperature=9.0, num_beams=4)
    found = Predictor.open(folder).infer([heard(sounds())])[0]
    usual = opened("whisper").infer([heard(sounds())])[0]
    assert found["text"].tolist() == usual["text"].tolist()


def test_vits_speaks_as_the_library_does_without_noise(opened):
    predictor = opened("vits", build=(("speakers", 3),), speakers=3)
    folder = folder_of(predictor)
    model = transformers.VitsModel.from_pretrained(folder)
    model.noise_scale = model.noise_scale_duration = 0.0
    tokenizer = transformers.VitsTokenizer.from_pretrained(folder)
    lines = [("Hello, World!", 0), ("a", 1), ("the road-works don't end " * 4, 2)]
    items = [predictor.task.Input(text, speaker) for text, speaker in lines]
    inputs = predictor.task.read(items)
    (answer,) = predictor.infer([inputs])
    for index, (text, speaker) in enumerate(lines):
        ids = tokenizer(text, return_tensors="pt").input_ids
        assert Characters(folder).encode(text) == ids[0].tolist()
        with torch.inference_mode():
            truth = model(input_ids=ids, speaker_id=speaker).waveform[0].numpy()
        length = int(answer["length"][index])
        assert length == len(truth)
        assert np.allclose(answer["audio"][index, :length], truth, **CLOSE)
        assert not answer["audio"][index, length:].any()
        (alone,) = predictor.infer(
            [{name: array[index : index + 1] for name, array in inputs.items()}]
        )
        assert alone["audio"].shape == (1, length)
        assert np.array_equal(alone["audio"][0], answer["audio"][index, :length])
    speech = predictor.task.write(answer)[0]
    samples, rate = soundfile.read(io.BytesIO(speech.audio), dtype="float32")
    assert rate == speech.sample_rate == 16_000
    assert speech.seconds == pytest.approx(len(samples) / rate, abs=1e-3)
    assert np.allclose(samples, answer["audio"][0, : len(samples)], atol=1e-4)


def test_texts_of_several_calls_are_joined_whatever_their_lengths(tmp_path, opened):
    folder = write_package("vits", tmp_path)
    manifest = (folder / "algorithm.yaml").read_text()
    (folder / "algorithm.yaml").write_text(manifest + "max_batch: 1\n")
    texts = {"text": bytes_array([b"good morning", b"a", b"tree"])}
    (apart,) = Predictor.open(folder).infer([texts])
    (together,) = opened("vits").infer([texts])
    assert np.array_equal(apart["audio"], together["audio"])
    assert apart["length"].tolist() == together["length"].tolist()


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ({"text": bytes_array(["你好".encode()])}, "knows no character"),
        ({"text": bytes_array([b"x" * 501])}, "1 to 500 characters"),
        ({"text": bytes_array([b"\xff"])}, "UTF-8"),
        ({"text": bytes_array([b"a"]), "speaker": np.array([1], np.int32)}, "speaker is 0 to 0"),
    ],
)
def test_a_text_that_cannot_be_spoken_gets_an_error_of_its_own(inputs, reason, opened):
    answer, other = opened("vits").infer([inputs, {"text": bytes_array([b"hello"])}])
    assert isinstance(answer, BadTensor)
    assert reason in str(answer)
    assert "audio" in other


def test_items_of_speech_are_checked(opened):
    task = opened("vits").task
    with pytest.raises(BadJson, match="Item 1"):
        task.read([task.Input("a"), task.Input(" ")])
    with pytest.raises(BadTensor, match="speaker"):
        task.read([task.Input("a", -1)])
    with pytest.raises(BadTensor, match="speaker"):
        task.read([task.Input("a", 2**40)])


def test_a_vits_folder_that_does_not_fit_is_refused(tmp_path):
    folder = write_package("vits", tmp_path, sample_rate=22_050)
    with pytest.raises(BadPackage, match="sample_rate is 22050, the model's 16000"):
        Predictor.open(folder)
    folder = write_package("vits", tmp_path)
    edit(folder / "tokenizer_config.json", phonemize=True)
    with pytest.raises(BadPackage, match="phonem"):
        Predictor.open(folder).predict(
            [open_task(Manifest.model_validate(manifest_of("vits"))).Input("a")]
        )


def test_a_vits_folder_may_bring_a_tokenizer_json(tmp_path):
    folder = write_package("vits", tmp_path)
    usual = Characters(folder).encode("hello")
    vocabulary = {token: index for index, token in enumerate(tiny.VITS_TOKENS)}
    whole = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="_"))
    whole.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    whole.save(str(folder / "tokenizer.json"))
    (folder / "vocab.json").unlink()
    assert Characters(folder).encode("hello") == usual
    edit(folder / "tokenizer_config.json", add_blank=False)
    assert Characters(folder).encode("hello") == usual[1::2]
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(BadPackage, match="tokenizer.json"):
        Characters(folder)


def test_speech_without_end_is_stopped_before_it_fills_the_memory(tmp_path):
    folder = write_package("vits", tmp_path)
    predictor = Predictor.open(folder)
    predictor.runtime._family.model.duration_predictor.register_forward_hook(
        lambda _m, _i, found: found + 20, prepend=True
    )
    (answer,) = predictor.infer([{"text": bytes_array([b"hello"])}])
    assert isinstance(answer, ModelFailed)


@pytest.mark.parametrize(
    ("loss", "distribution", "head"),
    [
        ("mse", "student_t", "point"),
        ("nll", "student_t", "student-t"),
        ("nll", "normal", "normal"),
    ],
)
def test_patchtst_forecasts_points_or_the_quantiles_of_its_distribution(
    loss, distribution, head, opened
):
    predictor = opened(
        "patchtst", build=(("loss", loss), ("distribution", distribution)), head=head
    )
    model = transformers.PatchTSTForPrediction.from_pretrained(folder_of(predictor))
    rng = np.random.default_rng(3)
    series = (50 + 10 * rng.normal(size=(3, 32))).astype(np.float32)
    (answer,) = predictor.infer([{"series": series}])
    with torch.inference_mode():
        found = model(past_values=torch.from_numpy(series)[..., None])
    levels = np.array([0.1, 0.5, 0.9])
    if head == "point":
        truth = found.prediction_outputs.numpy().repeat(3, axis=2)
    else:
        *shape, centre, spread = (part.numpy() for part in found.prediction_outputs)
        law = t(shape[0]) if shape else norm()
        truth = (centre + spread * law.ppf(levels)) * found.scale.numpy() + found.loc.numpy()
        whole = model.distribution_output.distribution(
            found.prediction_outputs, loc=found.loc, scale=found.scale
        )
        assert np.allclose(answer["forecast"][..., 1], whole.mean.numpy()[..., 0], rtol=1e-4)
    assert np.allclose(answer["forecast"], truth, rtol=1e-4)
    (alone,) = predictor.infer([{"series": series[1:2]}])
    assert np.allclose(alone["forecast"][0], answer["forecast"][1], rtol=1e-4)
    short, good = predictor.infer([{"series": np.zeros((1, 0), np.float32)}, {"series": series}])
    assert isinstance(short, BadTensor)
    assert np.array_equal(good["forecast"], answer["forecast"])


@pytest.mark.parametrize(
    ("build", "options", "reason"),
    [
        ({}, {"context": 64}, "context is 64, the model's 32"),
        ({}, {"horizon": 3}, "horizon is 3"),
        ({}, {"head": "normal"}, "head is normal, the model's point"),
        ({}, {"calendar": True}, "calendar is True"),
        ({"loss": "nll", "distribution": "negative_binomial"}, {}, "negative-binomial"),
    ],
)
def test_patchtst_options_that_do_not_fit_the_folder_are_refused(build, options, reason, tmp_path):
    with pytest.raises(BadPackage, match=reason):
        Predictor.open(write_package("patchtst", tmp_path, build=build, **options))


def test_a_recording_travels_as_json_and_back_as_text(opened):
    predictor = opened("wav2vec2")
    item = predictor.task.Input(encode_wav(sounds()[1], 16_000))
    (found,) = predictor.predict([item])
    assert set(found.text) <= set(tiny.LETTERS) | {" "}
    with pytest.raises(BadMedia, match="Item 1"):
        predictor.predict([item, predictor.task.Input(b"no sound")])
