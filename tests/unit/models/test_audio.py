"""Sound files are read safely, and features follow one convention."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

from citybrain.core.errors import BadMedia
from citybrain.models import audio


def tone(rate: int = 8_000, seconds: float = 0.5, hertz: float = 440.0) -> np.ndarray:
    time = np.arange(int(rate * seconds)) / rate
    return (0.5 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def file_of(
    samples: np.ndarray, rate: int = 8_000, kind: str = "WAV", sub: str | None = None
) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=sub)
    return file.getvalue()


@pytest.mark.parametrize(("kind", "close"), [("WAV", 1e-3), ("FLAC", 1e-3), ("OGG", 0.1)])
def test_the_three_formats_give_the_same_sound(kind: str, close: float) -> None:
    samples, rate = audio.decode(file_of(tone(), kind=kind))
    assert rate == 8_000
    assert samples.dtype == np.float32
    assert np.abs(samples - tone()).max() < close


def test_channels_are_averaged() -> None:
    both = np.stack([tone(), -tone()], axis=1)
    samples, _ = audio.decode(file_of(both, sub="FLOAT"))
    assert samples.shape == tone().shape
    assert np.abs(samples).max() < 1e-6


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "empty"),
        (b"hello, this is not sound at all", "not a WAV"),
        (b"RIFF" + bytes(100), "not a WAV"),
        (b"fLaC" + bytes(100), "not a WAV"),
        (b"OggS" + bytes(100), "not a WAV"),
        (file_of(tone(), kind="AIFF"), "not a WAV"),
        (file_of(tone()[:0]), "empty"),
        (file_of(np.full(800, np.nan, np.float32), sub="FLOAT"), "NaN"),
        (file_of(np.zeros((800, 9), np.float32)), "8 channels"),
        (file_of(tone(), rate=3_999), "4 to 192 kHz"),
        (file_of(np.zeros(601 * 4_000, np.float32), rate=4_000, kind="FLAC"), "10 minutes"),
        (file_of(tone(seconds=5), kind="FLAC")[:2_000], "cut off|not a WAV"),
        (bytes(audio.MAX_BYTES + 1), "20 MB"),
    ],
)
def test_a_bad_file_is_refused_with_its_item_and_reason(raw: bytes, reason: str) -> None:
    with pytest.raises(BadMedia, match=reason) as caught:
        audio.decode(raw, 3)
    assert caught.value.message.startswith("Item 3: ")


def test_every_cut_of_a_file_either_decodes_or_is_refused() -> None:
    rng = np.random.default_rng(0)
    for kind in ("WAV", "FLAC", "OGG"):
        whole = file_of(tone(), kind=kind)
        for _ in range(40):
            raw = bytearray(whole[: int(rng.integers(1, len(whole)))])
            raw[int(rng.integers(4, max(5, len(raw)))) % len(raw)] ^= 0xFF
            try:
                samples, _ = audio.decode(bytes(raw))
            except BadMedia:
                continue
            assert np.isfinite(samples).all()


def test_resampling_keeps_the_tone_and_the_duration() -> None:
    down = audio.resample(tone(44_100, 1.0), 44_100, 8_000)
    assert down.dtype == np.float32
    assert len(down) == 8_000
    assert np.argmax(np.abs(np.fft.rfft(down))) == 440


def test_frames_are_10_ms_apart_with_an_edge_of_silence() -> None:
    for samples, frames in ((1, 18), (40, 19), (200, 21), (279, 21), (280, 22), (8_000, 118)):
        power = audio.power_spectrum(np.ones(samples, np.float32), 8_000)
        assert power.shape == (frames, 129)
        assert power[:7].max() == 0.0


def test_features_find_the_filter_of_a_tone() -> None:
    filters = audio.mel_filters(8_000, 40)
    centres = np.argmax(filters, axis=0) * 8_000 / 256
    for hertz in (300.0, 1_000.0, 3_000.0):
        power = audio.power_spectrum(tone(hertz=hertz), 8_000)
        found = centres[np.argmax((power @ filters).mean(axis=0))]
        assert abs(found - hertz) < 0.06 * hertz + 20


def test_features_do_not_depend_on_the_level() -> None:
    rng = np.random.default_rng(1)
    sound = (tone() + 0.01 * rng.normal(size=4_000)).astype(np.float32)
    quiet, loud = (audio.log_mel(sound * gain, 8_000, 40) for gain in (0.01, 1e30))
    assert np.abs(quiet - loud).max() < 1e-3


def test_silence_has_finite_features() -> None:
    assert np.isfinite(audio.log_mel(np.zeros(5, np.float32), 8_000, 40)).all()


def test_a_warp_moves_the_filters_and_keeps_the_top() -> None:
    plain, wide = audio.mel_filters(8_000, 40), audio.mel_filters(8_000, 40, 1.15)
    moved = np.argmax(wide[:, 10]) / np.argmax(plain[:, 10])
    assert 1.08 < moved < 1.22
    assert np.flatnonzero(wide[:, -1])[-1] <= 128


def test_padded_features_come_in_steps_with_lengths() -> None:
    batch = audio.padded_features([np.ones((26, 4), np.float32), np.ones((3, 4), np.float32)])
    assert batch["features"].shape == (2, 50, 4)
    assert batch["lengths"].tolist() == [26, 3]
    assert batch["features"][1, 3:].sum() == 0
