"""Requests cut into pieces that answer one after another: rows, sentences, windows of sound."""

import numpy as np
import pytest
from support_models import write_package

from citybrain.core.errors import BadMedia, BadTensor, TooLarge
from citybrain.core.tensors import bytes_array
from citybrain.models.predictor import MAX_ROWS, Predictor
from citybrain.models.texts import between, sentences
from citybrain.models.windows import put_together, windows

RATE = 16_000


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A predictor of a tiny model, built once for the whole file."""
    known = {}

    def make(family, **options):
        key = (family, repr(options))
        if key not in known:
            folder = write_package(family, tmp_path_factory.mktemp(family), **options)
            known[key] = Predictor.open(folder)
        return known[key]

    return make


def in_pieces(predictor, request):
    """The pieces of a request, each one's answer, and these joined."""
    pieces = predictor.pieces(request)
    answers = [predictor.infer([piece.inputs])[0] for piece in pieces]
    return pieces, answers, predictor.task.joined(pieces, answers)


def speech(*rows):
    """Recordings with a voice-like hum, silent where the number is negative; in seconds."""
    rng = np.random.default_rng(4)
    found = []
    for row in rows:
        time = [np.arange(round(abs(seconds) * RATE)) / RATE for seconds in row]
        hums = [
            np.sin(2 * np.pi * 170 * t * (1 + 0.2 * np.sin(3 * t))) * (seconds > 0)
            for seconds, t in zip(row, time, strict=True)
        ]
        sound = np.concatenate(hums) * 0.4
        found.append((sound + rng.normal(0, 0.002, len(sound))).astype(np.float32))
    audio = np.zeros((len(found), max(map(len, found))), np.float32)
    for index, row in enumerate(found):
        audio[index, : len(row)] = row
    lengths = np.array([len(row) for row in found], np.int32)
    rates = np.full(len(found), RATE, np.int32)
    return {"audio": audio, "sample_rate": rates, "length": lengths}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("One road is closed. Take the other one!", ["One road is closed.", "Take the other one!"]),
        ("Dr. Li lives at 3.5 km. He walks.", ["Dr. Li lives at 3.5 km.", "He walks."]),
        ("今天天气很好。明天会下大雨！带伞", ["今天天气很好。", "明天会下大雨！带伞"]),
        ("no end", ["no end"]),
        ("a first line\n\na second line", ["a first line", "a second line"]),
        ("Wait... what? Yes.", ["Wait...", "what? Yes."]),
        ("!!!", ["!!!"]),
    ],
)
def test_a_text_is_cut_behind_its_sentences(text, found):
    assert sentences(text) == found
    assert "".join("".join(found).split()) == "".join(text.split()), "nothing is lost"


def test_texts_without_blanks_are_put_together_without_blanks():
    assert (between("one", "two"), between("今天", "明天"), between("", "two")) == (" ", "", "")


def test_long_texts_are_spoken_sentence_by_sentence(opened):
    predictor = opened("vits")
    texts = ["the road is wet. drive slowly today", "hello", "one lamp is broken; call the city"]
    request = {"text": bytes_array([text.encode() for text in texts])}
    pieces, answers, whole = in_pieces(predictor, request)
    assert [(piece.row, piece.inputs["text"][0].decode()) for piece in pieces] == [
        (0, "the road is wet."), (0, "drive slowly today"), (1, "hello"),
        (2, "one lamp is broken;"), (2, "call the city"),
    ]  # fmt: skip
    lengths = [int(answer["length"][0]) for answer in answers]
    assert whole["length"].tolist() == [
        lengths[0] + lengths[1], lengths[2], lengths[3] + lengths[4]
    ]  # fmt: skip
    first = np.concatenate([answers[0]["audio"][0, : lengths[0]], answers[1]["audio"][0]])
    assert np.array_equal(whole["audio"][0, : len(first)], first[: whole["audio"].shape[1]])
    spoken = predictor.task.write(whole)
    assert [round(one.seconds * RATE) for one in spoken] == whole["length"].tolist()
    for spec in predictor.signature.outputs:
        spec.check(whole[spec.name])


def test_a_sentence_that_nobody_can_speak_is_left_out_as_it_is_within_a_text(opened):
    request = {"text": bytes_array(["the road is wet. 道路积水严重了。 call us now".encode()])}
    pieces = opened("vits").pieces(request)
    assert [piece.inputs["text"][0] for piece in pieces] == [b"the road is wet.", b"call us now"]


def test_what_is_wrong_with_a_later_row_is_said_before_the_first_part(opened):
    with pytest.raises(BadTensor, match="Item 1"):
        opened("vits").pieces({"text": bytes_array([b"hello there. you.", "道路".encode()])})


def test_a_cut_lies_in_the_pause():
    sound = speech((9.0, -0.4, 8.0, -0.4, 9.0))["audio"][0]
    (_, first), (begin, end), (last, _) = windows(sound, RATE, 12.0)
    assert 9.0 < first / RATE < 9.4
    assert 17.4 < end / RATE < 17.8
    assert (begin, last) == (first, end)


@pytest.mark.parametrize("seconds", [0.2, 14.9, 15.0, 15.1, 16.0, 44.0, 600.0])
def test_windows_are_never_too_long_and_cover_all(seconds):
    rng = np.random.default_rng(1)
    sound = rng.normal(size=round(seconds * 8_000)).astype(np.float32)
    found = windows(sound, 8_000, 15.0)
    assert [begin for begin, _ in found] == [0, *(end for _, end in found[:-1])]
    assert found[-1][1] == len(sound)
    assert all(0 < end - begin <= 15 * 8_000 for begin, end in found)
    assert len(found) == 1 or min(end - begin for begin, end in found) > 2 * 8_000


def test_a_long_recording_is_heard_window_by_window(opened):
    predictor = opened("wav2vec2")
    request = speech((9.0, -0.4, 9.0), (1.0,))
    pieces, answers, whole = in_pieces(predictor, request)
    assert [piece.row for piece in pieces] == [0, 0, 1]
    assert pieces[0].told["begin"] == 0.0
    assert pieces[0].told["end"] == pieces[1].told["begin"]
    assert pieces[1].told["end"] == 18.4
    texts = [answer["text"][0].decode() for answer in answers]
    assert whole["text"][0].decode() == f"{texts[0]} {texts[1]}".strip()
    assert whole["text"][1].decode() == texts[2]
    sure = [float(answer["confidence"][0]) for answer in answers]
    assert min(sure[:2]) <= whole["confidence"][0] <= max(sure[:2])


def test_a_recording_beyond_what_a_model_hears_at_once_is_heard_in_parts(opened):
    predictor = opened("whisper")
    request = speech((12.0, -0.4, 12.0, -0.4, 12.0))
    with pytest.raises(BadMedia, match="longer than 30 s"):
        raise predictor.infer([request])[0]
    pieces, answers, whole = in_pieces(predictor, request)
    assert len(pieces) == 3
    assert len(whole["text"]) == 1
    assert all(answer["text"][0].decode() in whole["text"][0].decode() for answer in answers)


def test_short_recordings_go_together(opened):
    predictor = opened("wav2vec2")
    request = speech(*([(0.5,)] * 70))
    pieces = predictor.pieces(request)
    assert [(piece.row, len(piece.inputs["audio"]), piece.told) for piece in pieces] == [
        (0, 64, {}), (64, 6, {})
    ]  # fmt: skip


def test_digits_are_put_together_as_they_are_spelled():
    def heard(text, sure):
        return {"text": bytes_array([text.encode()]), "confidence": np.array([sure], np.float32)}

    answers = [heard("119", 0.9), heard("", 0.5), heard("110", 0.9), heard("7", 0.8)]
    found = put_together([0, 0, 0, 1], answers, "")
    assert [text.decode() for text in found["text"]] == ["119110", "7"]
    assert found["confidence"][1] == pytest.approx(0.8)
    assert 0.5 < found["confidence"][0] < 0.9
    assert put_together([0, 0, 0, 1], answers, None)["text"][0] == b"119 110"
    assert put_together([0, 0, 0, 1], answers, "-")["text"][0] == b"119-110"


def test_a_request_is_checked_before_it_is_cut(opened):
    predictor = opened("bert")
    with pytest.raises(BadTensor):
        predictor.pieces({"colour": bytes_array([b"red"])})
    with pytest.raises(TooLarge):
        predictor.pieces({"text": bytes_array([b"a tree fell"] * (MAX_ROWS + 1))})


def test_rows_in_pieces_answer_as_all_together(opened):
    predictor = opened("bert")
    texts = [f"a tree fell on road {n}".encode() for n in range(130)]
    request = {"text": bytes_array(texts)}
    pieces, answers, whole = in_pieces(predictor, request)
    assert [(piece.row, len(piece.inputs["text"])) for piece in pieces] == [
        (0, 64), (64, 64), (128, 2)
    ]  # fmt: skip
    (alone,) = predictor.infer([request])
    assert alone.keys() == whole.keys()
    assert whole["label"].tolist() == alone["label"].tolist()
    np.testing.assert_allclose(whole["probabilities"], alone["probabilities"], rtol=1e-4)
    assert sum(len(next(iter(answer.values()))) for answer in answers) == 130
